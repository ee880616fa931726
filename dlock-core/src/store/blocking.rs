//! The blocking face of the flows: a future of a blocking store is ready when it is polled first.

use std::future::{Future, ready};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use super::Store;
use crate::ProcessId;
use crate::contract::characteristics::Characteristics;
use crate::contract::claim::{Claim, OwnerToken};
use crate::contract::datastore::Watch;
use crate::contract::error::DatastoreError;
use crate::contract::holder::{Holder, Phase};
use crate::contract::lease::Lease;
use crate::contract::outcome::{AcquireOutcome, Extension, ReleaseOutcome};
use crate::engine::callback::Callbacks;
use crate::engine::held_lease::HeldLease;
use crate::engine::io::{Handle, Io};
use crate::engine::renewal::worker;
use crate::engine::ticket::Ticket;
use crate::observer::{MeasuredCall, Observer, Operation};
use crate::time::clock::Clock;
use crate::time::instant::Time;
use crate::time::signal::Signal;
use crate::trace;

/// Runs a flow over futures that are ready when they are polled first, as those of a blocking store
/// and its connections are.
///
/// # Panics
///
/// If one of them is not.
#[inline(always)]
pub fn at_once<T>(flow: impl Future<Output = T>) -> T {
    match pin!(flow).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => unreachable!("the futures of a blocking store are ready"),
    }
}

impl Store {
    /// Calls the datastore, inside a span, and reports the call.
    #[inline]
    fn call<T>(
        &self,
        operation: Operation,
        call: impl FnOnce() -> Result<T, DatastoreError>,
    ) -> Result<T, DatastoreError> {
        let _span = trace::call(operation);
        let measured = MeasuredCall::begin(&self.0.observer, &self.0.clock, operation);
        let answer = call();
        if let Some(measured) = measured {
            measured.end(1, answer.as_ref().err());
        }
        answer
    }

    /// The same for a batch.
    fn call_many<T>(
        &self,
        operation: Operation,
        locks: usize,
        call: impl FnOnce() -> Vec<Result<T, DatastoreError>>,
    ) -> Vec<Result<T, DatastoreError>> {
        let _batch = trace::renew(&self.0.name, locks);
        let _span = trace::call(operation);
        let measured = MeasuredCall::begin(&self.0.observer, &self.0.clock, operation);
        let answers = call();
        if let Some(measured) = measured {
            measured.end(
                locks,
                answers.iter().find_map(|answer| answer.as_ref().err()),
            );
        }
        answers
    }
}

impl Io for Store {
    #[inline]
    fn clock(&self) -> &Clock {
        &self.0.clock
    }

    #[inline]
    fn characteristics(&self) -> &Characteristics {
        &self.0.characteristics
    }

    fn process(&self) -> ProcessId {
        ProcessId::current()
    }

    fn owner_token(&self) -> Result<OwnerToken, DatastoreError> {
        OwnerToken::random()
    }

    fn holder_text(&self, process: ProcessId, label: Option<&str>, phase: Phase) -> String {
        Holder::text_of_this_process(process, label, phase)
    }

    fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.0.observer.as_ref()
    }

    #[inline]
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        self.call(Operation::Acquire, || self.0.datastore.acquire(claim, ttl))
    }

    #[inline]
    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.call(Operation::Extend, || self.0.datastore.extend(lease, ttl))
    }

    #[inline]
    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        self.call(Operation::Release, || self.0.datastore.release(lease))
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.call(Operation::Abandon, || self.0.datastore.abandon(claim))
    }

    async fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        let watch = self.call(Operation::Watch, || self.0.datastore.watch(claim, signal));
        if let Ok(Some(_)) = watch {
            // A waiter has time now to start the threads that it needs when it is woken. If that
            // fails, it is tried again then.
            let _ = self.keeper().start(self.0.is_observed());
        }
        watch
    }

    async fn extend_many(
        &self,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        self.call_many(Operation::ExtendMany, leases.len(), || {
            self.0.datastore.extend_many(leases)
        })
    }

    async fn confirm_many(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
        self.call_many(Operation::ConfirmMany, leases.len(), || {
            self.0.datastore.confirm_many(leases)
        })
    }

    fn handle(&self) -> Handle {
        Arc::clone(&self.0) as Handle
    }

    async fn leave(&self, _: &Arc<str>, watch: Watch) {
        drop(watch);
    }

    async fn sleep(&self, wake: Option<&Signal>, until: Time) {
        match wake {
            Some(signal) => self.0.clock.sleep_until(signal, until),
            None => self.0.clock.sleep_until(&Signal::new(), until),
        };
    }

    fn keep(&self, held: &Arc<HeldLease>) -> io::Result<Ticket> {
        let keeper = self.keeper_of(held.process());
        keeper.keep(held, self.0.is_observed(), |keeper| {
            let (store, enlisted) = (Arc::downgrade(&self.0), keeper.enlist());
            let work = move || {
                let store = || store.upgrade().map(Store);
                let wait = || {
                    keeper.wait_for_work();
                    ready(())
                };
                at_once(worker::run(&keeper, store, wait));
            };
            let thread = thread::Builder::new().name("dlock-renewal".to_owned());
            thread.spawn(|| enlisted.run(work)).map(drop)
        })
    }

    fn forget(&self, process: ProcessId, ticket: Ticket) {
        self.keeper_of(process).forget(ticket);
    }

    fn clean_up(&self, held: &Arc<HeldLease>, lease: Lease) {
        let keeper = self.keeper_of(held.process());
        keeper.clean_up(self.handle(), held, lease);
    }

    fn call(&self, callbacks: Callbacks) {
        self.keeper().call(callbacks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryDatastore;

    #[test]
    fn a_waiter_that_will_be_woken_starts_the_threads_before_it_sleeps() {
        let store = Store::new(MemoryDatastore::new());
        let claim = Claim::new("x", store.clock(), Duration::from_secs(60)).unwrap();
        assert!(!store.keeper().has_started());
        let watch = at_once(store.watch(&claim, &Signal::new())).unwrap();
        assert!(watch.is_some() && store.keeper().has_started());
    }
}
