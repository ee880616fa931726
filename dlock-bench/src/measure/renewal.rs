//! What it costs to keep ten thousand locks.

use std::collections::HashMap;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{Lock, LockEvent, LockOptions, Observer, Store};
use dlock_redis::RedisDatastore;
use dlock_testkit::servers::{RedisServer, Reply};

use crate::Failure;
use crate::bench::Bench;
use crate::cores::Cores;
use crate::machine::cpu_time;
use crate::options::Options;
use crate::report::{Section, Table, three_digits};
use crate::series::float;

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let server = RedisServer::start();
    // Nothing waits here, so where it runs makes no difference that is worth the time.
    let cores = *Cores::both()?.last().ok_or("no core to run on")?;
    cores.pin_server(server.pid())?;
    let row = cores.on_client(|| held_for_a_while(options, &server))?;
    let head = [
        "locks",
        "time to live",
        "renewals per second",
        "round trips per second",
        "longest time between two",
        "failed, at risk, lost",
        "client's share of a core",
        "server's share of a core",
    ];
    Ok(Section {
        title: "Renewal of many locks".to_owned(),
        text: "Locks of one process on one Redis, each renewed every third of its time to live, all the while counted: the times between two \
               renewals of the same lock, and the renewals that failed or came when only the grace period was left."
            .to_owned(),
        tables: vec![Table {
            caption: format!("Locks kept by one process, {}", cores.name),
            head: head.map(str::to_owned).to_vec(),
            rows: vec![row],
        }],
        ..Section::default()
    })
}

fn held_for_a_while(options: &Options, server: &RedisServer) -> Result<Vec<String>, Failure> {
    let (locks, ttl) = options.either(
        (10_000, Duration::from_secs(30)),
        (300, Duration::from_secs(1)),
    );
    let seen = Arc::new(Mutex::new(Seen::default()));
    let store = Store::builder(RedisDatastore::connect(&server.url())?)
        .observer(Watcher(Arc::clone(&seen)))
        .build();
    let lock_options = LockOptions::default().with_ttl(ttl);
    let acquire = |number: usize| -> Result<_, Failure> {
        let id = format!("kept-{number}");
        Ok(Lock::with_options(&store, id, lock_options.clone())?.try_acquire()?)
    };
    let held = (0..locks).map(acquire).collect::<Result<Vec<_>, _>>()?;
    // Until each was renewed once.
    thread::sleep(ttl / 2);
    *lock(&seen) = Seen::default();
    let (start, trips) = (Instant::now(), trips(server)?);
    let (ours, theirs) = (cpu_time(process::id())?, cpu_time(server.pid())?);
    thread::sleep(ttl);
    let lasted = start.elapsed().as_secs_f64();
    let share = |from: Duration, pid| -> Result<String, Failure> {
        let busy = (cpu_time(pid)? - from).as_secs_f64();
        Ok(format!("{} %", three_digits(busy / lasted * 100.0)))
    };
    let (ours, theirs) = (share(ours, process::id())?, share(theirs, server.pid())?);
    let trips = self::trips(server)? - trips;
    let seen = std::mem::take(&mut *lock(&seen));
    drop(held);
    Ok(vec![
        locks.to_string(),
        format!("{ttl:?}"),
        three_digits(float(seen.renewals) / lasted),
        three_digits(float(trips) / lasted),
        format!("{} s", three_digits(seen.longest.as_secs_f64())),
        format!("{}, {}, {}", seen.failed, seen.at_risk, seen.lost),
        ours,
        theirs,
    ])
}

/// How many times the server has read from a client.
fn trips(server: &RedisServer) -> Result<u64, Failure> {
    let Reply::Text(stats) = server.command(["INFO", "stats"]) else {
        return Err("no statistics from Redis".into());
    };
    let reads = stats
        .lines()
        .find_map(|line| line.strip_prefix("total_reads_processed:"));
    Ok(reads
        .ok_or("no count of reads from Redis")?
        .trim()
        .parse()?)
}

#[derive(Default)]
struct Seen {
    renewals: u64,
    failed: u64,
    at_risk: u64,
    lost: u64,
    last: HashMap<String, Instant>,
    longest: Duration,
}

struct Watcher(Arc<Mutex<Seen>>);

impl Observer for Watcher {
    fn on(&self, event: &LockEvent<'_>) {
        let mut seen = lock(&self.0);
        match event {
            LockEvent::Renewed { key, .. } => {
                seen.renewals += 1;
                let now = Instant::now();
                if let Some(before) = seen.last.get_mut(*key) {
                    let between = now - std::mem::replace(before, now);
                    seen.longest = seen.longest.max(between);
                } else {
                    seen.last.insert((*key).to_owned(), now);
                }
            }
            LockEvent::RenewalFailed { .. } => seen.failed += 1,
            LockEvent::AtRisk { .. } => seen.at_risk += 1,
            LockEvent::Lost { .. } => seen.lost += 1,
            _ => {}
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
