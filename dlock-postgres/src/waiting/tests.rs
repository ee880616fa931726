//! What a claim is to know of the waiters of this process. No thread runs, and no connection is
//! opened.

use dlock_core::Time;
use dlock_net::Limits;

use super::*;
use crate::operations::{ALIVE, Heartbeat};

const TTL: Duration = Duration::from_secs(5);

pub(super) fn waiters() -> Waiters {
    let manager = ConnectionManager::new("postgres://app@127.0.0.1:1/app").unwrap();
    Waiters::new(Arc::new(Pool::new(manager, Limits::default().pool)))
}

fn claim() -> Claim {
    Claim::new("dlock:a", &Clock::BOOTTIME, TTL).unwrap()
}

/// A claim that waits if it is refused.
pub(super) fn waiting_claim() -> Claim {
    claim().with_deadline(deadline_in(TTL))
}

/// Adds the claim as a waiter of this process, as if the thread ran.
pub(super) fn enter<'a>(waiters: &'a Waiters, claim: &Claim) -> &'a Shared {
    let shared = waiters.shared().unwrap().unwrap();
    let mut state = shared.state();
    let _ = state.start();
    state.enter(claim.owner(), &Signal::new());
    drop(state);
    shared
}

fn beaten(shared: &Shared, sent: Time) {
    let beat = Heartbeat {
        backend: 1,
        is_known: true,
        next: None,
        handed: Vec::new(),
    };
    shared.with_state(|state| state.beaten(&beat, sent, sent));
}

#[test]
fn only_a_claim_that_waits_is_queued_and_under_the_name_of_this_process() {
    let waiters = waiters();
    let (waits, other) = (waiting_claim(), waiting_claim());
    assert_eq!(waiters.process_of(&waits), None, "nobody has waited yet");
    let shared = enter(&waiters, &waits);
    assert_eq!(waiters.process_of(&waits), Some(&*shared.process));
    assert_eq!(waiters.process_of(&other), None, "it is no waiter");
    assert_eq!(shared.process.len(), PROCESS);
    let tries = claim().owned_by(waits.owner());
    assert_eq!(waiters.process_of(&tries), None, "it only tries");
}

#[test]
fn a_waiter_that_was_granted_the_lock_is_off_the_queue() {
    for is_granted in [false, true] {
        let (waiters, claim) = (waiters(), waiting_claim());
        let shared = enter(&waiters, &claim);
        assert!(waiters.process_of(&claim).is_some());
        if is_granted {
            waiters.granted(&claim);
        }
        assert_eq!(shared.state().leave(claim.owner()), !is_granted);
    }
}

#[test]
fn a_waiter_asks_again_soon_if_nothing_wakes_it_and_the_next_one_when_the_lease_ends() {
    let (waiters, claim) = (waiters(), waiting_claim());
    let shared = enter(&waiters, &claim);
    let held = |millis| HeldBy::new().with_expires_in(Duration::from_millis(millis));
    let unknown = HeldBy::new();
    for (held, is_next) in [
        (&held(5000), true),
        (&held(60_000), false),
        (&unknown, true),
    ] {
        let retry_in = waiters.retry_in(&claim, held, is_next);
        assert_eq!(retry_in, HEARTBEAT_EVERY, "there is no connection");
    }
    beaten(shared, Clock::BOOTTIME.now());
    for (held, is_next, expected) in [
        (held(5000), true, Duration::from_secs(5)),
        (held(5000), false, UNTIL_WOKEN),
        (held(200), true, HEARTBEAT_EVERY),
        (held(60_000), true, UNTIL_WOKEN),
        (unknown, true, UNTIL_WOKEN),
    ] {
        assert_eq!(waiters.retry_in(&claim, &held, is_next), expected, "{held}");
    }
    beaten(shared, Clock::BOOTTIME.now().saturating_sub(ALIVE));
    assert_eq!(waiters.retry_in(&claim, &held(5000), true), HEARTBEAT_EVERY);
}

#[test]
fn a_change_wakes_those_whose_turn_may_have_come() {
    let (waiters, claim) = (waiters(), waiting_claim());
    let shared = waiters.shared().unwrap().unwrap();
    let signal = Signal::new();
    shared.state().enter(claim.owner(), &signal);
    assert!(!signal.take());
    shared.with_state(State::connected);
    assert!(signal.take());
}

#[test]
fn the_thread_ends_with_the_store() {
    let (waiters, claim) = (waiters(), waiting_claim());
    enter(&waiters, &claim);
    let shared = Arc::clone(waiters.shared().unwrap().unwrap());
    assert!(shared.state().runs(1));
    drop(waiters);
    assert!(!shared.state().runs(1));
    assert_eq!(shared.state().start(), None, "it does not begin again");
}

#[test]
fn a_server_that_cannot_be_reached_has_not_answered() {
    let (waiters, claim) = (waiters(), waiting_claim());
    let shared = enter(&waiters, &claim);
    let left = shared.call_leave(claim.owner(), TTL, TTL);
    assert!(matches!(left, Left::NoAnswer));
}
