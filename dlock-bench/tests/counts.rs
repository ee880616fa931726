//! The counted cost of a pair of acquire and release. Times differ from machine to machine, but
//! these numbers do not, so the bounds hold everywhere. Lower them when a pair becomes cheaper.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dlock_bench::allocations;
use dlock_core::aio::{self, AsyncDatastore};
use dlock_core::{
    AcquireOutcome, Claim, Clock, Datastore, Lock, LockEvent, MemoryDatastore, Store,
};
use dlock_file::FileDatastore;
use dlock_memcache::MemcacheDatastore;
use dlock_redis::RedisDatastore;
use dlock_test_servers::faults::Proxy;
use dlock_test_servers::{MemcachedServer, RedisServer};
use tokio::runtime::Builder;

/// The round trips of a pair, which are also its commands: one to acquire and one to release.
const TRIPS: u64 = 2;
/// Generous, for an overloaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

// The most allocations of a pair on the calling thread: a little above the counted number, since a
// host name may be longer elsewhere. The store in memory shows core alone.
const CORE_ALLOCATIONS: u64 = 4;
const REDIS_ALLOCATIONS: u64 = 4;
const MEMCACHED_ALLOCATIONS: u64 = 10;
const FILE_ALLOCATIONS: u64 = 52;
// An async pair, with all that a runtime of one thread does for it: exactly the counted numbers. It
// has more than a blocking pair, since the futures of the acquire, of the release and of the calls
// in them are boxed: they go on in the background when they are dropped.
const ASYNC_CORE_ALLOCATIONS: u64 = 8;
const ASYNC_REDIS_ALLOCATIONS: u64 = 10;
const ASYNC_MEMCACHED_ALLOCATIONS: u64 = 14;

/// The most polls of all tasks that wait for a lock from one grant to the next.
const HAND_OVER_POLLS: u64 = 5;

/// The most bytes of the future of an acquire on Redis. When thousands begin to wait at once, each
/// leaves a gap of this size between what stays, which the allocator cannot give back.
const ACQUIRE_FUTURE_BYTES: usize = 640;

/// A store on Redis that gives a busy machine time.
fn redis(url: &str) -> RedisDatastore {
    let builder = RedisDatastore::builder(url).expect("a URL of Redis");
    let builder = builder.call_timeout(PATIENCE).connect_timeout(PATIENCE);
    builder.build()
}

/// The same on memcached.
fn memcached(url: &str) -> MemcacheDatastore {
    let builder = MemcacheDatastore::builder(url).expect("a URL of memcached");
    let builder = builder.call_timeout(PATIENCE).connect_timeout(PATIENCE);
    builder.build()
}

/// Acquires and releases. The first acquire may have to wait: a fresh memcached grants nothing for
/// its first seconds.
fn pair(lock: &Lock) {
    let guard = lock
        .acquire_within(PATIENCE)
        .expect("there is no other claimant");
    guard.release().expect("there is no other holder");
}

/// The allocations of a pair after the first one, which opens a connection, starts threads and
/// fills buffers.
fn allocations_of_a_pair(store: impl Into<Store>) -> u64 {
    let lock = Lock::new(store, "counted");
    pair(&lock);
    // The least of several, since now and then a map grows.
    let counts = (0..20).map(|_| allocations::during(|| pair(&lock)).0);
    counts.min().unwrap_or_default()
}

/// An async pair, as [`pair`].
async fn async_pair(lock: &aio::Lock) {
    let guard = lock.acquire_within(PATIENCE).await;
    let guard = guard.expect("there is no other claimant");
    guard.release().await.expect("there is no other holder");
}

/// The allocations of an async pair on a runtime of one thread, as [`allocations_of_a_pair`].
fn allocations_of_an_async_pair(store: impl Into<aio::Store>) -> u64 {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let lock = aio::Lock::new(store, "counted");
    runtime.block_on(async_pair(&lock));
    let counted = || allocations::during(|| runtime.block_on(async_pair(&lock))).0;
    (0..20).map(|_| counted()).min().unwrap_or_default()
}

