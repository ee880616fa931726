//! A store between the recorder and the real one, that writes down when the real one denies a lease.

use std::sync::Arc;
use std::time::Duration;

use dlock_core::{
    Attempt, Characteristics, Claim, Clock, Datastore, DatastoreError, Extension, FencingToken,
    Inspect, Lease, Released, Signal, Time, Watch,
};

use super::What;
use super::log::Log;

pub(super) struct Witness {
    pub(super) store: Box<dyn Datastore>,
    pub(super) log: Arc<Log>,
}

impl Witness {
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
        self.store.acquire(claim, ttl)
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
        self.store.watch(claim, signal)
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
