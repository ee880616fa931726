//! Measures the cost of keeping ten thousand locks.

use std::collections::HashMap;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{Lock, LockEvent, LockOptions, Observer, Store};
use dlock_redis::RedisDatastore;
use dlock_test_servers::{RedisServer, Reply};

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
    // Nothing waits here, so one placement is enough.
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
        text: "One process holds many locks on one Redis, and renews each every third of its time to live. The table \
               shows the longest time between two renewals of the same lock, and counts the renewals that failed or came \
               when only the grace period was left."
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
    let counts = Arc::new(Mutex::new(Counts::default()));
    let store = Store::builder(RedisDatastore::open(&server.url())?)
        .observer(CountingObserver(Arc::clone(&counts)))
        .build();
    let lock_options = LockOptions::builder().ttl(ttl);
    let acquire = |number: usize| -> Result<_, Failure> {
        let id = format!("kept-{number}");
        Ok(Lock::with_options(&store, id, lock_options.clone())?.try_acquire()?)
    };
    let held = (0..locks).map(acquire).collect::<Result<Vec<_>, _>>()?;
    // Wait until each was renewed once.
    thread::sleep(ttl / 2);
    *lock(&counts) = Counts::default();
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
    let counts = std::mem::take(&mut *lock(&counts));
    drop(held);
    Ok(vec![
        locks.to_string(),
        format!("{ttl:?}"),
        three_digits(float(counts.renewals) / lasted),
        three_digits(float(trips) / lasted),
        format!("{} s", three_digits(counts.longest.as_secs_f64())),
        format!("{}, {}, {}", counts.failed, counts.at_risk, counts.lost),
        ours,
        theirs,
    ])
}

/// The number of reads that the server has made from clients.
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
struct Counts {
    renewals: u64,
    failed: u64,
    at_risk: u64,
    lost: u64,
    last: HashMap<String, Instant>,
    longest: Duration,
}

struct CountingObserver(Arc<Mutex<Counts>>);

impl Observer for CountingObserver {
    fn on(&self, event: &LockEvent<'_>) {
        let mut counts = lock(&self.0);
        match event {
            LockEvent::Renewed { key, .. } => {
                counts.renewals += 1;
                let now = Instant::now();
                if let Some(before) = counts.last.get_mut(*key) {
                    let between = now - std::mem::replace(before, now);
                    counts.longest = counts.longest.max(between);
                } else {
                    counts.last.insert((*key).to_owned(), now);
                }
            }
            LockEvent::RenewalFailed { .. } => counts.failed += 1,
            LockEvent::AtRisk { .. } => counts.at_risk += 1,
            LockEvent::Lost { .. } => counts.lost += 1,
            _ => {}
        }
    }
}

fn lock(counts: &Mutex<Counts>) -> std::sync::MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}
