//! What the async form promises: the same as the blocking one, over a connection that many calls
//! share.

mod by_hand;
pub(crate) mod conformance;
mod ends;
mod faults;
mod inspect;
mod locks;
mod scripted;
mod sharing;
mod waiting;

use std::time::Duration;

use dlock_core::aio::AsyncDatastore;
use dlock_core::{AcquireOutcome, Claim, DatastoreError, Lease, ReleaseOutcome};
use dlock_net::testing::{current_thread, runtimes};
use dlock_redis::RedisDatastore;
use dlock_test_servers::RedisServer;
use dlock_test_servers::faults::Proxy;

use crate::support::{self, *};

async fn claims(store: &RedisDatastore, claim: &Claim) -> Result<AcquireOutcome, DatastoreError> {
    AsyncDatastore::acquire(store, claim, TTL).await
}

/// Acquires for [`TTL`].
async fn acquired(store: &RedisDatastore, claim: &Claim) -> Lease {
    Lease::new(claim.clone(), granted(claims(store, claim).await))
}

/// Extends; the granted time, `None` if lost.
async fn extended(store: &RedisDatastore, lease: &Lease, sequence: u64) -> Option<Duration> {
    let lease = call(lease, sequence);
    match AsyncDatastore::extend(store, &lease, TTL).await.unwrap() {
        dlock_core::Extension::Extended(grant) => Some(grant.ttl),
        dlock_core::Extension::Lost => None,
    }
}

/// Releases; whether it was ours.
async fn released(store: &RedisDatastore, lease: &Lease) -> bool {
    let released = AsyncDatastore::release(store, &call(lease, 1)).await;
    released.unwrap() == ReleaseOutcome::Released
}

async fn warm(store: &RedisDatastore) {
    let lease = acquired(store, &claim("dlock:warm")).await;
    assert!(extended(store, &lease, 1).await.is_some());
    assert!(released(store, &lease).await);
}

/// A server, a proxy before it and a store behind that, whose one connection is open on the runtime
/// that runs this, and whose server knows the scripts.
async fn warm_behind_proxy() -> (RedisServer, Proxy, RedisDatastore) {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.address());
    let store = store_behind(&proxy);
    warm(&store).await;
    (server, proxy, store)
}

/// Waits until `condition` holds, and lets other tasks run meanwhile.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
