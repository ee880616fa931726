//! The timing thread.

use std::sync::Arc;
use std::time::Duration;

use super::{Inner, Job, State, Ticket};
use crate::Time;
use crate::held_lease::{Call, Due, HeldLease};

/// How long to wait for a thread to call a callback on.
const RETRY_CALLBACKS: Duration = Duration::from_millis(100);

pub(super) fn run(inner: &Inner) {
    loop {
        let now = inner.clock.now();
        let mut state = inner.state();
        if state.stopped {
            return;
        }
        state.next_look = None;
        let mut callbacks = std::mem::take(&mut state.undelivered);
        let due = take_due(&mut state, now);
        drop(state);

        for (ticket, lease) in due {
            let due = lease.due(now, &mut callbacks);
            let mut state = inner.state();
            // Asked under the lock: an answer may have come in since, and set another time.
            let next = lease.next_look();
            match due {
                Due::Nothing => inner.look_at(&mut state, ticket, next),
                Due::Call(call) => {
                    inner.look_at(&mut state, ticket, next);
                    let jobs = match call {
                        Call::Extend => &mut state.extends,
                        Call::Confirm => &mut state.confirms,
                    };
                    jobs.push_back(Job { ticket, lease });
                    inner.work.notify();
                }
                Due::Over => {
                    if let Some(kept) = state.kept.remove(&ticket) {
                        state.agenda.remove(&(kept.look_at, ticket));
                    }
                }
            }
        }
        // Without a notification: it would end the sleep below at once.
        inner.try_call(callbacks);

        let mut state = inner.state();
        let mut next = state.agenda.first().map_or(Time::MAX, |(at, _)| *at);
        if !state.undelivered.is_empty() {
            next = next.min(now.saturating_add(RETRY_CALLBACKS));
        }
        state.next_look = Some(next);
        drop(state);
        inner.clock.stand_by(&inner.timing, next);
    }
}

/// The leases whose time to be looked at has come, those that nobody refers to any more left out.
fn take_due(state: &mut State, now: Time) -> Vec<(Ticket, Arc<HeldLease>)> {
    let mut due = Vec::new();
    while let Some(&(at, ticket)) = state.agenda.first() {
        if at > now || at == Time::MAX {
            break;
        }
        state.agenda.pop_first();
        let Some(kept) = state.kept.get_mut(&ticket) else {
            continue;
        };
        match kept.lease.upgrade() {
            Some(lease) => {
                kept.look_at = Time::MAX;
                state.agenda.insert((Time::MAX, ticket));
                due.push((ticket, lease));
            }
            None => {
                state.kept.remove(&ticket);
            }
        }
    }
    due
}
