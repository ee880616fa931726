//! The thread that keeps the places of this process, and gives up those that nobody needs.

use std::sync::{Arc, PoisonError};
use std::thread;

use dlock_core::{Clock, DatastoreError, ErrorKind, at_once};
use dlock_net::deadline_in;

use super::Shared;
use super::state::{HEARTBEAT_EVERY, LeaseWork, Next, Work};
use crate::operations::lease::{self, WAITERS_TTL, random_lease};
use crate::operations::queue;

pub(super) fn run(shared: &Shared, run: u64) {
    while let Some(work) = wait(shared, run) {
        carry_out(shared, run, work);
    }
    shared.notify_threads();
}

/// Ends the lease of a store that is dropped, and with it the places of waiters that are left.
pub(super) fn end(shared: Arc<Shared>, lease: i64) {
    // Without the thread it ends by itself.
    let _ = thread::Builder::new()
        .name("dlock-heartbeat".to_owned())
        .spawn(move || revoke(&shared, lease));
}

fn revoke(shared: &Shared, lease: i64) {
    let _ = shared
        .pool
        .call_urgent(deadline_in(HEARTBEAT_EVERY), |link, _| {
            at_once(lease::revoke(link, lease));
            Ok(())
        });
}

/// Waits for work. Returns `None` when the run is over.
fn wait(shared: &Shared, run: u64) -> Option<Work> {
    loop {
        let now = Clock::BOOTTIME.now();
        match shared.with_state(|state| state.next(run, now)) {
            Next::Work(work) => return Some(work),
            Next::End(ended) => {
                if let Some(lease) = ended.lease {
                    revoke(shared, lease);
                }
                return None;
            }
            Next::Sleep => {
                let state = shared.state();
                let pause = state.pause(run, Clock::BOOTTIME.now());
                // The condition variable's clock stops while the machine sleeps; ours does not.
                let _ = shared
                    .changed
                    .wait_timeout(state, pause.min(HEARTBEAT_EVERY))
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

fn carry_out(shared: &Shared, run: u64, work: Work) {
    // Others wait for the places to be gone.
    if !work.leaves.is_empty() {
        let (places, leaving): (Vec<_>, Vec<_>) = work
            .leaves
            .into_iter()
            .map(|leave| (leave.place, leave.leaving))
            .unzip();
        leave(shared, places);
        // If this failed, it is tried again in the background: no caller waits for it.
        drop(leaving);
    }
    match work.lease {
        Some(LeaseWork::Grant) => grant(shared, run),
        Some(LeaseWork::KeepAlive(lease)) => keep_alive(shared, run, lease),
        None => {}
    }
    if work.sweeps {
        sweep(shared);
    }
}

fn leave(shared: &Shared, places: Vec<Arc<str>>) {
    let left = call(shared, |link| at_once(queue::leave(link, &places)));
    let now = Clock::BOOTTIME.now();
    shared.with_state(|state| match left {
        Err(error) if error.is_transient() => state.leave_failed(places, now),
        _ => state.left(&places),
    });
}

fn grant(shared: &Shared, run: u64) {
    let granted = random_lease().and_then(|number| {
        call(shared, |link| {
            match at_once(lease::grant(link, number, WAITERS_TTL)) {
                // Granted by the call before this one, whose answer was lost.
                Err(error) if error.kind() == ErrorKind::Stale => Ok(number),
                answer => answer.map(|()| number),
            }
        })
    });
    let now = Clock::BOOTTIME.now();
    shared.with_state(|state| match granted {
        Ok(lease) => state.lease_granted(run, lease, now),
        Err(_) => state.lease_failed(run),
    });
    shared.lease_changed();
}

fn keep_alive(shared: &Shared, run: u64, lease: i64) {
    let now = Clock::BOOTTIME.now();
    let kept = call(shared, |link| at_once(lease::keep_alive(link, lease)));
    // An error says nothing of the lease.
    if matches!(kept, Ok(false)) {
        shared.with_state(|state| state.lease_ended(lease, now));
        grant(shared, run);
    }
}

/// Looks for places that nobody waits at: late copies of requests made them. They are deleted like
/// those of waiters that left, so that the lease is renewed meanwhile, however many there are.
fn sweep(shared: &Shared) {
    let Some(lease) = shared.state().granted_lease() else {
        return;
    };
    let Ok(places) = call(shared, |link| at_once(lease::keys_of(link, lease))) else {
        return;
    };
    shared.state().swept(places);
}

fn call<T>(
    shared: &Shared,
    mut call: impl FnMut(&mut crate::Connection) -> Result<T, DatastoreError>,
) -> Result<T, DatastoreError> {
    let deadline = deadline_in(HEARTBEAT_EVERY);
    shared.pool.call_urgent(deadline, |link, _| call(link))
}

#[cfg(test)]
mod tests;
