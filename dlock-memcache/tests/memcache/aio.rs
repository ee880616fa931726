//! What the async form promises: the same as the blocking one, over a connection that many calls
//! share.

mod conformance;
mod ends;
mod faults;
mod incarnations;
mod locks;
mod scripted;
mod sharing;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use dlock_core::aio::AsyncDatastore;
use dlock_core::{AcquireOutcome, Claim, DatastoreError, Extension, Grant, Lease, ReleaseOutcome};
use dlock_memcache::MemcacheDatastore;
use dlock_net::testing::{current_thread, runtimes};
use dlock_test_servers::faults::Proxy;

use crate::support::{self, *};

/// Longer than a busy machine needs for anything.
const PATIENCE: Duration = Duration::from_secs(60);

async fn claims(
    store: &MemcacheDatastore,
    claim: &Claim,
) -> Result<AcquireOutcome, DatastoreError> {
    AsyncDatastore::acquire(store, claim, LONG).await
}

/// Claims the key and returns the lease, ready for its first call.
async fn taken(store: &MemcacheDatastore, key: &str) -> Lease {
    let claim = claim(key);
    let grant = granted(claims(store, &claim).await);
    call(&Lease::new(claim, grant), 1)
}

async fn extends(
    store: &MemcacheDatastore,
    lease: &Lease,
    sequence: u64,
) -> Result<Extension, DatastoreError> {
    AsyncDatastore::extend(store, &call(lease, sequence), LONG).await
}

async fn releases(
    store: &MemcacheDatastore,
    lease: &Lease,
) -> Result<ReleaseOutcome, DatastoreError> {
    AsyncDatastore::release(store, &call(lease, 1)).await
}

/// A proxy to the shared server, and a store with its connection through it, which is open on the
/// runtime that runs this.
async fn through_a_proxy() -> (Proxy, MemcacheDatastore) {
    let proxy = Proxy::to(server().address());
    let store = store_at(&format!("memcache://{}", proxy.address()));
    let warm = taken(&store, &key("warm")).await;
    ours(releases(&store, &warm).await);
    proxy.reset_counts();
    (proxy, store)
}

/// Waits until `condition` holds, and lets other tasks run meanwhile.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls a future on this thread, which drives no runtime.
fn by_hand<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut context) {
            return done;
        }
        thread::park();
    }
}
