//! The timing thread.

use std::sync::Arc;

use super::{Inner, State, Ticket};
use crate::engine::callback::Callbacks;
use crate::engine::held_lease::HeldLease;
use crate::engine::lease_schedule::{Call, Due};
use crate::time::instant::Time;
#[cfg(feature = "tokio")]
use crate::time::user_code::contained;

/// How many leases are looked at before the agenda is: a lease that comes due meanwhile may be more
/// urgent than the rest.
const AT_ONCE: usize = 256;

pub(super) fn run(inner: &Inner) {
    while let Some(next) = look(inner) {
        inner.clock.sleep_until_realtime(&inner.timing, next);
    }
}

/// Looks at the leases whose time has come. Returns when to look again, or `None` once the keeper
/// is stopped.
pub(super) fn look(inner: &Inner) -> Option<Time> {
    let now = inner.clock.now();
    let mut state = inner.state();
    if state.stopped {
        return None;
    }
    state.next_look = None;
    let due = take_due(&mut state, now);
    drop(state);

    for (ticket, lease) in due {
        let mut callbacks = Callbacks::default();
        let due = lease.due(now, &mut callbacks);
        inner.delivery.deliver(callbacks);
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
                jobs.insert((lease.until(), ticket), lease);
                inner.work.notify();
            }
            Due::Over => state.forget(ticket),
        }
    }

    let mut state = inner.state();
    let next = state.agenda.first().map_or(Time::MAX, |(at, _)| *at);
    #[cfg(feature = "tokio")]
    let ringing = state.alarms.take_due(now);
    #[cfg(feature = "tokio")]
    let next = next.min(state.alarms.next());
    state.next_look = Some(next);
    drop(state);
    // Last: no task is woken before the losses of this moment are declared, and no waker, which is
    // code of the user, delays them.
    #[cfg(feature = "tokio")]
    for waker in ringing.into_values() {
        contained(|| waker.wake());
    }
    Some(next)
}

/// The leases whose time to be looked at has come, those that nobody refers to any more left out.
fn take_due(state: &mut State, now: Time) -> Vec<(Ticket, Arc<HeldLease>)> {
    let mut due = Vec::new();
    while let Some(&(at, ticket)) = state.agenda.first() {
        if at > now || at == Time::MAX || due.len() == AT_ONCE {
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
            None => state.forget(ticket),
        }
    }
    due
}
