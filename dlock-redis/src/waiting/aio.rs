//! Waiters in async code, in which neither coming nor going may block.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{Claim, DatastoreError, ErrorKind, Leaving, Signal, Watch};
use dlock_net::deadline_in;
use dlock_net::mux::{ready_by, until};
use tokio::runtime::Handle;

use super::state::{State, SubscriptionState};
use super::{Shared, Waiters};
use crate::operations::{Answer, Call};

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
        call_timeout: Duration,
    ) -> Result<Option<Watch>, DatastoreError> {
        let Some(shared) = self.shared()? else {
            return Ok(None);
        };
        if !shared.enter_without_blocking(claim, signal).await? {
            return Ok(None);
        }
        let (shared, claim) = (Arc::clone(shared), claim.clone());
        let came_on = Handle::try_current().ok();
        Ok(Some(self.shared.watch(move |leaving| {
            let runtime = Handle::try_current().ok().or(came_on);
            shared.leave_without_blocking(&claim, leaving, runtime, call_timeout);
        })))
    }
}

impl Shared {
    async fn enter_without_blocking(
        self: &Arc<Self>,
        claim: &Claim,
        signal: &Signal,
    ) -> Result<bool, DatastoreError> {
        drop(self.start()?);
        ready_by(deadline_in(claim.time_left()), self.answered())
            .await
            .map_err(|error| DatastoreError::not_executed(ErrorKind::Refused, error))?;
        Ok(self.add(&mut self.state(), claim, signal))
    }

    /// Waits until the subscription is answered.
    async fn answered(&self) {
        let answered = || (self.state().subscription != SubscriptionState::Starting).then_some(());
        until(&self.answered, answered).await;
    }

    /// Removes the waiter here, and sends that it left: before what this process sends next over
    /// the same connection. If none is open or the server does not answer, the heartbeat thread
    /// reports it, together with all others that left.
    fn leave_without_blocking(
        self: Arc<Self>,
        claim: &Claim,
        leaving: Leaving,
        runtime: Option<Handle>,
        call_timeout: Duration,
    ) {
        let mut state = self.state();
        if !state.leave(claim.owner()) {
            return;
        }
        state.ended(claim.owner());
        drop(state);
        let unreported = Unreported {
            shared: Arc::clone(&self),
            claim: claim.clone(),
            leaving,
            is_reported: false,
        };
        let deadline = deadline_in(call_timeout);
        let call = Call::Leave {
            key: claim.key(),
            owner: claim.owner(),
            process: &self.process,
        };
        self.servers
            .send_at_once(runtime, deadline, call, move |reply| {
                unreported.answered(matches!(reply, Some(Ok(Answer::Released(_)))));
            });
    }
}

/// A waiter that left, until the server knows. Dropped before, it is left to the heartbeat thread.
struct Unreported {
    shared: Arc<Shared>,
    claim: Claim,
    leaving: Leaving,
    is_reported: bool,
}

impl Unreported {
    /// A method, since a closure that sets the field would capture the field alone.
    fn answered(mut self, is_reported: bool) {
        self.is_reported = is_reported;
    }
}

impl Drop for Unreported {
    fn drop(&mut self) {
        if !self.is_reported {
            let (key, owner) = (self.claim.key(), self.claim.owner());
            let leaving = mem::take(&mut self.leaving);
            let leaves_soon = |state: &mut State| state.leaves_soon(key, owner, leaving);
            drop(self.shared.with_state(leaves_soon));
            self.shared.changed.notify_all();
        }
    }
}
