//! What a pair of acquire and release costs, counted. A clock says something else on each machine; these numbers do not, so they are bounds
//! that hold everywhere. Whoever makes a pair cheaper lowers them.

use std::thread;
use std::time::{Duration, Instant};

use dlock_bench::allocations;
use dlock_core::{Lock, MemoryDatastore, Store};
use dlock_file::FileDatastore;
use dlock_memcache::MemcacheDatastore;
use dlock_redis::RedisDatastore;
use dlock_testkit::faults::Proxy;
use dlock_testkit::servers::{MemcachedServer, RedisServer};

/// Round trips of a pair, and so commands: one to acquire and one to release.
const TRIPS: u64 = 2;
/// For a machine with more work than cores.
const PATIENCE: Duration = Duration::from_secs(20);

// Allocations of a pair on the calling thread: a little above what was counted, since a name may be longer elsewhere. In memory it is core alone.
const CORE_ALLOCATIONS: u64 = 4;
const REDIS_ALLOCATIONS: u64 = 4;
const MEMCACHED_ALLOCATIONS: u64 = 10;
const FILE_ALLOCATIONS: u64 = 52;

/// Acquires and releases; a fresh memcached grants nothing for its first seconds.
fn pair(lock: &Lock) {
    let guard = lock.acquire_within(PATIENCE).expect("nobody else wants it");
    guard.release().expect("nobody else had it");
}

/// Allocations of a pair, but for the first one, which opens a connection, starts threads and fills buffers.
fn allocations_of_a_pair(store: impl Into<Store>) -> u64 {
    let lock = Lock::new(store, "counted");
    pair(&lock);
    // The least of some: now and then a map grows.
    let counts = (0..20).map(|_| allocations::during(|| pair(&lock)).0);
    counts.min().unwrap_or_default()
}

#[test]
fn a_pair_in_memory_makes_few_allocations() {
    let count = allocations_of_a_pair(MemoryDatastore::new());
    assert!(count <= CORE_ALLOCATIONS, "{count}");
}

#[test]
fn a_pair_on_redis_makes_few_allocations() {
    let server = RedisServer::start();
    let count = allocations_of_a_pair(RedisDatastore::connect(&server.url()).unwrap());
    assert!(count <= REDIS_ALLOCATIONS, "{count}");
}

#[test]
fn a_pair_on_memcached_makes_few_allocations() {
    let server = MemcachedServer::start();
    let count = allocations_of_a_pair(MemcacheDatastore::connect(&server.url()).unwrap());
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
    let lock = Lock::new(RedisDatastore::connect(&url).unwrap(), "counted");
    pair(&lock);
    server.reset_calls();
    proxy.reset_counts();

    pair(&lock);

    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.round_trips), (0, TRIPS));
    let calls = server.calls();
    // What the scripts call is counted as well; these are sent by clients only.
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
    let lock = Lock::new(MemcacheDatastore::connect(&url).unwrap(), "counted");
    pair(&lock);

    let before = commands(&server);
    proxy.reset_counts();
    pair(&lock);
    assert_eq!(proxy.counts().round_trips, TRIPS);
    assert_eq!(commands(&server) - before, TRIPS);

    let (before, start) = (commands(&server), Instant::now());
    let guard = lock.try_acquire().unwrap();
    while commands(&server) - before < 2 && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
    }
    // Looked at once, and not again.
    thread::sleep(Duration::from_millis(500));
    assert_eq!(commands(&server) - before, 2);
    guard.release().unwrap();
    assert_eq!(commands(&server) - before, TRIPS + 1);
}

/// How many commands that have to do with keys a memcached has carried out.
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
