//! The release flow: frees the key or leaves it taken, and undoes what a lost copy of the claim may
//! have done.

use std::sync::Arc;
use std::time::Duration;

use crate::acquire_error::ReleaseError;
use crate::contract::claim::Claim;
use crate::contract::error::DatastoreError;
use crate::contract::holder::Holder;
use crate::contract::lease::Lease;
use crate::contract::outcome::{Extension, ReleaseOutcome};
use crate::engine::acquire::for_call;
use crate::engine::hold::{Caller, End, Holding};
use crate::engine::io::Io;
use crate::observer::LockEvent;
use crate::time::instant::Time;

impl Holding {
    /// Ends the hold. A second call does nothing.
    ///
    /// # Errors
    ///
    /// If the lease was lost before, or if the store could not be reached or did not answer.
    pub async fn end<S: Io>(
        &mut self,
        io: &S,
        end: End,
        caller: Caller,
    ) -> Result<(), ReleaseError> {
        let Some(ticket) = self.ticket.take() else {
            return Ok(());
        };
        if self.is_inherited(io) {
            return Err(ReleaseError::Lost);
        }
        if matches!(end, End::AsOptionsSay) && self.held.hold_left().is_some() {
            // A late copy of the claim would extend the rest of `min_hold` to the full time to
            // live, or take the key again after it. So wait until no copy can follow; the lease is
            // renewed meanwhile.
            Box::pin(await_lost_request(io, self.lost_request)).await;
        }
        io.forget(self.held.process(), ticket);
        let result = if caller == Caller::Drops && self.is_over(io) {
            self.clean_up_in_background(io);
            Err(ReleaseError::Lost)
        } else {
            self.release(io, end).await
        };
        if io.observer().is_some() {
            let (key, held) = (&**self.held.key(), self.held.held_for());
            match &result {
                Ok(()) => io.report(&LockEvent::Released { key, held }),
                Err(error) => io.report(&LockEvent::ReleaseFailed { key, held, error }),
            }
        }
        result
    }

    /// Returns whether the lease has ended and no late copy of its claim would have to be undone.
    fn is_over<S: Io>(&self, io: &S) -> bool {
        let (now, refused) = (io.clock().now(), io.characteristics().refuses_late_calls);
        let copy_may_follow = |until| now < until || !refused;
        !self.held.was_valid(now) && !self.lost_request.is_some_and(copy_may_follow)
    }

    /// Hands what may be left of the lease in the store to the keeper, which releases it.
    fn clean_up_in_background<S: Io>(&self, io: &S) {
        if let Some(lease) = self.held.take() {
            io.clean_up(&self.held, lease);
        }
    }

    /// Stops the renewal of the lease and ends it in the store.
    pub(super) async fn release<S: Io>(&self, io: &S, end: End) -> Result<(), ReleaseError> {
        let Some(mut lease) = self.held.take() else {
            return Err(ReleaseError::Lost);
        };
        let end = match (end, self.held.hold_left()) {
            (End::AsOptionsSay, Some(left)) => {
                let kept = Holder::kept_text(lease.claim().holder());
                End::Keep(left, kept.map(Arc::from))
            }
            (end, _) => end,
        };
        let sent = io.clock().now();
        let result = self.finish(io, &mut lease, &end, sent).await;
        let is_kept = matches!(end, End::Keep(..)) && result.is_ok();
        if !is_kept && self.lost_request.is_some() {
            // In a box: few releases need it, and it would be a part of the future of each.
            let outlive = outlive_lost_request(io, lease.claim(), self.lost_request, sent);
            Box::pin(outlive).await;
        }
        result
    }

    /// Calls the store, and calls it once more if it could not be reached or did not answer.
    /// `start` is the time of the first call.
    async fn finish<S: Io>(
        &self,
        io: &S,
        lease: &mut Lease,
        end: &End,
        start: Time,
    ) -> Result<(), ReleaseError> {
        let until = self.held.until();
        let was_lost = !self.held.was_valid(start);
        let deadline = start.saturating_add(self.held.policy().call_timeout);
        let mut may_be_done = false;
        let mut was_sent_in_time = false;
        let mut failures = 0;
        let mut now = start;
        loop {
            let valid = self.held.was_valid(now);
            self.held.renumber(lease, deadline);
            let answer = match end {
                End::Keep(keep, holder) if valid => {
                    // In a box, as what comes after it: few releases need it.
                    let answer = Box::pin(keep_for(io, lease, *keep, holder.as_ref())).await;
                    answer.map(|answer| matches!(answer, Extension::Extended(_)))
                }
                // A lost lease cannot be kept, only released.
                _ => {
                    let answer = io.release(lease).await;
                    answer.map(|released| released == ReleaseOutcome::Released)
                }
            };
            match answer {
                Ok(true) if valid => return Ok(()),
                Ok(false) if was_sent_in_time && matches!(end, End::Free | End::AsOptionsSay) => {
                    return Ok(());
                }
                Ok(_) => return Err(ReleaseError::Lost),
                Err(error) => {
                    failures += 1;
                    may_be_done |= error.may_have_executed();
                    was_sent_in_time |= error.may_have_executed() && valid;
                    now = io.clock().now();
                    if failures < 2 && error.is_transient() && now < deadline.min(until) {
                        continue;
                    }
                    let error = error.during("release");
                    return Err(match (was_lost, may_be_done) {
                        // The loss matters more than whether the key is free now.
                        (true, _) => ReleaseError::Lost,
                        (false, true) => ReleaseError::Unknown(error),
                        (false, false) => ReleaseError::NotReleased(error),
                    });
                }
            }
        }
    }
}

/// Keeps the key for `keep` from now, with this text as the description of its holder.
async fn keep_for<S: Io>(
    io: &S,
    lease: &Lease,
    keep: Duration,
    holder: Option<&Arc<str>>,
) -> Result<Extension, DatastoreError> {
    match holder {
        Some(holder) => {
            let described = lease.clone().with_holder(Arc::clone(holder));
            io.extend(&described, keep).await
        }
        None => io.extend(lease, keep).await,
    }
}

/// Cleans up after a release whose first try was sent at `sent`: waits until a lost copy of the
/// claim can no longer be carried out, and undoes what it may have done. Otherwise the late copy
/// would re-acquire the key with no owner left to release it, and block everyone for one time to
/// live.
pub async fn outlive_lost_request<S: Io>(
    io: &S,
    claim: &Claim,
    lost_request: Option<Time>,
    sent: Time,
) {
    // A store that refuses late calls carries out nothing after that time. Any other store is at
    // least notified that the claim is given up.
    let refused = io.characteristics().refuses_late_calls;
    let Some(until) = lost_request.filter(|until| sent < *until || !refused) else {
        return;
    };
    io.sleep(None, until).await;
    // If that fails too, the claim holds the key for at most one time to live.
    let _ = io.abandon(&for_call(io, claim)).await;
}

/// Waits until a lost copy of the claim, if there is one, can no longer be carried out.
pub async fn await_lost_request<S: Io>(io: &S, lost_request: Option<Time>) {
    if let Some(until) = lost_request {
        io.sleep(None, until).await;
    }
}
