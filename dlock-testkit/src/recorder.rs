//! A store that records extends, so that a case can send them again, too late.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dlock_core::{Datastore, DatastoreError, Extension, Layer, Lease};

use crate::case::{Case, now};
use crate::form::Handle;

/// Forwards every call and keeps a copy of the extends.
pub(crate) struct ExtendRecorder {
    extends: Extends,
}

/// The extends that a [`ExtendRecorder`] has forwarded.
#[derive(Clone, Default)]
pub(crate) struct Extends(Arc<Mutex<Vec<(Lease, Duration)>>>);

impl ExtendRecorder {
    pub(crate) fn over(store: Handle) -> (Handle, Extends) {
        let extends = Extends::default();
        let recorder = ExtendRecorder {
            extends: extends.clone(),
        };
        (store.behind(recorder), extends)
    }
}

impl Case<'_> {
    /// Sends copies of calls after newer calls, as if the network had delayed them. They have
    /// enough time left to be carried out.
    pub(crate) fn repeat_too_late(&self, calls: &[(Lease, Duration)]) {
        for (call, ttl) in calls {
            let end = now().saturating_add(self.traits.call_timeout);
            // The answer does not matter; the case checks the effect later.
            drop(
                self.subject
                    .first()
                    .extend(&call.for_call(call.sequence(), end), *ttl),
            );
        }
    }
}

impl Extends {
    /// The number of extends.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// The extends after the first `skipped`.
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

impl Layer for ExtendRecorder {
    fn extend(
        &self,
        store: &dyn Datastore,
        lease: &Lease,
        ttl: Duration,
    ) -> Result<Extension, DatastoreError> {
        let answer = store.extend(lease, ttl);
        self.extends.add(&[(lease.clone(), ttl)]);
        answer
    }

    fn extend_many(
        &self,
        store: &dyn Datastore,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let answers = store.extend_many(leases);
        self.extends.add(leases);
        answers
    }
}
