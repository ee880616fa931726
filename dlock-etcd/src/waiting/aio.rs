//! Waiters in async code, in which neither coming nor going may block.

use std::pin::pin;
use std::sync::Arc;

use dlock_core::{Claim, Clock, DatastoreError, ErrorKind, Leaving, ProcessId, Signal, Watch};
use dlock_net::deadline_in;
use dlock_net::mux::ready_by;

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
        if self.pid != ProcessId::current() {
            return Ok(None);
        }
        let shared = self.shared()?;
        drop(shared.start(claim, signal)?);
        let (left, pid) = (Arc::clone(shared), self.pid);
        let claim = claim.clone();
        let time_left = claim.time_left();
        // Made before the wait, in which the future may be dropped.
        let watch = Watch::leaving(move |leaving| {
            // In a forked child it is the parent that waits.
            if pid == ProcessId::current() {
                left.leave_without_blocking(&claim, leaving);
            }
        });
        ready_by(deadline_in(time_left), shared.answered())
            .await
            .map_err(|error| DatastoreError::not_executed(ErrorKind::Refused, error))?;
        Ok(Some(watch))
    }
}

impl Shared {
    /// Waits until the lease of the places is answered.
    async fn answered(&self) {
        loop {
            let mut changed = pin!(self.answered.notified());
            // Before the check, so that no change is missed.
            changed.as_mut().enable();
            let is_open = {
                let state = self.state();
                state.lease == Lease::Unknown && state.is_running()
            };
            if !is_open {
                return;
            }
            changed.await;
        }
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
