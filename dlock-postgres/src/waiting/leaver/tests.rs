//! Who waits for the thread, and what becomes of waiters if the server cannot be reached.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use dlock_core::{Clock, Leaving};
use dlock_net::deadline_in;
use tokio::runtime::{Builder, Runtime};

use super::super::tests::{enter, waiters, waiting_claim};
use super::*;

const KEY: &str = "dlock:a";
const CALL: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

fn leave_of(claim: &Claim) -> Leave {
    Leave {
        key: KEY.into(),
        owner: claim.owner(),
        until: deadline_in(CALL),
        leaving: Leaving::default(),
    }
}

/// What waiters share, one of which has claimed.
fn with_waiter() -> (Waiters, Arc<Shared>, Claim) {
    let (waiters, claim) = (waiters(), waiting_claim());
    enter(&waiters, &claim);
    assert!(waiters.process_of(&claim).is_some());
    let shared = Arc::clone(waiters.shared().unwrap().unwrap());
    (waiters, shared, claim)
}

#[test]
fn a_call_waits_until_all_that_gave_up_are_off_the_queue_of_its_key() {
    let (waiters, shared, _) = with_waiter();
    shared.state().leaving.insert(KEY.into(), 2);
    let runtime = runtime();
    runtime.block_on(waiters.have_left("dlock:b", deadline_in(LONG)));
    let mut waits = pin!(waiters.have_left(KEY, deadline_in(LONG)));
    let mut is_over = || {
        let _runtime = runtime.enter();
        let mut cx = Context::from_waker(Waker::noop());
        waits.as_mut().poll(&mut cx) == Poll::Ready(())
    };
    for left in [false, true] {
        assert!(!is_over(), "{left}");
        shared.state().has_left(KEY);
        shared.left.notify_waiters();
        assert_eq!(is_over(), left);
    }
}

#[test]
fn a_call_waits_for_those_that_gave_up_no_longer_than_its_own_time() {
    let (waiters, shared, _) = with_waiter();
    shared.state().leaving.insert(KEY.into(), 1);
    let deadline = deadline_in(Duration::from_millis(30));
    runtime().block_on(waiters.have_left(KEY, deadline));
    assert!(Clock::BOOTTIME.now() >= deadline);
}

#[test]
fn nobody_waits_where_nobody_has_waited() {
    let waiters = waiters();
    runtime().block_on(waiters.have_left(KEY, deadline_in(LONG)));
}

#[test]
fn a_waiter_that_may_be_in_a_queue_is_left_to_the_thread_that_runs() {
    let (waiters, shared, claim) = with_waiter();
    shared.state().leaver_runs = true;
    leave_soon(&shared, leave_of(&claim), CALL);
    let state = shared.state();
    assert_eq!(state.leaving.get(KEY), Some(&1));
    assert_eq!(state.leaves.len(), 1, "no other thread has begun");
    assert!(!state.has_waiters());
    drop(state);
    let never_claimed = waiting_claim();
    enter(&waiters, &never_claimed);
    leave_soon(&shared, leave_of(&never_claimed), CALL);
    assert_eq!(shared.state().leaves.len(), 1, "it is in no queue");
    assert_eq!(shared.state().leaving.get(KEY), Some(&1));
}

#[test]
fn a_server_that_cannot_be_reached_keeps_nobody_from_leaving() {
    let (waiters, shared, claim) = with_waiter();
    let another = waiting_claim();
    enter(&waiters, &another);
    assert!(waiters.process_of(&another).is_some());
    for claim in [&claim, &another] {
        leave_soon(&shared, leave_of(claim), CALL);
        runtime().block_on(waiters.have_left(KEY, deadline_in(LONG)));
        let state = shared.state();
        assert!(state.leaving.is_empty() && state.leaves.is_empty());
        assert!(state.leaver_runs, "others may leave");
    }
}

#[test]
fn the_thread_ends_when_all_is_done_and_nobody_waits_any_more() {
    let (_waiters, shared, claim) = with_waiter();
    let mut state = shared.state();
    state.leaver_runs = true;
    state.leaves.push(leave_of(&claim));
    state.stop();
    drop(state);
    let leaves = wait(&shared, None).unwrap();
    assert_eq!(leaves.len(), 1, "it is done first");
    assert!(shared.state().leaver_runs);
    assert!(wait(&shared, None).is_none());
    assert!(!shared.state().leaver_runs);
}

#[test]
fn the_thread_tries_again_when_it_is_time_though_nothing_is_new() {
    let (_waiters, shared, claim) = with_waiter();
    let again = deadline_in(Duration::from_millis(10));
    assert!(wait(&shared, Some(again)).unwrap().is_empty());
    assert!(Clock::BOOTTIME.now() >= again);
    shared.state().leaves.push(leave_of(&claim));
    let new = wait(&shared, Some(deadline_in(LONG))).unwrap();
    assert_eq!(new.len(), 1, "what is new comes at once");
}
