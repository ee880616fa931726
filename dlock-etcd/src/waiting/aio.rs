//! Waiters in async code, in which neither coming nor going may block.

use std::sync::Arc;

use dlock_core::{Claim, Clock, DatastoreError, ErrorKind, Leaving, Signal, Watch};
use dlock_net::deadline_in;
use dlock_net::mux::{ready_by, until};

use super::state::Lease;
use super::{Shared, Waiters};

impl Waiters {
    /// As [`watch`](Self::watch), for async code.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) async fn watch_without_blocking(
        &self,
        claim: &Claim,
        signal: &Signal,
    ) -> Result<Option<Watch>, DatastoreError> {
        let Some(shared) = self.shared()? else {
            return Ok(None);
        };
        drop(shared.start(claim, signal)?);
        let (left, claim) = (Arc::clone(shared), claim.clone());
        let time_left = claim.time_left();
        // Made before the wait, in which the future may be dropped.
        let watch = self
            .shared
            .watch(move |leaving| left.leave_without_blocking(&claim, leaving));
        ready_by(deadline_in(time_left), shared.answered())
            .await
            .map_err(|error| DatastoreError::not_executed(ErrorKind::Refused, error))?;
        Ok(Some(watch))
    }
}

impl Shared {
    /// Waits until the lease of the places is answered.
    async fn answered(&self) {
        let answered = || {
            let state = self.state();
            (state.lease != Lease::Unknown || !state.is_running()).then_some(())
        };
        until(&self.answered, answered).await;
    }

    /// Removes the waiter here; the heartbeat thread deletes its place, together with those of all
    /// others that left.
    fn leave_without_blocking(&self, claim: &Claim, leaving: Leaving) {
        let now = Clock::BOOTTIME.now();
        let Some(place) = self.with_state(|state| state.leave(claim.owner(), now)) else {
            return;
        };
        drop(self.with_state(|state| state.leaves_later(place, Some(leaving))));
        self.changed.notify_all();
    }
}
