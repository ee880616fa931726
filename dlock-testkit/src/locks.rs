//! The locks of a case. Calls are repeated patiently, for an overloaded machine.

use std::time::Duration;

use dlock_core::{AcquireError, HeldBy, LockOptions, LockOptionsBuilder};

use crate::case::{Case, broken, now};
use crate::client::PATIENCE;
use crate::form::{Lock, LockGuard, Store};

impl Case<'_> {
    /// A lock whose key has the subject's prefix. Its lease does not end during the case unless
    /// `with` changes its time to live.
    pub(crate) fn lock(
        &self,
        store: &Store,
        id: &str,
        with: impl FnOnce(LockOptionsBuilder) -> LockOptionsBuilder,
    ) -> Lock {
        let options = LockOptions::builder()
            .key_prefix(self.subject.prefix().trim_end_matches(':'))
            .ttl(self.long());
        match Lock::with_options(store, id, with(options)) {
            Ok(lock) => lock,
            Err(error) => broken!(self, "a lock could not be made: {error}"),
        }
    }

    /// Acquires a lock that must be free, as `since` explains.
    pub(crate) fn acquired(&self, lock: &Lock, since: &str) -> LockGuard {
        match self.tried(lock) {
            Ok(guard) => guard,
            Err(error) => broken!(self, "{since}, but the lock was not acquired: {error}"),
        }
    }

    /// Tries a lock that must be held, as `since` explains.
    pub(crate) fn held(&self, lock: &Lock, since: &str) -> HeldBy {
        match self.tried(lock) {
            Err(AcquireError::Held(held)) => held,
            other => broken!(self, "{since}, but a try was answered with {other:?}"),
        }
    }

    /// Releases a lock whose lease is far from its end.
    pub(crate) fn released(&self, guard: LockGuard) {
        if let Err(error) = guard.release() {
            broken!(
                self,
                "a lock with half an hour left was not released: {error:?}"
            );
        }
    }

    /// Tries, and tries again after transient errors.
    pub(crate) fn tried(&self, lock: &Lock) -> Result<LockGuard, AcquireError> {
        let give_up = now().saturating_add(PATIENCE);
        loop {
            match lock.try_acquire() {
                Err(AcquireError::Datastore(error)) if error.is_transient() && now() < give_up => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                answer => return answer,
            }
        }
    }
}
