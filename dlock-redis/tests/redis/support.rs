//! What the tests share.

use std::error::Error;
use std::time::{Duration, Instant};

use dlock_core::{Attempt, Claim, Clock, Datastore, DatastoreError, Extension, Grant, Held, Lease};
use dlock_redis::RedisDatastore;
use dlock_testkit::faults::Proxy;
use dlock_testkit::servers::RedisServer;

pub(crate) const KEY: &str = "dlock:import";
pub(crate) const FENCE: &str = "{dlock:import}:fence";
pub(crate) const QUEUE: &str = "{dlock:import}:queue";
pub(crate) const SEEN: &str = "{dlock:import}:seen";
pub(crate) const TTL: Duration = Duration::from_secs(30);
/// Long enough for a machine with more work than cores.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) fn store(server: &RedisServer) -> RedisDatastore {
    patient(&server.url())
}

pub(crate) fn store_behind(proxy: &Proxy) -> RedisDatastore {
    patient(&format!("redis://{}/", proxy.address()))
}

/// A store that gives a busy machine time: what ends early does so by the claim's own deadline.
pub(crate) fn patient(url: &str) -> RedisDatastore {
    RedisDatastore::builder(url)
        .unwrap()
        .call_timeout(LONG)
        .connect_timeout(LONG)
        .build()
}

/// A server, a proxy before it and a store behind that, whose one connection is open and whose server knows the scripts.
pub(crate) fn warm_behind_proxy() -> (RedisServer, Proxy, RedisDatastore) {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.address());
    let store = store_behind(&proxy);
    warm(&store);
    (server, proxy, store)
}

pub(crate) fn warm(store: &RedisDatastore) {
    let lease = acquired(store, &claim("dlock:warm"));
    assert!(extend(store, &lease, 1, TTL).is_some());
    assert!(released(store, &lease));
}

pub(crate) fn claim(key: &str) -> Claim {
    claim_within(key, LONG)
}

pub(crate) fn claim_within(key: &str, time: Duration) -> Claim {
    Claim::new(key, &Clock::BOOTTIME, time).unwrap()
}

pub(crate) fn granted(attempt: Result<Attempt, DatastoreError>) -> Grant {
    match attempt {
        Ok(Attempt::Granted(grant)) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

pub(crate) fn refused(attempt: Result<Attempt, DatastoreError>) -> Held {
    match attempt {
        Ok(Attempt::Held(held)) => held,
        other => panic!("not refused: {other:?}"),
    }
}

/// Acquires for [`TTL`].
pub(crate) fn acquired(store: &RedisDatastore, claim: &Claim) -> Lease {
    Lease::new(claim.clone(), granted(store.acquire(claim, TTL)))
}

/// Extends; the granted time, `None` if lost.
pub(crate) fn extend(
    store: &RedisDatastore,
    lease: &Lease,
    sequence: u64,
    ttl: Duration,
) -> Option<Duration> {
    let lease = call(lease, sequence);
    match store.extend(&lease, ttl).unwrap() {
        Extension::Extended(grant) => Some(grant.ttl),
        Extension::Lost => None,
    }
}

/// The lease for a call that has a long time.
pub(crate) fn call(lease: &Lease, sequence: u64) -> Lease {
    lease.for_call(sequence, Clock::BOOTTIME.now().saturating_add(LONG))
}

/// Releases; whether it was ours.
pub(crate) fn released(store: &RedisDatastore, lease: &Lease) -> bool {
    store.release(&call(lease, 1)).unwrap() == dlock_core::Released::Ours
}

pub(crate) fn fence_of(lease: &Lease) -> u64 {
    lease.fence().unwrap().get()
}

/// Everything that somebody could read in an error.
pub(crate) fn whole_text(error: &DatastoreError) -> String {
    let mut text = format!("{error:?}");
    let mut next: Option<&dyn Error> = Some(error);
    while let Some(error) = next {
        text.push_str(&format!("\n{error}\n{error:?}"));
        next = error.source();
    }
    text
}

/// Waits until `condition` holds, since a server that was stopped answers new clients while it still works off the old.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn evalshas(server: &RedisServer) -> u64 {
    server.calls().get("evalsha").copied().unwrap_or(0)
}
