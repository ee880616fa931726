//! A store that remembers what it was told, so that a case can tell it again, too late.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dlock_core::{
    Attempt, Characteristics, Claim, Datastore, DatastoreError, Extension, Inspect, Lease,
    Released, Signal, Watch,
};

use crate::case::{Case, now};
use crate::subject::Handle;

/// Passes every call on and keeps a copy of the extends.
pub(crate) struct Recorder {
    store: Handle,
    extends: Extends,
}

/// The extends that a [`Recorder`] passed on.
#[derive(Clone, Default)]
pub(crate) struct Extends(Arc<Mutex<Vec<(Lease, Duration)>>>);

impl Recorder {
    pub(crate) fn new(store: Handle) -> (Self, Extends) {
        let extends = Extends::default();
        let recorder = Recorder {
            store,
            extends: extends.clone(),
        };
        (recorder, extends)
    }
}

impl Case<'_> {
    /// Makes calls again that a newer one has followed since, as if the network had held copies back. They have time enough left to
    /// be carried out.
    pub(crate) fn repeat_too_late(&self, calls: &[(Lease, Duration)]) {
        for (call, ttl) in calls {
            let end = now().saturating_add(self.traits.call_timeout);
            // Whatever it answers, what it must not do is seen later.
            drop(
                self.subject
                    .first()
                    .extend(&call.for_call(call.sequence(), end), *ttl),
            );
        }
    }
}

impl Extends {
    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Those after the first `skipped`.
    pub(crate) fn after(&self, skipped: usize) -> Vec<(Lease, Duration)> {
        self.lock().split_at(skipped).1.to_vec()
    }

    fn add(&self, leases: &[(Lease, Duration)]) {
        self.lock().extend_from_slice(leases);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Lease, Duration)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[deny(clippy::missing_trait_methods)]
impl Datastore for Recorder {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError> {
        self.store.acquire(claim, ttl)
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        let answer = self.store.extend(lease, ttl);
        self.extends.add(&[(lease.clone(), ttl)]);
        answer
    }

    fn release(&self, lease: &Lease) -> Result<Released, DatastoreError> {
        self.store.release(lease)
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
        let answers = self.store.extend_many(leases);
        self.extends.add(leases);
        answers
    }

    fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        self.store.confirm(lease)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        self.store.inspect()
    }
}
