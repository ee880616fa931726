//! The value that holds a lock.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::callback::Callback;
use crate::drive::{self, Won};
use crate::held_lease::HeldLease;
use crate::keeper::Ticket;
use crate::terms::Terms;
use crate::{
    DatastoreError, ErrorKind, Extension, FencingToken, Lease, LockEvent, ReleaseError, Released,
    Store, Time,
};

/// Holds a lock for as long as it lives: the lease is renewed in the background, dropping the guard releases it.
///
/// A guard can outlive its lease: the process may be stopped, the store unreachable, the lock broken by an operator. Then the
/// guard is **lost**, finally. Look at [`is_valid`](Self::is_valid) before a step that must not be done twice, and give
/// [`fencing_token`](Self::fencing_token) to the resource that is guarded: between the look and the step only the token protects.
///
/// - Dropping releases the lock as [`release`](Self::release) does, bounded in time, and never panics. What goes wrong is told to the store's
///   [`Observer`](crate::Observer); whoever must know calls [`release`](Self::release).
/// - `std::mem::forget` leaves the lease renewed until [`max_hold`](crate::LockOptions::max_hold) or the end of the process.
/// - In a forked child an inherited guard is lost, and dropping it does nothing.
#[must_use = "dropping the guard releases the lock"]
pub struct LockGuard {
    store: Store,
    held: Arc<HeldLease>,
    /// `None` when released.
    ticket: Option<Ticket>,
    /// Until when a lost copy of the claim may yet be carried out.
    lost_request: Option<Time>,
}

impl LockGuard {
    /// Takes over what was won and keeps it.
    pub(crate) fn keep(store: &Store, won: Won, terms: Terms) -> Result<Self, DatastoreError> {
        let lost_request = won.lost_request;
        let held = Arc::new(HeldLease::new(won.pid, won.lease, won.until, terms));
        let mut guard = LockGuard {
            store: store.clone(),
            held,
            ticket: None,
            lost_request,
        };
        let keeper = store.keeper_of(guard.held.pid());
        match keeper.keep(&guard.held, store.shared()) {
            Ok(ticket) => guard.ticket = Some(ticket),
            Err(error) => {
                // Without its threads the lease would end unseen: better to have no lock.
                if let Some(lease) = guard.held.take() {
                    let sent = guard.now();
                    let _ = guard.finish(&lease, &End::Free, sent);
                    drive::outlive_lost_request(store, lease.claim(), lost_request, sent);
                }
                return Err(DatastoreError::not_executed(ErrorKind::Refused, error)
                    .during("starting the threads that keep the lease"));
            }
        }
        guard.tell_observer_of_loss();
        Ok(guard)
    }

    /// The key, as the store sees it.
    pub fn key(&self) -> &str {
        self.held.key()
    }

    /// The fencing token, for the guarded resource to check; `None` if the store has none.
    pub fn fencing_token(&self) -> Option<FencingToken> {
        self.held.fence()
    }

    /// Whether the lease lasts at this moment. No I/O: it is a look at the clock.
    ///
    /// Once it was `false` it stays `false`.
    pub fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// How long the lease lasts if it is not renewed any more; zero if it is lost. No I/O.
    pub fn remaining(&self) -> Duration {
        let (left, callbacks) = self.held.look();
        if !callbacks.is_empty() {
            self.store.keeper().call(callbacks);
        }
        left
    }

    /// Calls `callback` once on a thread of its own when the lease is lost; at once if it is already. Not after a release.
    ///
    /// A callback that owns this guard, in an `Arc` say, keeps it alive and the lock held.
    pub fn on_lost(&self, callback: impl FnOnce() + Send + 'static) {
        self.register(HeldLease::on_lost, callback);
    }

    /// Calls `callback` once on a thread of its own when the lease was not renewed for so long that only
    /// [`grace`](crate::LockOptions::grace) of it is left; at once if that is so already. Not after a release.
    pub fn on_at_risk(&self, callback: impl FnOnce() + Send + 'static) {
        self.register(HeldLease::on_at_risk, callback);
    }

    fn register(
        &self,
        on: fn(&HeldLease, Callback) -> Option<Callback>,
        callback: impl FnOnce() + Send + 'static,
    ) {
        let callback = Callback::new(callback);
        // What a forked child inherits is lost already.
        let now = if self.held.is_inherited() {
            Some(callback)
        } else {
            on(&self.held, callback)
        };
        if let Some(now) = now {
            self.store.keeper().call(vec![now]);
        }
    }

    /// Releases the lock, or leaves it to the end of its [`min_hold`](crate::LockOptions::min_hold).
    ///
    /// One call to the store; if that fails a second one within the time of one call. Only where an answer was lost when the lock was
    /// acquired and it is released within the time of one call after, it also waits for the end of that time: the lost request might be carried out
    /// late and take the lock again for nobody.
    ///
    /// # Errors
    ///
    /// [`ReleaseError::Lost`] if the lease had ended before: the lock was not exclusive all the time.
    /// [`ReleaseError::NotReleased`] or [`ReleaseError::Unknown`] if the store could not be told, or did not answer: then the key
    /// may stay taken until the lease ends by itself.
    pub fn release(mut self) -> Result<(), ReleaseError> {
        self.end(End::AsOptionsSay)
    }