/// How many locks are held, and how many tasks wait.
const MANY: usize = 10_000;
/// The most bytes of a held lock, with its guard.
const HELD_BYTES: usize = 1024;
/// The most bytes of a task that waits, with tokio's part of it.
const WAITING_BYTES: usize = 4096;

/// The bytes that each of many held locks keeps, on a runtime of one thread.
fn bytes_of_a_held_lock(store: impl Into<aio::Store>) -> usize {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let store = store.into();
    // The first one starts threads and opens connections.
    let first = runtime.block_on(aio::Lock::new(&store, "first").try_acquire());
    let hold_many = async {
        let mut guards = Vec::with_capacity(MANY);
        for number in 0..MANY {
            let lock = aio::Lock::new(&store, format!("counted-{number}"));
            guards.push(lock.try_acquire().await.expect("nobody else wants it"));
        }
        guards
    };
    let (bytes, guards) = allocations::bytes_kept(|| runtime.block_on(hold_many));
    drop((guards, first));
    bytes / MANY
}

/// The bytes that each of many tasks keeps while it waits for one lock, on a runtime of one thread.
/// `at_once` is the number of tasks that begin together.
fn bytes_of_a_waiting_task(datastore: impl AsyncDatastore + 'static, at_once: usize) -> usize {
    let waiting = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&waiting);
    let observer = move |event: &LockEvent<'_>| {
        count.fetch_add(
            matches!(event, LockEvent::Waiting { .. }).into(),
            Ordering::Relaxed,
        );
    };
    let store = aio::Store::builder(datastore).observer(observer).build();
    let lock = aio::Lock::new(&store, "counted");
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let guard = runtime
        .block_on(lock.try_acquire())
        .expect("nobody else wants it");
    let wait = async |wanted: usize| {
        for _ in waiting.load(Ordering::Relaxed)..wanted {
            let lock = lock.clone();
            tokio::spawn(async move { lock.acquire().await.map(drop) });
        }
        let start = Instant::now();
        while waiting.load(Ordering::Relaxed) < wanted {
            assert!(start.elapsed() < PATIENCE * 6, "{waiting:?} tasks wait");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // The first ones start what wakes waiters.
    runtime.block_on(wait(100));
    let before = allocations::balance();
    for wanted in (at_once..=MANY).step_by(at_once) {
        runtime.block_on(wait(100 + wanted));
    }
    // The memory for a burst of requests is given back soon.
    let bytes = || allocations::balance().wrapping_sub(before) / MANY;
    let start = Instant::now();
    while bytes() > WAITING_BYTES && start.elapsed() < PATIENCE {
        runtime.block_on(tokio::time::sleep(Duration::from_millis(10)));
    }
    let bytes = bytes();
    drop(runtime);
    drop(guard);
    bytes
}

/// The polls of waiting tasks from one grant to the next, while `waiters` tasks wait for one lock.
fn polls_of_a_hand_over(server: &RedisServer, waiters: usize) -> u64 {
    const GRANTS: usize = 20;
    let (polls, granted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let datastore = redis(&server.url());
    let lock = aio::Lock::new(datastore, "counted");
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    let hand_over = async {
        for _ in 0..waiters {
            let (lock, polls, granted) = (lock.clone(), Arc::clone(&polls), Arc::clone(&granted));
            tokio::spawn(async move {
                loop {
                    let mut acquire = lock.acquire();
                    let guard = poll_fn(|context| {
                        polls.fetch_add(1, Ordering::Relaxed);
                        Pin::new(&mut acquire).poll(context)
                    });
                    let guard = guard.await.expect("Redis does not fail");
                    granted.fetch_add(1, Ordering::Relaxed);
                    guard.release().await.expect("there is no other holder");
                }
            });
        }
        let until = async |count: usize| {
            let start = Instant::now();
            while granted.load(Ordering::Relaxed) < count {
                assert!(start.elapsed() < PATIENCE * 6, "{granted:?} grants");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // All of them have queued by the time the first one is granted the lock again. Some turns
        // are measured, of which the least counts: if the server does not answer a heartbeat in
        // time, all waiters claim.
        until(2 * waiters).await;
        let mut least = usize::MAX;
        for _ in 0..10 {
            let before = (
                polls.load(Ordering::Relaxed),
                granted.load(Ordering::Relaxed),
            );
            until(before.1 + GRANTS).await;
            let grants = granted.load(Ordering::Relaxed) - before.1;
            least = least.min((polls.load(Ordering::Relaxed) - before.0) / grants);
        }
        least
    };
    runtime.block_on(hand_over) as u64
}

/// The bytes that the store in memory keeps for each of many keys, as a server does elsewhere.
fn bytes_of_a_record() -> usize {
    let store = MemoryDatastore::new();
    let claim = |number| {
        let key = format!("dlock:counted-{number}");
        let claim = Claim::new(&*key, &Clock::BOOTTIME, PATIENCE).expect("a valid claim");
        let granted = Datastore::acquire(&store, &claim, PATIENCE).expect("memory does not fail");
        assert!(matches!(granted, AcquireOutcome::Granted(_)));
    };
    allocations::bytes_kept(|| (0..MANY).for_each(claim)).0 / MANY
}

#[test]
fn a_held_async_lock_keeps_at_most_a_kilobyte() {
    let bytes = bytes_of_a_held_lock(MemoryDatastore::new()) - bytes_of_a_record();
    assert!((64..=HELD_BYTES).contains(&bytes), "in memory {bytes}");
    let server = RedisServer::start();
    let bytes = bytes_of_a_held_lock(redis(&server.url()));
    assert!((64..=HELD_BYTES).contains(&bytes), "on Redis {bytes}");
}

#[test]
fn a_waiting_task_keeps_at_most_four_kilobytes() {
    for at_once in [100, MANY] {
        let bytes = bytes_of_a_waiting_task(MemoryDatastore::new(), at_once);
        assert!((64..=WAITING_BYTES).contains(&bytes), "in memory {bytes}");
        let server = RedisServer::start();
        let bytes = bytes_of_a_waiting_task(redis(&server.url()), at_once);
        assert!((64..=WAITING_BYTES).contains(&bytes), "on Redis {bytes}");
    }
}

#[test]
fn the_future_of_an_acquire_on_redis_is_small() {
    let store = RedisDatastore::open("redis://127.0.0.1/").unwrap();
    let claim = Claim::new("dlock:counted", &Clock::BOOTTIME, PATIENCE).unwrap();
    let bytes = size_of_val(&AsyncDatastore::acquire(&store, &claim, PATIENCE));
    assert!(bytes <= ACQUIRE_FUTURE_BYTES, "{bytes}");
}

#[test]
fn a_hand_over_polls_no_more_tasks_if_more_of_them_wait() {
    let server = RedisServer::start();
    let (few, many) = (
        polls_of_a_hand_over(&server, 10),
        polls_of_a_hand_over(&server, 300),
    );
    // Both are means, rounded down.
    assert!(
        many <= few + 1 && few <= HAND_OVER_POLLS,
        "{few} and {many}"
    );
}

#[test]
fn an_async_pair_in_memory_makes_few_allocations() {
    let count = allocations_of_an_async_pair(MemoryDatastore::new());
    assert!(count <= ASYNC_CORE_ALLOCATIONS, "{count}");
}

#[test]
fn an_async_pair_on_redis_makes_few_allocations() {
    let server = RedisServer::start();
    let count = allocations_of_an_async_pair(redis(&server.url()));
    assert!(count <= ASYNC_REDIS_ALLOCATIONS, "{count}");
}

#[test]
fn an_async_pair_on_memcached_makes_few_allocations() {
    let server = MemcachedServer::start();
    let count = allocations_of_an_async_pair(memcached(&server.url()));
    assert!(count <= ASYNC_MEMCACHED_ALLOCATIONS, "{count}");
}

#[test]
fn a_pair_in_memory_makes_few_allocations() {
    let count = allocations_of_a_pair(MemoryDatastore::new());
    assert!(count <= CORE_ALLOCATIONS, "{count}");
}

#[test]
fn a_pair_on_redis_makes_few_allocations() {
    let server = RedisServer::start();
    let count = allocations_of_a_pair(redis(&server.url()));
    assert!(count <= REDIS_ALLOCATIONS, "{count}");
}

#[test]
fn a_pair_on_memcached_makes_few_allocations() {
    let server = MemcachedServer::start();
    let count = allocations_of_a_pair(memcached(&server.url()));
    assert!(count <= MEMCACHED_ALLOCATIONS, "{count}");
}

#[test]
fn a_pair_in_a_folder_makes_few_allocations() {
    let folder = tempfile::tempdir().unwrap();
    let count = allocations_of_a_pair(FileDatastore::open(folder.path()).unwrap());
    assert!(count <= FILE_ALLOCATIONS, "{count}");
}

#[test]
fn a_pair_on_redis_is_two_commands_in_two_round_trips() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.address());
    let url = format!("redis://{}/", proxy.address());
    let lock = Lock::new(redis(&url), "counted");
    pair(&lock);
    server.reset_calls();
    proxy.reset_counts();

    pair(&lock);

    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.round_trips), (0, TRIPS));
    let calls = server.calls();
    // The server also counts the commands that scripts call. Only clients send these.
    let sent = |names: &[&str]| -> u64 { names.iter().filter_map(|name| calls.get(*name)).sum() };
    assert_eq!(sent(&["evalsha", "eval", "evalsha_ro", "eval_ro"]), TRIPS);
    assert_eq!(
        sent(&[
            "subscribe",
            "ping",
            "auth",
            "select",
            "hello",
            "client|setinfo"
        ]),
        0
    );
}

