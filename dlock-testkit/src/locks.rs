//! Locks of a case, used with the patience that a machine under load needs.

use std::time::Duration;

use dlock_core::{AcquireError, Held, Lock, LockGuard, LockOptions, Store};

use crate::case::{Case, broken, now};
use crate::client::PATIENCE;

impl Case<'_> {
    /// A lock whose key has the subject's prefix, with a time to live that shall not end during the case unless `with` says so.
    pub(crate) fn lock(
        &self,
        store: &Store,
        id: &str,
        with: impl FnOnce(LockOptions) -> LockOptions,
    ) -> Lock {
        let options = LockOptions::default()
            .with_key_prefix(self.subject.prefix().trim_end_matches(':'))
            .with_ttl(self.long());
        match Lock::with_options(store, id, with(options)) {
            Ok(lock) => lock,
            Err(error) => broken!(self, "a lock could not be made: {error}"),
        }
    }

    /// Acquires a lock that is free because of what `since` says.
    pub(crate) fn acquired(&self, lock: &Lock, since: &str) -> LockGuard {
        match self.tried(lock) {
            Ok(guard) => guard,
            Err(error) => broken!(self, "{since}, but the lock was not acquired: {error}"),
        }
    }

    /// Tries a lock that somebody holds, which `since` explains.
    pub(crate) fn held(&self, lock: &Lock, since: &str) -> Held {
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

    /// Tries, again while the store says that it may work later.
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
