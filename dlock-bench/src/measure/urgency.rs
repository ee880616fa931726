//! Measures whether a short lease survives beside tens of thousands of long ones in one store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{Datastore, Lock, LockEvent, LockGuard, LockOptions, Observer, Store};
use dlock_file::FileDatastore;
use dlock_redis::RedisDatastore;
use dlock_test_servers::RedisServer;

use crate::Failure;
use crate::bench::Bench;
use crate::options::Options;
use crate::report::{Section, Table, three_digits};

const SHORT: Duration = Duration::from_secs(1);

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let server = RedisServer::start();
    let folder = tempfile::tempdir()?;
    let redis = RedisDatastore::open(&server.url())?;
    let file = FileDatastore::open(folder.path())?;
    let rows = vec![
        row("Redis", redis, options)?,
        row("a folder", file, options)?,
    ];
    let head = [
        "store",
        "long leases",
        "their time to live",
        "watched for",
        "renewals of the short one",
        "longest time between two",
        "short ones lost",
        "long ones lost",
    ];
    Ok(Section {
        title: "A short lease beside many long ones".to_owned(),
        text: format!(
            "One lease of {SHORT:?} and many long ones in one store of one process, all renewed. \
             The short one is renewed every third of a second if nothing is in its way."
        ),
        tables: vec![Table {
            caption: "One store, many leases".to_owned(),
            head: head.map(str::to_owned).to_vec(),
            rows,
        }],
        ..Section::default()
    })
}

fn row(
    name: &str,
    store: impl Datastore + 'static,
    options: &Options,
) -> Result<Vec<String>, Failure> {
    let (locks, ttl) = options.either(
        (50_000, Duration::from_secs(30)),
        (300, Duration::from_secs(3)),
    );
    let renewals = Arc::new(Renewals::default());
    let store = Store::builder(store)
        .observer(RenewalObserver(Arc::clone(&renewals)))
        .build();
    let held = |id: String, ttl: Duration| -> Result<LockGuard, Failure> {
        let options = LockOptions::builder().ttl(ttl);
        Ok(Lock::with_options(&store, id, options)?.try_acquire()?)
    };
    let long = (0..locks)
        .map(|number| held(format!("long-{number}"), ttl))
        .collect::<Result<Vec<_>, _>>()?;
    let short = held("short".to_owned(), SHORT)?;
    renewals.since(Instant::now());
    thread::sleep(ttl);
    let lost = long.iter().filter(|guard| !guard.is_valid()).count();
    let row = vec![
        name.to_owned(),
        locks.to_string(),
        format!("{ttl:?}"),
        format!("{ttl:?}"),
        renewals.renewals.load(Ordering::SeqCst).to_string(),
        format!("{} s", three_digits(renewals.longest().as_secs_f64())),
        usize::from(!short.is_valid()).to_string(),
        lost.to_string(),
    ];
    // Releases are not measured.
    drop((short, long));
    Ok(row)
}

/// The renewals of the short lease.
#[derive(Default)]
struct Renewals {
    renewals: AtomicU64,
    last: std::sync::Mutex<Option<(Instant, Duration)>>,
}

impl Renewals {
    fn since(&self, start: Instant) {
        self.renewals.store(0, Ordering::SeqCst);
        *self.last() = Some((start, Duration::ZERO));
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Duration)>> {
        self.last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn longest(&self) -> Duration {
        self.last().map_or(Duration::ZERO, |(_, longest)| longest)
    }
}

struct RenewalObserver(Arc<Renewals>);

impl Observer for RenewalObserver {
    fn on(&self, event: &LockEvent<'_>) {
        let LockEvent::Renewed { key, .. } = event else {
            return;
        };
        if !key.ends_with(":short") {
            return;
        }
        self.0.renewals.fetch_add(1, Ordering::SeqCst);
        if let Some((before, longest)) = &mut *self.0.last() {
            let now = Instant::now();
            *longest = (*longest).max(now - *before);
            *before = now;
        }
    }
}
