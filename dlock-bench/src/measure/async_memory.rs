//! Measures the memory of async locks that are held, and of tasks that wait for one.

use std::env;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dlock_core::aio::{Lock, Store};
use dlock_core::{LockEvent, MemoryDatastore};
use dlock_redis::RedisDatastore;
use dlock_test_servers::RedisServer;
use rustix::param::page_size;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Failure;
use crate::bench::Bench;
use crate::report::{Section, Table, three_digits};
use crate::series::float;
use crate::tasks::Kind;

const COUNT: usize = 10_000;
/// Stands for the store in memory where a URL is expected.
const MEMORY: &str = "memory:";
const HELD: &str = "held";
const WAITING: &str = "waiting";
/// After this time all tasks are queued, and the buffers for their requests are given back.
const UNTIL_AT_REST: Duration = Duration::from_secs(2);
/// A wait for all tasks to queue. Only a process that hangs takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let count = options.either(COUNT, 100);
    let mut rows = Vec::new();
    for (name, is_redis) in [("memory", false), ("Redis", true)] {
        for kind in Kind::ALL {
            let each = |what| -> Result<String, Failure> {
                // A process that ends leaves its locks behind, so each has a server of its own.
                let server = is_redis.then(RedisServer::start);
                let url = server.as_ref().map_or(MEMORY.to_owned(), RedisServer::url);
                let bytes = in_a_process(what, &url, kind, count)?;
                Ok(format!("{} bytes", three_digits(bytes)))
            };
            rows.push(vec![
                format!("{name}, {}", kind.name()),
                each(HELD)?,
                each(WAITING)?,
            ]);
        }
    }
    let head = ["", "a held lock", "a waiting task"];
    Ok(Section {
        title: "Memory of async locks".to_owned(),
        text: format!(
            "By how much the resident memory of a process grows, for each of {count} locks that it \
             holds, each with a key of its own, and for each of {count} tasks that wait for one \
             lock, all of which begin at once. It is measured {} s after the last one began, and \
             includes tokio's task, and what was needed only for a moment and is not given back.",
            UNTIL_AT_REST.as_secs()
        ),
        tables: vec![Table {
            caption: format!("{count} of each"),
            head: head.map(str::to_owned).to_vec(),
            rows,
        }],
        ..Section::default()
    })
}

/// The bytes of each, in a fresh process: this program.
fn in_a_process(what: &str, url: &str, kind: Kind, count: usize) -> Result<f64, Failure> {
    let output = Command::new(env::current_exe()?)
        .args(["memory", what, url, kind.name(), &count.to_string()])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    match output.status.success() {
        true => Ok(text.trim().parse()?),
        false => Err(format!(
            "a process ended: {}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into()),
    }
}

/// `memory held|waiting URL RUNTIME COUNT`: measures in this process, and prints the bytes of each.
pub(crate) fn child(words: &[String]) -> Result<(), Failure> {
    let [what, url, kind, count] = words else {
        return Err("started by dlock-bench itself".into());
    };
    let runtime = Kind::of_name(kind)?.build()?;
    let count: usize = count.parse()?;
    let bytes = runtime.block_on(async {
        match &**what {
            HELD => held(url, count).await,
            WAITING => waiting(url, count).await,
            _ => Err(format!("cannot measure {what:?}").into()),
        }
    })?;
    println!("{bytes}");
    // Ten thousand releases would measure nothing more.
    std::process::exit(0);
}

/// Holds this many locks.
async fn held(url: &str, count: usize) -> Result<f64, Failure> {
    let waiting = Arc::new(AtomicUsize::new(0));
    let store = open(url, &waiting)?;
    // The first lock starts threads and opens connections.
    let mut guards = vec![Lock::new(&store, "first").try_acquire().await?];
    let before = resident()?;
    guards.reserve_exact(count);
    for number in 0..count {
        let lock = Lock::new(&store, format!("job-{number}"));
        guards.push(lock.try_acquire().await?);
    }
    let after = resident()?;
    drop(guards);
    Ok(each(before, after, count))
}

/// Lets this many tasks wait for one lock.
async fn waiting(url: &str, count: usize) -> Result<f64, Failure> {
    let waiting = Arc::new(AtomicUsize::new(0));
    let store = open(url, &waiting)?;
    let lock = Lock::new(&store, "job");
    let guard = lock.try_acquire().await?;
    let mut tasks = JoinSet::new();
    let mut spawn_until = async |wanted: usize| {
        while tasks.len() < wanted {
            let lock = lock.clone();
            tasks.spawn(async move { lock.acquire().await.map(drop) });
        }
        while waiting.load(Ordering::Relaxed) < wanted {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let all = async {
        // The first waiter starts what wakes waiters.
        spawn_until(1).await;
        let before = resident()?;
        spawn_until(count + 1).await;
        sleep(UNTIL_AT_REST).await;
        Ok(each(before, resident()?, count))
    };
    let bytes = tokio::time::timeout(PATIENCE, all).await?;
    drop(guard);
    bytes
}

/// Opens a store that counts its waiters.
fn open(url: &str, waiting: &Arc<AtomicUsize>) -> Result<Store, Failure> {
    let waiting = Arc::clone(waiting);
    let observer = move |event: &LockEvent<'_>| {
        if let LockEvent::Waiting { .. } = event {
            waiting.fetch_add(1, Ordering::Relaxed);
        }
    };
    Ok(match url {
        MEMORY => Store::builder(MemoryDatastore::new())
            .observer(observer)
            .build(),
        _ => Store::builder(RedisDatastore::open(url)?)
            .observer(observer)
            .build(),
    })
}

fn each(before: usize, after: usize, count: usize) -> f64 {
    float(after.saturating_sub(before) as u64) / float(count as u64)
}

/// The resident memory of this process, in bytes.
fn resident() -> Result<usize, Failure> {
    let sizes = fs::read_to_string("/proc/self/statm")?;
    let pages = sizes
        .split(' ')
        .nth(1)
        .ok_or("an unexpected line in /proc")?;
    Ok(pages.parse::<usize>()? * page_size())
}