    /// Releases at once, without regard to `min_hold`: nothing was done under the lock.
    pub(crate) fn release_unused(mut self) {
        let _ = self.end(End::Free);
    }

    /// Leaves the key taken for `keep` from now, with a new description; the guard is done with.
    pub(crate) fn leave(mut self, keep: Duration, holder: String) -> Result<(), ReleaseError> {
        self.end(End::Keep(keep, Some(holder.into())))
    }

    fn end(&mut self, end: End) -> Result<(), ReleaseError> {
        let Some(ticket) = self.ticket.take() else {
            return Ok(());
        };
        if self.held.is_inherited() {
            return Err(ReleaseError::Lost);
        }
        if matches!(end, End::AsOptionsSay) && self.held.hold_left().is_some() {
            // A late copy of the claim would raise what is left of `min_hold` to the full time to live, or take the key after it. While
            // it is waited for, the lease is renewed.
            drive::await_lost_request(&self.store, self.lost_request);
        }
        self.store.keeper_of(self.held.pid()).forget(ticket);
        let Some(lease) = self.held.take() else {
            return Err(ReleaseError::Lost);
        };
        let end = match (end, self.held.hold_left()) {
            (End::AsOptionsSay, Some(left)) => End::Keep(left, None),
            (end, _) => end,
        };
        let sent = self.now();
        let result = self.finish(&lease, &end, sent);
        let is_kept = matches!(end, End::Keep(..)) && result.is_ok();
        if !is_kept {
            drive::outlive_lost_request(&self.store, lease.claim(), self.lost_request, sent);
        }
        let key = self.key();
        match &result {
            Ok(()) => self.store.tell(&LockEvent::Released { key }),
            Err(error) => self.store.tell(&LockEvent::ReleaseFailed { key, error }),
        }
        result
    }

    /// Tells the store, from `start` on, and once more if its answer is missing or it could not be reached.
    fn finish(&self, lease: &Lease, end: &End, start: Time) -> Result<(), ReleaseError> {
        let until = self.held.until();
        let was_lost = !self.held.was_valid(start);
        let deadline = start.saturating_add(self.held.terms().call_timeout);
        let mut may_be_done = false;
        let mut was_told_in_time = false;
        let mut failures = 0;
        loop {
            let valid = self.held.was_valid(self.now());
            let call = self.held.number(lease, deadline);
            let answer = match end {
                End::Keep(keep, holder) if valid => self.extend(call, *keep, holder.clone()),
                // There is nothing to keep of a lost lease.
                _ => self
                    .store
                    .release(&call)
                    .map(|released| released == Released::Ours),
            };
            match answer {
                Ok(true) if valid => return Ok(()),
                Ok(false) if was_told_in_time && matches!(end, End::Free | End::AsOptionsSay) => {
                    return Ok(());
                }
                Ok(_) => return Err(ReleaseError::Lost),
                Err(error) => {
                    failures += 1;
                    may_be_done |= error.may_have_executed();
                    was_told_in_time |= error.may_have_executed() && valid;
                    if failures < 2 && error.is_transient() && self.now() < deadline.min(until) {
                        continue;
                    }
                    let error = error.during("release");
                    return Err(match (was_lost, may_be_done) {
                        // What matters more than whether the key is free.
                        (true, _) => ReleaseError::Lost,
                        (false, true) => ReleaseError::Unknown(error),
                        (false, false) => ReleaseError::NotReleased(error),
                    });
                }
            }
        }
    }

    fn extend(
        &self,
        call: Lease,
        keep: Duration,
        holder: Option<Arc<str>>,
    ) -> Result<bool, DatastoreError> {
        let call = match holder {
            Some(holder) => call.with_holder(holder),
            None => call,
        };
        self.store
            .extend(&call, keep)
            .map(|answer| matches!(answer, Extension::Extended(_)))
    }

    fn now(&self) -> Time {
        self.store.clock().now()
    }

    fn tell_observer_of_loss(&self) {
        if !self.store.shared().is_observed() {
            return;
        }
        let tell = |event: fn(&str) -> LockEvent<'_>| {
            let (store, key) = (
                Arc::downgrade(self.store.shared()),
                Arc::clone(self.held.key()),
            );
            move || {
                if let Some(store) = store.upgrade() {
                    store.tell(&event(&key));
                }
            }
        };
        self.on_lost(tell(|key| LockEvent::Lost { key }));
        self.on_at_risk(tell(|key| LockEvent::AtRisk { key }));
    }
}

/// How a guard ends.
enum End {
    /// The key becomes free, or stays taken for the rest of `min_hold`.
    AsOptionsSay,
    /// The key becomes free.
    Free,
    /// The key stays taken for this long from now, with this description if it is a new one.
    Keep(Duration, Option<Arc<str>>),
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        // A store or an observer that panics here would abort a program that is unwinding already.
        let _ = catch_unwind(AssertUnwindSafe(|| self.end(End::AsOptionsSay)));
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
