//! The thread that takes waiters of async code off the queues, where the end of a watch must not
//! block.

use std::mem;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use dlock_core::{Claim, Clock, DatastoreError, Signal, Time, Watch};
use dlock_net::deadline_in;
use dlock_net::mux::{ready_by, until};

use super::state::Leave;
use super::{LOCKED_AGAIN, Left, Shared, Waiters};

impl Waiters {
    /// As [`watch`](Self::watch), for async code.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn watch_without_blocking(
        &self,
        claim: &Claim,
        signal: &Signal,
        call_timeout: Duration,
    ) -> Result<Option<Watch>, DatastoreError> {
        let Some(shared) = self.shared()? else {
            return Ok(None);
        };
        shared.enter(claim, signal)?;
        let shared = Arc::clone(shared);
        let (key, owner) = (Arc::from(claim.key()), claim.owner());
        Ok(Some(self.shared.watch(move |leaving| {
            let leave = Leave {
                key,
                owner,
                until: deadline_in(call_timeout),
                leaving,
            };
            leave_soon(&shared, leave, call_timeout);
        })))
    }

    /// Waits until the waiters of this process that gave up are off the queue of the key, by
    /// `deadline`. What frees the key after that is not handed to one of them, as it would be if it
    /// overtook their leaves on another connection.
    pub(crate) async fn have_left(&self, key: &str, deadline: Time) {
        let Some(shared) = self.shared.get() else {
            return;
        };
        if shared.state().leaving.contains_key(key) {
            // Without a thread for the time the call says so.
            let _ = ready_by(deadline, shared.have_left(key)).await;
        }
    }
}

impl Shared {
    async fn have_left(&self, key: &str) {
        let has_left = || (!self.state().leaving.contains_key(key)).then_some(());
        until(&self.left, has_left).await;
    }
}

/// Removes the waiter here, and has the thread take it off the queue if it may be there.
fn leave_soon(shared: &Arc<Shared>, leave: Leave, call_timeout: Duration) {
    let mut state = shared.state();
    if !state.leave(leave.owner) {
        drop(state);
        return drop(leave);
    }
    *state.leaving.entry(Arc::clone(&leave.key)).or_default() += 1;
    state.leaves.push(leave);
    let starts = !mem::replace(&mut state.leaver_runs, true);
    drop(state);
    shared.changed.notify_all();
    if starts {
        let leaver = Arc::clone(shared);
        let thread = thread::Builder::new().name("dlock-leaver".to_owned());
        if thread.spawn(move || run(&leaver, call_timeout)).is_err() {
            // The waiters cost the others nothing until their turns come.
            let mut state = shared.state();
            state.leaver_runs = false;
            state.leaving.clear();
            let left = mem::take(&mut state.leaves);
            drop(state);
            shared.left.notify_waiters();
            // It wakes tasks, which may come back to the state.
            drop(left);
        }
    }
}

fn run(shared: &Shared, call_timeout: Duration) {
    // Those whose keys' rows another transaction has locked.
    let mut locked: Vec<Leave> = Vec::new();
    loop {
        let again = (!locked.is_empty()).then(|| deadline_in(LOCKED_AGAIN));
        let Some(new) = wait(shared, again) else {
            return;
        };
        let mut is_reached = true;
        for leave in new.into_iter().chain(mem::take(&mut locked)) {
            let left = match is_reached {
                true if locked.iter().any(|other| other.key == leave.key) => Left::RowIsLocked,
                true => shared.call_leave(leave.owner, call_timeout, Duration::ZERO),
                false => Left::NoAnswer,
            };
            if matches!(left, Left::RowIsLocked) && Clock::BOOTTIME.now() < leave.until {
                locked.push(leave);
                continue;
            }
            is_reached = !matches!(left, Left::NoAnswer);
            shared.state().has_left(&leave.key);
            shared.left.notify_waiters();
            drop(leave.leaving);
        }
    }
}

/// Waits for work, until `again` if something is to be tried again then. Returns `None` when nobody
/// waits any more and all is done.
fn wait(shared: &Shared, again: Option<Time>) -> Option<Vec<Leave>> {
    let mut state = shared.state();
    while state.leaves.is_empty() {
        let changed = &shared.changed;
        state = match again.map(|again| Clock::BOOTTIME.now().until(again)) {
            Some(Duration::ZERO) => break,
            Some(left) => {
                let waited = changed.wait_timeout(state, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None if state.is_running() => {
                let waited = changed.wait(state);
                waited.unwrap_or_else(PoisonError::into_inner)
            }
            None => {
                state.leaver_runs = false;
                return None;
            }
        };
    }
    Some(mem::take(&mut state.leaves))
}

#[cfg(test)]
mod tests;
