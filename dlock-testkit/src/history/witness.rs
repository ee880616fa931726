//! A store between the recorder and the real one, that writes down what the recorder does not see: when the real one denies a lease, and who
//! waits there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dlock_core::{
    Attempt, Characteristics, Claim, Clock, Datastore, DatastoreError, Extension, FencingToken,
    Inspect, Lease, OwnerToken, Released, Signal, Time, Watch,
};

use super::What;
use super::log::Log;

pub(super) struct Witness {
    store: Box<dyn Datastore>,
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
    pub(super) fn new(store: Box<dyn Datastore>, log: Arc<Log>) -> Self {
        Witness {
            store,
            log,
            waiters: Arc::default(),
            watched: AtomicU64::new(0),
        }
    }

    /// Takes in how a claim of a waiter was answered.
    fn waited(&self, claim: &Claim, before: Time, answer: &Attempt) {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Waiter { number, step }) = waiters.get_mut(&claim.owner()) else {
            return;
        };
        let waiter = *number;
        let what = match (answer, *step) {
            (Attempt::Held(_), Step::Watches) => {
                *step = Step::Queued;
                What::Queued { waiter }
            }
            (Attempt::Granted(_), Step::Queued) => {
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
    fn watched(&self, claim: &Claim, watch: Watch) -> Watch {
        let (key, owner) = (claim.key().to_owned(), claim.owner());
        let waiter = Waiter {
            number: self.watched.fetch_add(1, Ordering::Relaxed),
            step: Step::Watches,
        };
        let (log, waiters) = (Arc::clone(&self.log), Arc::clone(&self.waiters));
        let mut known = waiters.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(owner, waiter);
        drop(known);
        Watch::new(move || {
            let before = Clock::BOOTTIME.now();
            drop(watch);
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

    fn denied(&self, lease: &Lease, before: Time) {
        let what = What::Denied {
            fence: lease.fence().map(FencingToken::get),
        };
        let after = Clock::BOOTTIME.now();
        self.log.record(lease.key(), (before, after), what);
    }
}

#[deny(clippy::missing_trait_methods)]
impl Datastore for Witness {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError> {
        let before = Clock::BOOTTIME.now();
        let answer = self.store.acquire(claim, ttl)?;
        if claim.waits_until().is_some() {
            self.waited(claim, before, &answer);
        }
        Ok(answer)
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        let before = Clock::BOOTTIME.now();
        let answer = self.store.extend(lease, ttl);
        if matches!(answer, Ok(Extension::Lost)) {
            self.denied(lease, before);
        }
        answer
    }

    fn release(&self, lease: &Lease) -> Result<Released, DatastoreError> {
        let before = Clock::BOOTTIME.now();
        let answer = self.store.release(lease);
        if matches!(answer, Ok(Released::NotOurs)) {
            self.denied(lease, before);
        }
        answer
    }

    fn characteristics(&self) -> Characteristics {
        self.store.characteristics()
    }

    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.store.abandon(claim)
    }

    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        let watch = self.store.watch(claim, signal)?;
        Ok(watch.map(|watch| self.watched(claim, watch)))
    }

    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        let before = Clock::BOOTTIME.now();
        let answers = self.store.extend_many(leases);
        for ((lease, _), answer) in leases.iter().zip(&answers) {
            if matches!(answer, Ok(Extension::Lost)) {
                self.denied(lease, before);
            }
        }
        answers
    }

    fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        let before = Clock::BOOTTIME.now();
        let answer = self.store.confirm(lease);
        if matches!(answer, Ok(Extension::Lost)) {
            self.denied(lease, before);
        }
        answer
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        self.store.inspect()
    }
}
