//! The suite on an async store that suspends around each of its calls, on both kinds of runtime.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use dlock_core::aio::AsyncDatastore;
use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Clock, Datastore, DatastoreError, Extension, Lease,
    MemoryDatastore, ReleaseOutcome, Signal, Watch,
};
use dlock_testkit::async_conformance;

/// The store in memory, which is never ready at once.
#[derive(Default)]
pub(crate) struct Suspending {
    memory: MemoryDatastore,
    /// Whether it says so of itself. Then it needs no runtime.
    is_polled_by_caller: bool,
}

impl Suspending {
    /// Which is polled by the task that calls.
    pub(crate) fn polled_by_caller() -> Self {
        Suspending {
            is_polled_by_caller: true,
            ..Suspending::default()
        }
    }

    async fn suspend(&self) {
        if !self.is_polled_by_caller {
            return suspend().await;
        }
        let mut is_first = true;
        poll_fn(|context| match std::mem::take(&mut is_first) {
            true => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            false => Poll::Ready(()),
        })
        .await;
    }
}

pub(crate) async fn suspend() {
    tokio::time::sleep(Duration::from_micros(1)).await;
}

impl AsyncDatastore for Suspending {
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        self.suspend().await;
        Datastore::acquire(&self.memory, claim, ttl)
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.suspend().await;
        Datastore::extend(&self.memory, lease, ttl)
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        self.suspend().await;
        Datastore::release(&self.memory, lease)
    }

    fn is_polled_by_caller(&self) -> bool {
        self.is_polled_by_caller
    }

    fn characteristics(&self) -> Characteristics {
        Datastore::characteristics(&self.memory)
    }

    fn own_clock(&self) -> Option<&Clock> {
        Datastore::own_clock(&self.memory)
    }

    async fn extend_many(
        &self,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        self.suspend().await;
        Datastore::extend_many(&self.memory, leases)
    }

    async fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.suspend().await;
        Datastore::watch(&self.memory, claim, signal)
    }
}

async_conformance!(suspending, || Suspending::default());