#[test]
fn a_pair_on_memcached_is_two_commands_and_one_more_if_it_is_held_for_long() {
    let server = MemcachedServer::start();
    let proxy = Proxy::to(server.address());
    let url = format!("memcache://{}", proxy.address());
    let lock = Lock::new(memcached(&url), "counted");
    pair(&lock);

    let (trips, sent) = until(|| {
        let before = commands(&server);
        proxy.reset_counts();
        let start = Instant::now();
        pair(&lock);
        // On a busy machine it may have been held for long.
        let is_quick = start.elapsed() < Duration::from_millis(150);
        let counted = (proxy.counts().round_trips, commands(&server) - before);
        is_quick.then_some(counted)
    });
    assert_eq!((trips, sent), (TRIPS, TRIPS));

    let (before, start) = (commands(&server), Instant::now());
    let guard = lock.try_acquire().unwrap();
    while commands(&server) - before < 2 && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
    }
    // The lease is confirmed once, and not again.
    thread::sleep(Duration::from_millis(500));
    assert_eq!(commands(&server) - before, 2);
    guard.release().unwrap();
    assert_eq!(commands(&server) - before, TRIPS + 1);
}

/// Calls `measure` until it has a result.
fn until<T>(mut measure: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(result) = measure() {
            return result;
        }
        assert!(start.elapsed() < PATIENCE * 6, "it is never quick");
    }
}

/// The number of commands on keys that a memcached has carried out.
fn commands(server: &MemcachedServer) -> u64 {
    let names = [
        "cmd_get",
        "cmd_set",
        "cmd_touch",
        "delete_hits",
        "delete_misses",
    ];
    let stats = server.stats();
    let count = |name: &str| stats.get(name)?.parse::<u64>().ok();
    names.into_iter().filter_map(count).sum()
}
