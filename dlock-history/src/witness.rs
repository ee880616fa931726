//! A layer between the recorder and the store, that writes down what the recorder does not see:
//! when the store denies a lease, and who waits there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Claim, Clock, Datastore, DatastoreError, Extension, FencingToken, Layer, Lease,
    OwnerToken, ReleaseOutcome, Signal, Time, Watch,
};

use crate::What;
use crate::log::Log;

pub(super) struct Witness {
    log: Arc<Log>,
    /// Those who watch.
    waiters: Arc<Mutex<HashMap<OwnerToken, Waiter>>>,
    /// How many there were.
    watched: AtomicU64,
}

#[derive(Clone, Copy)]
struct Waiter {
    number: u64,
    step: Step,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Watches,
    Queued,
    Served,
}

impl Witness {
    pub(super) fn new(log: Arc<Log>) -> Self {
        Witness {
            log,
            waiters: Arc::default(),
            watched: AtomicU64::new(0),
        }
    }

    /// Takes in how a claim of a waiter was answered.
    pub(super) fn waited(&self, claim: &Claim, before: Time, answer: &AcquireOutcome) {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Waiter { number, step }) = waiters.get_mut(&claim.owner()) else {
            return;
        };
        let waiter = *number;
        let what = match (answer, *step) {
            (AcquireOutcome::Held(_), Step::Watches) => {
                *step = Step::Queued;
                What::Queued { waiter }
            }
            (AcquireOutcome::Granted(_), Step::Queued) => {
                *step = Step::Served;
                What::Served { waiter }
            }
            _ => return,
        };
        drop(waiters);
        let after = Clock::BOOTTIME.now();
        self.log.record(claim.key(), (before, after), what);
    }

    /// The watch, whose end is written down if the waiter goes without what it waited for.
    pub(super) fn watched(&self, claim: &Claim, watch: Watch) -> Watch {
        let (key, owner) = (claim.key().to_owned(), claim.owner());
        let waiter = Waiter {
            number: self.watched.fetch_add(1, Ordering::Relaxed),
            step: Step::Watches,
        };
        let (log, waiters) = (Arc::clone(&self.log), Arc::clone(&self.waiters));
        let mut known = waiters.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(owner, waiter);
        drop(known);
        Watch::leaving(move |leaving| {
            let before = Clock::BOOTTIME.now();
            watch.end(leaving);
            let mut waiters = waiters.lock().unwrap_or_else(PoisonError::into_inner);
            let waiter = waiters.remove(&owner);
            drop(waiters);
            if let Some(Waiter { number, step }) = waiter
                && step == Step::Queued
            {
                let span = (before, Clock::BOOTTIME.now());
                log.record(&key, span, What::Left { waiter: number });
            }
        })
    }

    pub(super) fn denied(&self, lease: &Lease, before: Time) {
        let what = What::Denied {
            fence: lease.fence().map(FencingToken::get),
        };
        let after = Clock::BOOTTIME.now();
        self.log.record(lease.key(), (before, after), what);
    }
}

impl Layer for Witness {
    fn acquire(
        &self,
        store: &dyn Datastore,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        let before = Clock::BOOTTIME.now();
        let answer = store.acquire(claim, ttl)?;
        if claim.deadline().is_some() {
            self.waited(claim, before, &answer);
        }
        Ok(answer)
    }

    fn extend(
        &self,
        store: &dyn Datastore,
        lease: &Lease,
        ttl: Duration,
    ) -> Result<Extension, DatastoreError> {
        let before = Clock::BOOTTIME.now();
        let answer = store.extend(lease, ttl);
        if matches!(answer, Ok(Extension::Lost)) {
            self.denied(lease, before);
        }
        answer
    }

    fn release(
        &self,
        store: &dyn Datastore,
        lease: &Lease,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        let before = Clock::BOOTTIME.now();
        let answer = store.release(lease);
        if matches!(answer, Ok(ReleaseOutcome::NotHeld)) {
            self.denied(lease, before);
        }
        answer
    }

    fn watch(
        &self,
        store: &dyn Datastore,
        claim: &Claim,
        signal: &Signal,
    ) -> Result<Option<Watch>, DatastoreError> {
        let watch = store.watch(claim, signal)?;
        Ok(watch.map(|watch| self.watched(claim, watch)))
    }

    fn extend_many(
        &self,
        store: &dyn Datastore,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let before = Clock::BOOTTIME.now();
        let answers = store.extend_many(leases);
        for ((lease, _), answer) in leases.iter().zip(&answers) {
            if matches!(answer, Ok(Extension::Lost)) {
                self.denied(lease, before);
            }
        }
        answers
    }

    fn confirm(&self, store: &dyn Datastore, lease: &Lease) -> Result<Extension, DatastoreError> {
        let before = Clock::BOOTTIME.now();
        let answer = store.confirm(lease);
        if matches!(answer, Ok(Extension::Lost)) {
            self.denied(lease, before);
        }
        answer
    }

    fn confirm_many(
        &self,
        store: &dyn Datastore,
        leases: &[Lease],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let before = Clock::BOOTTIME.now();
        let answers = store.confirm_many(leases);
        for (lease, answer) in leases.iter().zip(&answers) {
            if matches!(answer, Ok(Extension::Lost)) {
                self.denied(lease, before);
            }
        }
        answers
    }
}
