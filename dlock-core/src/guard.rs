//! The value that holds a lock.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::acquire_error::{AcquireError, ReleaseError};
use crate::contract::grant::FencingToken;
use crate::engine::acquire::{self, Request};
use crate::engine::callback::Callback;
use crate::engine::hold::Holding;
use crate::engine::hold::{Caller, End};
use crate::engine::lease_policy::LeasePolicy;
use crate::engine::run_once::Guard;
use crate::store::{Store, at_once};
use crate::time::instant::Time;
use crate::time::wait::Wait;
use crate::trace::{AcquireSpan, ReleaseSpan};

/// Holds a lock for as long as it lives: the lease is renewed in the background, dropping the guard
/// releases it.
///
/// A guard can outlive its lease: the process may be stopped, the store unreachable, the lock
/// broken by an operator. Then the guard is **lost**, for good. Check [`is_valid`](Self::is_valid)
/// before a step that must not be done twice, and pass [`fencing_token`](Self::fencing_token) to
/// the guarded resource: between the check and the step only the token protects.
///
/// - Dropping releases the lock as [`release`](Self::release) does, takes bounded time and never
///   panics. Errors go to the store's [`Observer`](crate::Observer); a caller that needs them calls
///   [`release`](Self::release). Dropping a lost guard makes no call: anything left in the store is
///   released in the background. If the store does not answer, one attempt is made for all lost
///   guards together.
/// - Callbacks run on at most eight threads of the store, in the order in which they fall due.
///   While eight of them block, further ones wait; renewals and the detection of losses go on.
/// - After `std::mem::forget` the lease is renewed until [`max_hold`](crate::LockOptions::max_hold)
///   or the end of the process.
/// - In a forked child an inherited guard is lost, and dropping it does nothing.
#[must_use = "dropping the guard releases the lock"]
pub struct LockGuard {
    store: Store,
    holding: Holding,
}

impl LockGuard {
    /// Acquires the lock, starts to renew its lease, and reports it.
    pub(crate) fn acquire(
        store: &Store,
        request: &Request<'_>,
        wait: &Wait,
        deadline: Time,
        policy: LeasePolicy,
    ) -> Result<Self, AcquireError> {
        let span = AcquireSpan::new(store.name(), request.key, store.clock());
        let start = Holding::start(store);
        let acquired = span.in_scope(|| {
            let won = at_once(acquire::acquire(store, request, wait, deadline))?;
            let mut holding = Holding::new(won, policy);
            at_once(holding.keep(store, start))?;
            Ok(holding)
        });
        match acquired {
            Ok(holding) => {
                span.end(Ok(holding.held().fence()));
                Ok(Self::around(store, holding))
            }
            Err(error) => {
                span.end(Err(&error));
                Holding::not_acquired(store, start, request.key, &error);
                Err(error)
            }
        }
    }

    /// The key, as the store sees it.
    pub fn key(&self) -> &str {
        self.holding.held().key()
    }

    /// The fencing token, for the guarded resource to check; `None` if the store has none.
    pub fn fencing_token(&self) -> Option<FencingToken> {
        self.holding.held().fence()
    }

    /// Returns whether the lease is valid now. It reads the clock and does no I/O.
    ///
    /// Once `false`, it stays `false`.
    pub fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// How long the lease lasts if it is never renewed again; zero if it is lost. No I/O.
    pub fn remaining(&self) -> Duration {
        self.holding.remaining(&self.store)
    }

    /// Calls `callback` once, on a thread of the store, when the lease is lost, or at once if it is
    /// lost already. It is not called after a release.
    ///
    /// A callback that owns this guard, for example in an `Arc`, keeps the guard alive and the lock
    /// held.
    pub fn on_lost(&self, callback: impl FnOnce() + Send + 'static) {
        self.holding.on_lost(&self.store, Callback::new(callback));
    }

    /// Calls `callback` once, on a thread of the store, when renewals fail for so long that only
    /// [`grace`](crate::LockOptions::grace) of the lease is left, or at once if that is so already.
    /// It is not called after a release.
    pub fn on_at_risk(&self, callback: impl FnOnce() + Send + 'static) {
        self.holding
            .on_at_risk(&self.store, Callback::new(callback));
    }

    /// Releases the lock, or leaves it taken until its [`min_hold`](crate::LockOptions::min_hold)
    /// is over.
    ///
    /// This is one call to the store, and a second one if the first fails; together they take at
    /// most the time of one call.
    ///
    /// One case takes longer: the answer to a claim was lost while the lock was acquired, and the
    /// release comes within the time of one call after it. The release then waits for the end of
    /// that time and cleans up, because the lost claim might be carried out late and re-acquire the
    /// lock with no owner left to release it.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Lost`] if the lease ended before the release: the lock was not exclusive all
    /// the time. [`ReleaseError::NotReleased`] if the store could not be reached, and
    /// [`ReleaseError::Unknown`] if it did not answer: the key may stay taken until the lease ends
    /// by itself.
    pub fn release(mut self) -> Result<(), ReleaseError> {
        self.end(End::AsOptionsSay, Caller::Waits)
    }

    fn end(&mut self, end: End, caller: Caller) -> Result<(), ReleaseError> {
        let span = ReleaseSpan::new(self.store.name(), self.holding.held().key());
        let ended = span.in_scope(|| at_once(self.holding.end(&self.store, end, caller)));
        span.end(|| self.holding.held().held_for(), ended.as_ref().copied());
        ended
    }
}

impl Guard<Store> for LockGuard {
    fn around(store: &Store, holding: Holding) -> Self {
        let store = store.clone();
        let guard = LockGuard { store, holding };
        guard.holding.observe_loss(&guard.store);
        guard
    }

    fn holding(&mut self) -> &mut Holding {
        &mut self.holding
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if self.holding.has_ended() {
            return;
        }
        // A store that panics here would abort a program that is unwinding already.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            self.end(End::AsOptionsSay, Caller::Drops)
        }));
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard")
            .field("key", &self.key())
            .field("fencing_token", &self.fencing_token())
            .finish_non_exhaustive()
    }
}
