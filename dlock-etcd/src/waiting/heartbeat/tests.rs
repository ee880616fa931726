//! What the thread does if the cluster cannot be reached, and when it ends.

use dlock_core::OwnerToken;

use super::super::state::Lease;
use super::super::tests::{KEY, RUN, with_waiter};
use super::*;

fn place(number: i64) -> Arc<str> {
    queue::place(KEY, number, OwnerToken::random().unwrap())
}

/// The places that the thread will try to delete.
fn to_delete(shared: &Shared) -> Vec<Arc<str>> {
    let later = deadline_in(HEARTBEAT_EVERY * 2);
    match shared.state().next(RUN, later) {
        Next::Work(work) => work.leaves.into_iter().map(|leave| leave.place).collect(),
        Next::Sleep | Next::End(_) => panic!("a heartbeat is due"),
    }
}

#[test]
fn places_that_could_not_be_deleted_are_tried_again() {
    let (shared, _) = with_waiter();
    let places = [place(1), place(2)];
    for place in &places {
        drop(shared.state().leaves_later(Arc::clone(place), None));
    }
    let work = wait(&shared, RUN).unwrap();
    assert_eq!(work.leaves.len(), 2);
    carry_out(&shared, RUN, work);
    assert_eq!(to_delete(&shared), places);
}

#[test]
fn a_claim_that_is_given_up_deletes_its_place_itself_if_others_could_not() {
    let now = Clock::BOOTTIME.now();
    // The thread that left the queue.
    let (shared, claim) = with_waiter();
    let place = shared.state().place(claim.owner());
    shared.leave(&claim, HEARTBEAT_EVERY);
    assert_eq!(shared.state().gives_up(claim.owner(), now), place);

    // The heartbeat thread.
    let (shared, claim) = with_waiter();
    let place = shared.state().leave(claim.owner(), now).unwrap();
    drop(shared.state().leaves_later(Arc::clone(&place), None));
    let work = wait(&shared, RUN).unwrap();
    carry_out(&shared, RUN, work);
    assert_eq!(shared.state().gives_up(claim.owner(), now), Some(place));
}

#[test]
fn a_grant_that_fails_is_noted_so_that_waiters_wait_for_it_no_longer() {
    let (shared, _) = with_waiter();
    shared.state().lease = Lease::Unknown;
    grant(&shared, RUN);
    assert_eq!(shared.state().lease, Lease::Failed);
}

#[test]
fn a_heartbeat_without_an_answer_says_nothing_of_the_lease() {
    let (shared, claim) = with_waiter();
    keep_alive(&shared, RUN, 7);
    sweep(&shared);
    let state = shared.state();
    assert_eq!(state.granted_lease(), Some(7));
    assert!(state.place(claim.owner()).is_some());
}

#[test]
fn the_thread_sleeps_until_there_is_work_and_ends_with_its_run() {
    let (shared, claim) = with_waiter();
    let first = wait(&shared, RUN).unwrap();
    assert_eq!(first.lease, Some(LeaseWork::KeepAlive(7)));
    let second = wait(&shared, RUN).unwrap();
    assert_eq!(
        second.lease,
        Some(LeaseWork::KeepAlive(7)),
        "a second later"
    );
    assert!(wait(&shared, RUN + 1).is_none());
    assert!(shared.state().place(claim.owner()).is_some());
    drop(shared.with_state(super::super::State::stop));
    assert!(wait(&shared, RUN).is_none());
    run(&shared, RUN);
}
