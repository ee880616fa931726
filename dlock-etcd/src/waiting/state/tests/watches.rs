//! Watches, and the waiters that are behind what they watch.

use super::*;

#[test]
fn a_watch_that_a_waiter_needs_outlives_heartbeats() {
    let (mut state, waiters) = state(1);
    refused(&mut state, waiters[0].0, 1, KEY);
    assert!(state.has_requests());
    assert_eq!(state.take_requests(1), [watching::create(1, KEY)]);
    assert!(work(&mut state, 1).is_some());
    assert!(!state.has_requests());
    state.deleted(1, 120, later(1));
    assert_eq!(woken(&mut state), 1);
}

#[test]
fn a_waiter_that_left_is_woken_no_more_and_the_next_one_has_its_watch() {
    let (mut state, waiters) = state(3);
    for (at, (owner, _)) in (1..).zip(&waiters[..2]) {
        refused(&mut state, *owner, at, KEY);
    }
    assert_eq!(state.take_requests(1).len(), 1);
    assert!(state.leave(waiters[0].0, NOW).is_some());
    state.deleted(1, 120, NOW);
    assert_eq!(woken(&mut state), 1);
    assert!(waiters[1].1.take());
    assert!(state.leave(waiters[1].0, NOW).is_some());

    assert!(state.claims(waiters[2].0, later(1)));
    state.waits_behind(waiters[2].0, KEY.into(), 130, NOW);
    assert!(!state.has_requests(), "there is one yet");
    assert!(state.leave(waiters[2].0, NOW).is_none());
    assert!(work(&mut state, 1).is_some());
    assert_eq!(state.take_requests(1), [watching::cancel(1)]);
}

#[test]
fn a_waiter_that_waits_for_something_else_is_not_woken_by_what_it_waited_for() {
    let (mut state, waiters) = state(2);
    for (at, (owner, _)) in (1..).zip(&waiters) {
        refused(&mut state, *owner, at, KEY);
    }
    refused(&mut state, waiters[0].0, 1, "dlock:b");
    state.deleted(1, 120, NOW);
    assert_eq!(woken(&mut state), 1);
    assert!(waiters[1].1.take());
}

#[test]
fn of_two_behind_a_place_of_this_process_one_may_leave() {
    let (mut state, waiters) = state(3);
    refused(&mut state, waiters[0].0, 1, KEY);
    refused(&mut state, waiters[1].0, 2, &place(1));
    refused(&mut state, waiters[2].0, 3, &place(1));
    assert!(state.leave(waiters[1].0, NOW).is_some());
    assert_eq!(woken(&mut state), 0);
    assert!(state.leave(waiters[0].0, NOW).is_some());
    assert_eq!(woken(&mut state), 1);
    assert!(waiters[2].1.take());
}

#[test]
fn a_place_of_this_process_that_nobody_is_behind_any_more_is_forgotten() {
    let (mut state, waiters) = state(2);
    refused(&mut state, waiters[0].0, 1, KEY);
    refused(&mut state, waiters[1].0, 2, &place(1));
    assert!(state.watched.contains_key(&place(1)));
    assert!(state.leave(waiters[1].0, NOW).is_some());
    assert!(!state.watched.contains_key(&place(1)));
}

#[test]
fn a_lost_connection_wakes_only_those_whose_watch_went_over_it() {
    let (mut state, waiters) = state(2);
    refused(&mut state, waiters[0].0, 1, KEY);
    refused(&mut state, waiters[1].0, 2, &place(1));
    state.watches_lost();
    assert_eq!(woken(&mut state), 1);
    assert!(waiters[0].1.take());
}

#[test]
fn what_was_deleted_while_a_waiter_came_wakes_it_in_its_turn() {
    let (mut state, waiters) = state(2);
    refused(&mut state, waiters[0].0, 1, KEY);
    state.deleted(1, 100, NOW);
    assert_eq!(woken(&mut state), 1);
    refused(&mut state, waiters[1].0, 2, KEY);
    assert_eq!(woken(&mut state), 1, "at the very revision");
    assert_eq!(leaves(&mut state, TURN.as_secs() + 1).len(), 2);
}

#[test]
fn reports_of_watches_that_are_over_and_claims_of_strangers_change_nothing() {
    let (mut state, waiters) = state(1);
    refused(&mut state, waiters[0].0, 1, KEY);
    state.created(2, 120, NOW);
    state.deleted(2, 120, NOW);
    state.compacted(2, NOW);
    assert_eq!(woken(&mut state), 0);
    let stranger = OwnerToken::random().unwrap();
    assert!(!state.claims(stranger, later(1)));
    state.enters(stranger, place(9), NOW);
    state.waits_behind(stranger, KEY.into(), 1, NOW);
    assert_eq!(state.place(stranger), None);
    assert_eq!(strays(&mut state, vec![place(9).to_string()]), [place(9)]);
    state.deleted(1, 120, NOW);
    assert_eq!(woken(&mut state), 1);
}

#[test]
fn a_waiter_that_comes_to_a_watch_which_may_have_missed_something_looks_at_once() {
    let (mut state, waiters) = state(2);
    refused(&mut state, waiters[0].0, 1, KEY);
    state.created(1, 99, NOW);
    assert_eq!(woken(&mut state), 0);
    assert!(state.claims(waiters[1].0, later(1)));
    state.waits_behind(waiters[1].0, KEY.into(), 99, NOW);
    assert_eq!(woken(&mut state), 1, "before its claim has ended");
    state.answered(waiters[1].0, false, NOW);
    assert_eq!(woken(&mut state), 0, "once is enough");
}
