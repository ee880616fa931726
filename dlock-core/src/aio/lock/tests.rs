//! What the tests from outside cannot show: the control of those that drop futures, which would
//! fail without [`Continued`], and which calls have an alarm.

use std::future::poll_fn;
use std::task::Waker;

use super::*;
use crate::aio::AsyncDatastore;
use crate::contract::claim::Claim;
use crate::contract::datastore::Datastore;
use crate::contract::error::DatastoreError;
use crate::contract::inspect::Inspect;
use crate::contract::lease::Lease;
use crate::contract::outcome::{AcquireOutcome, Extension, ReleaseOutcome};
use crate::memory::MemoryDatastore;

/// Suspends after each claim.
struct Suspending {
    memory: MemoryDatastore,
    is_polled_by_caller: bool,
    ends_its_calls: bool,
}

impl Suspending {
    fn on(memory: &MemoryDatastore) -> Self {
        Suspending {
            memory: memory.clone(),
            is_polled_by_caller: true,
            ends_its_calls: false,
        }
    }
}

impl AsyncDatastore for Suspending {
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        let answer = Datastore::acquire(&self.memory, claim, ttl);
        let mut suspended = false;
        poll_fn(|_| match std::mem::replace(&mut suspended, true) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        answer
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        Datastore::extend(&self.memory, lease, ttl)
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        Datastore::release(&self.memory, lease)
    }

    fn is_polled_by_caller(&self) -> bool {
        self.is_polled_by_caller
    }

    fn ends_its_calls(&self) -> bool {
        self.ends_its_calls
    }
}

/// Polls an acquisition once and drops it. Returns whether the key is held when all is over.
fn is_held_after(is_bare: bool) -> bool {
    let memory = MemoryDatastore::new();
    let lock = Lock::new(Suspending::on(&memory), "job");
    let (store, context) = (lock.store(), &mut Context::from_waker(Waker::noop()));
    if is_bare {
        let mut bare = Box::pin(acquired(Arc::clone(&lock.0), Wait::none()));
        assert!(bare.as_mut().poll(context).is_pending());
    } else {
        let mut acquire = lock.try_acquire();
        assert!(Pin::new(&mut acquire).poll(context).is_pending());
    }
    let mut settled = pin!(store.settled());
    while settled.as_mut().poll(context).is_pending() {
        std::thread::yield_now();
    }
    Inspect::holder(&memory, lock.key()).unwrap().is_some()
}

#[test]
fn a_bare_flow_that_is_dropped_leaves_the_lock_held_and_an_acquire_does_not() {
    assert!(is_held_after(true));
    assert!(!is_held_after(false));
}

#[test]
fn a_call_has_an_alarm_unless_its_store_is_polled_by_the_caller_and_ends_it() {
    for (is_polled_by_caller, ends_its_calls, alarms) in [
        (true, true, 0),
        (true, false, 1),
        (false, true, 1),
        (false, false, 1),
    ] {
        let store = Store::new(Suspending {
            memory: MemoryDatastore::new(),
            is_polled_by_caller,
            ends_its_calls,
        });
        let mut acquire = Lock::new(&store, "job").try_acquire();
        let context = &mut Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut acquire).poll(context).is_pending());
        let set = store.background().keeper().alarms();
        assert_eq!(set, alarms, "{is_polled_by_caller} {ends_its_calls}");
    }
}

/// Up to this many bytes glibc keeps freed memory for each thread, and hands it out again without a
/// search.
#[cfg(not(feature = "tracing"))]
const MOST_BYTES: usize = 1032;

/// Without spans, which are part of the future.
#[cfg(not(feature = "tracing"))]
#[test]
fn the_future_of_an_acquire_is_small_enough_for_the_fast_path_of_the_allocator() {
    let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
    let flow = acquired(Arc::clone(&lock.0), Wait::forever());
    let bytes = size_of_val(&flow);
    assert!(bytes <= MOST_BYTES, "{bytes}");
}
