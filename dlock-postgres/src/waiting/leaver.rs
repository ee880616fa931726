//! The thread that takes waiters which gave up off the queues.

use std::mem;
use std::sync::PoisonError;
use std::time::Duration;

use dlock_core::{Leaving, OwnerToken};
use dlock_net::deadline_in;

use super::Shared;
use crate::operations::Call;

/// The most that one of them may take. A waiter that is left in the queue costs the others nothing
/// until its turn: then this process is notified, and gives the lock back.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn run(shared: &Shared, run: u64) {
    while let Some(leaves) = wait(shared, run) {
        let mut is_reached = true;
        for (owner, leaving) in leaves {
            if is_reached {
                let left = shared
                    .pool
                    .call_urgent(deadline_in(LEAVE_WITHIN), |server, _| {
                        server.call(&Call::Leave(owner))
                    });
                is_reached = left.is_ok();
            }
            drop(leaving);
        }
    }
}

/// Waits for work. Returns `None` when the run is over and all is done.
fn wait(shared: &Shared, run: u64) -> Option<Vec<(OwnerToken, Leaving)>> {
    let mut state = shared.state();
    while state.leaves.is_empty() {
        if !state.runs(run) {
            return None;
        }
        state = shared
            .changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
    }
    Some(mem::take(&mut state.leaves))
}
