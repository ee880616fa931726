//! The thread that takes waiters of async code off the queues, where the end of a watch must not
//! block.

use std::mem;
use std::sync::PoisonError;

use dlock_core::{Claim, DatastoreError, Leaving, OwnerToken, ProcessId, Signal, Watch};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{Shared, Waiters};

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
        if self.pid != ProcessId::current() {
            return Ok(None);
        }
        let shared = self.shared()?;
        shared.enter(claim, signal)?;
        let (shared, owner, pid) = (Arc::clone(shared), claim.owner(), self.pid);
        Ok(Some(Watch::leaving(move |leaving| {
            // In a forked child it is the parent that waits.
            if pid == ProcessId::current() {
                leave_soon(&shared, owner, leaving, call_timeout);
            }
        })))
    }
}

/// Removes the waiter here, and has the thread take it off the queue if it may be there.
fn leave_soon(shared: &Arc<Shared>, owner: OwnerToken, leaving: Leaving, call_timeout: Duration) {
    let mut state = shared.state();
    if !state.leave(owner) {
        drop(state);
        return drop(leaving);
    }
    state.leaves.push((owner, leaving));
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
            let left = mem::take(&mut state.leaves);
            drop(state);
            drop(left);
        }
    }
}

fn run(shared: &Shared, call_timeout: Duration) {
    while let Some(leaves) = wait(shared) {
        let mut is_reached = true;
        for (owner, leaving) in leaves {
            is_reached = is_reached && shared.call_leave(owner, call_timeout);
            drop(leaving);
        }
    }
}

/// Waits for work. Returns `None` when nobody waits any more and all is done.
fn wait(shared: &Shared) -> Option<Vec<(OwnerToken, Leaving)>> {
    let mut state = shared.state();
    while state.leaves.is_empty() {
        if !state.is_running() {
            state.leaver_runs = false;
            return None;
        }
        state = shared
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
    }
    Some(mem::take(&mut state.leaves))
}
