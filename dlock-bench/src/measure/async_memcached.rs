//! Pairs of many tasks on memcached, each with a lock of its own, beside threads that share the
//! blocking store's pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{Lock, Store, aio};
use dlock_memcache::MemcacheDatastore;
use dlock_test_servers::MemcachedServer;

use crate::Failure;
use crate::bench::Bench;
use crate::options::Options;
use crate::report::{Section, Table, three_digits};
use crate::series::{Spread, float};
use crate::servers::wait_until_it_grants;
use crate::tasks::{Count, Kind, Pair, Running, pairs, process_time};

/// How many tasks at a time.
const TASKS: [usize; 4] = [1, 16, 256, 1024];
/// The most threads that stand beside them: more of them wait for each other.
const MOST_THREADS: usize = 16;

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let server = MemcachedServer::start();
    wait_until_it_grants(&server)?;
    let mut tables = Vec::new();
    for kind in Kind::ALL {
        for tasks in options.either(&TASKS[..], &TASKS[..2]) {
            tables.push(table(options, &server, kind, *tasks)?);
        }
    }
    Ok(Section {
        title: "Async pairs on memcached".to_owned(),
        text: format!(
            "Tasks acquire and release, each a lock of its own that nobody else wants, over the one \
             connection of their runtime. Beside them are threads with blocking locks, as many as \
             tasks and at most {MOST_THREADS}, each with a connection. *client* is the time on a \
             core for each pair, of all threads of the process."
        ),
        tables,
        charts: Vec::new(),
    })
}

fn table(
    options: &Options,
    server: &MemcachedServer,
    kind: Kind,
    tasks: usize,
) -> Result<Table, Failure> {
    let runtime = kind.build()?;
    let pair = of_tasks(server, tasks)?;
    let threads = tasks.min(MOST_THREADS);
    let locks = of_threads(server, threads)?;
    let lasts = options.turn() * 3 / 2;
    let (mut ours, mut blocking) = (Vec::new(), Vec::new());
    for round in 0..=options.rounds() {
        let count = pairs(&runtime, &pair, tasks, lasts)?;
        let beside = turn(&locks, lasts)?;
        // The first round warms up.
        if round > 0 {
            ours.push(count);
            blocking.push(beside);
        }
    }
    let row = |name: String, counts: &[Count]| {
        let median = |of: fn(&Count) -> f64| {
            three_digits(Spread::of(counts.iter().map(of).collect()).median)
        };
        let ratio = |of: fn(&Count) -> f64| {
            let rounds = counts.iter().zip(&blocking);
            Spread::of(rounds.map(|(own, base)| of(own) / of(base)).collect()).to_string()
        };
        vec![
            name,
            median(rate),
            ratio(rate),
            format!("{} µs", median(client)),
            ratio(client),
        ]
    };
    let head = [
        "",
        "per second",
        "rate / blocking",
        "client",
        "client / blocking",
    ];
    let (task, thread) = (plural(tasks, "task"), plural(threads, "thread"));
    Ok(Table {
        caption: format!("memcached, {}, {task}", kind.name()),
        head: head.map(str::to_owned).to_vec(),
        rows: vec![
            row(format!("`dlock::aio`, {task}"), &ours),
            row(format!("blocking `Lock`, {thread}"), &blocking),
        ],
    })
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Pairs per second.
fn rate(count: &Count) -> f64 {
    float(count.pairs) / count.elapsed.as_secs_f64()
}

/// Microseconds on a core for each pair.
fn client(count: &Count) -> f64 {
    count.client.as_secs_f64() * 1e6 / float(count.pairs.max(1))
}

fn of_tasks(server: &MemcachedServer, tasks: usize) -> Result<Pair, Failure> {
    let store = aio::Store::new(MemcacheDatastore::open(&server.url())?);
    let lock = |task| aio::Lock::new(&store, format!("task-{task}"));
    let locks: Arc<Vec<aio::Lock>> = Arc::new((0..tasks).map(lock).collect());
    Ok(Arc::new(move |task: usize| -> Running {
        let locks = Arc::clone(&locks);
        Box::pin(async move {
            locks[task].try_acquire().await?.release().await?;
            Ok(())
        })
    }))
}

fn of_threads(server: &MemcachedServer, threads: usize) -> Result<Vec<Lock>, Failure> {
    let store = MemcacheDatastore::builder(&server.url())?
        .max_connections(u32::try_from(threads)?)
        .build();
    let store = Store::new(store);
    let lock = |thread| Lock::new(&store, format!("thread-{thread}"));
    Ok((0..threads).map(lock).collect())
}

/// Lets a thread for each lock make pairs for about this long.
fn turn(locks: &[Lock], lasts: Duration) -> Result<Count, Failure> {
    let pairs = AtomicU64::new(0);
    let client = process_time();
    let start = Instant::now();
    let end = start + lasts;
    let run = |lock: &Lock| -> Result<(), Failure> {
        while Instant::now() < end {
            lock.try_acquire()?.release()?;
            pairs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let run = &run;
        let begin = |lock| scope.spawn(move || run(lock));
        let threads: Vec<_> = locks.iter().map(begin).collect();
        let mut joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        joined.try_for_each(|thread| thread.map_err(|_| "a thread panicked")?)
    })?;
    Ok(Count {
        pairs: pairs.load(Ordering::Relaxed),
        elapsed: start.elapsed(),
        client: process_time() - client,
    })
}
