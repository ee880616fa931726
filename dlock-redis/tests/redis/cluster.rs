//! What the store promises on a Redis Cluster: the same as on one server, while slots move between
//! nodes and replicas take the place of primaries.

mod conformance;
mod failover;
mod replicas;
mod resharding;
mod topology;
mod waiting;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Claim, Datastore, DatastoreError, Extension, Lease, ReleaseOutcome,
};
use dlock_redis::RedisDatastore;
use dlock_test_servers::{RedisCluster, Reply};

use crate::support::{self, *};

/// A cluster of three primaries that no test breaks. Slots move in it.
fn whole() -> &'static RedisCluster {
    static CLUSTER: OnceLock<RedisCluster> = OnceLock::new();
    CLUSTER.get_or_init(RedisCluster::start)
}

/// A store in one of its forms.
type Form = Arc<dyn Datastore>;

/// Makes a store over the cluster.
type Open = fn(&RedisCluster) -> Form;

fn blocking(cluster: &RedisCluster) -> Form {
    blocking_at(&cluster.url())
}

fn blocking_at(url: &str) -> Form {
    Arc::new(unhurried(url))
}

/// Long enough for a replica to take over on a busy machine, where elections are repeated.
const TAKEOVER: Duration = Duration::from_secs(60);

fn unhurried(url: &str) -> RedisDatastore {
    let builder = RedisDatastore::builder(url).unwrap();
    let builder = builder.call_timeout(TAKEOVER);
    builder.connect_timeout(LONG).build()
}

#[cfg(feature = "tokio")]
fn shared(cluster: &RedisCluster) -> Form {
    shared_at(&cluster.url())
}

#[cfg(feature = "tokio")]
fn shared_at(url: &str) -> Form {
    shared_over(unhurried(url))
}

/// The async form, whose calls this thread waits for.
#[cfg(feature = "tokio")]
fn shared_over(store: RedisDatastore) -> Form {
    use tokio::runtime::{Builder, Runtime};
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let start = || {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    };
    let runtime = RUNTIME.get_or_init(start).handle().clone();
    Arc::new(dlock_core::aio::Block::new(store, runtime))
}

/// Both forms of the store.
fn forms() -> Vec<Open> {
    vec![
        blocking,
        #[cfg(feature = "tokio")]
        shared,
    ]
}

/// Both forms of the store, by its URL.
fn openers() -> Vec<fn(&str) -> Form> {
    vec![
        blocking_at,
        #[cfg(feature = "tokio")]
        shared_at,
    ]
}

/// A key that no other test uses.
fn own_key() -> String {
    format!("dlock:{}", dlock_core::OwnerToken::random().unwrap())
}

fn acquired(store: &Form, claim: &Claim) -> Lease {
    Lease::new(claim.clone(), granted(store.acquire(claim, TTL)))
}

fn tries(store: &Form, key: &str) -> Result<AcquireOutcome, DatastoreError> {
    store.acquire(&claim_within(key, TAKEOVER), TTL)
}

fn extends(store: &Form, lease: &Lease, sequence: u64, ttl: Duration) -> bool {
    let not_after = dlock_core::Clock::BOOTTIME.now().saturating_add(TAKEOVER);
    match store
        .extend(&lease.for_call(sequence, not_after), ttl)
        .unwrap()
    {
        Extension::Extended(_) => true,
        Extension::Lost => false,
    }
}

fn releases(store: &Form, lease: &Lease) -> bool {
    store.release(&call(lease, 9)).unwrap() == ReleaseOutcome::Released
}

/// Checks the tokens of those who write to it.
#[derive(Default)]
struct Guarded(u64);

impl Guarded {
    /// Whether the write is accepted.
    fn write(&mut self, lease: &Lease) -> bool {
        let token = fence_of(lease);
        let accepted = token >= self.0;
        self.0 = self.0.max(token);
        accepted
    }
}

/// How often a node has answered with an error of this code.
fn errors(cluster: &RedisCluster, node: usize, code: &str) -> u64 {
    let text = cluster.node(node).command(["INFO", "errorstats"]).text();
    let text = text.unwrap_or_default();
    let prefix = format!("errorstat_{code}:count=");
    let count = text.lines().find_map(|line| line.strip_prefix(&prefix));
    count.map_or(0, |count| count.trim().parse().unwrap())
}

fn exists(cluster: &RedisCluster, node: usize, key: &str) -> bool {
    cluster.node(node).try_command(["EXISTS", key]) == Reply::Integer(1)
}
