//! Places that are given up.

use std::iter;

use super::*;

#[test]
fn a_place_that_is_left_to_the_thread_is_deleted_in_batches_and_ends_the_watch() {
    let (mut state, _) = state(1);
    let count = i64::try_from(BATCH).unwrap() + 7;
    for number in 0..count {
        drop(state.leaves_later(place(number), Some(Leaving::default())));
    }
    let batches = [0, 0].map(|seconds| work(&mut state, seconds).unwrap().leaves);
    assert_eq!(batches.each_ref().map(Vec::len), [BATCH, 7]);
    assert!(
        batches
            .iter()
            .flatten()
            .all(|leave| leave.leaving.is_some())
    );
    assert!(work(&mut state, 0).is_none());
}

#[test]
fn a_place_that_is_left_when_no_thread_runs_ends_with_its_lease() {
    let (mut state, waiters) = state(1);
    let owner = waiters[0].0;
    assert!(state.claims(owner, later(1)));
    state.enters(owner, crate::operations::queue::place(KEY, 1, owner), NOW);
    let place = state.leave(owner, NOW).unwrap();
    assert_eq!(state.stop().lease, Some(7));
    drop(state.leaves_later(Arc::clone(&place), None));
    assert!(state.leaves.is_empty());

    // While a thread runs, a claim that is given up deletes the place itself.
    let (mut state, waiters) = super::state(1);
    let owner = waiters[0].0;
    assert!(state.claims(owner, later(1)));
    state.enters(owner, Arc::clone(&place), NOW);
    assert!(state.leave(owner, NOW).is_some());
    drop(state.leaves_later(Arc::clone(&place), None));
    assert_eq!(state.gives_up(owner, NOW), Some(place));
}

#[test]
fn a_place_that_could_not_be_deleted_is_tried_again_a_second_later() {
    let (mut state, _) = state(1);
    assert!(work(&mut state, 0).is_some());
    state.leave_failed(vec![place(1), place(2)], NOW);
    assert_eq!(state.pause(1, NOW), HEARTBEAT_EVERY);
    assert!(leaves(&mut state, 0).is_empty());
    assert_eq!(leaves(&mut state, 1), [place(1), place(2)]);
    assert!(leaves(&mut state, 2).is_empty());
}

#[test]
fn no_more_places_are_kept_for_a_server_that_is_away_than_the_limit() {
    let (mut state, _) = state(1);
    let most = i64::try_from(LEAVES_KEPT).unwrap();
    for number in 1..most {
        drop(state.leaves_later(place(number), None));
    }
    assert_eq!(state.leaves.len(), LEAVES_KEPT - 1);
    state.leave_failed(vec![place(most), place(most + 1)], NOW);
    assert_eq!(state.leaves.len(), LEAVES_KEPT);
    drop(state.leaves_later(place(most + 2), None));
    state.leave_failed(vec![place(most + 3)], NOW);
    assert_eq!(state.leaves.len(), LEAVES_KEPT);
}

#[test]
fn a_waiter_that_gets_another_place_gives_up_the_first_and_one_that_gets_the_same_keeps_it() {
    let (mut state, waiters) = state(2);
    let owner = waiters[0].0;
    refused(&mut state, owner, 1, KEY);
    refused(&mut state, waiters[1].0, 5, &place(1));
    let all = || vec![place(1).to_string(), place(2).to_string()];
    assert!(state.claims(owner, later(2)));
    state.enters(owner, place(1), NOW);
    assert_eq!(strays(&mut state, all()), [place(2)], "the same once more");
    assert_eq!(woken(&mut state), 0);
    state.enters(owner, place(2), NOW);
    assert_eq!(
        strays(&mut state, all()),
        [place(1)],
        "it has another one now"
    );
    assert_eq!(woken(&mut state), 1);
    assert!(waiters[1].1.take());
}

#[test]
fn places_that_nobody_waits_at_are_looked_for_after_a_claim_that_got_a_second_one() {
    let (mut state, waiters) = state(1);
    let owner = waiters[0].0;
    assert!(state.claims(owner, later(2)));
    state.enters(owner, place(1), NOW);
    assert!(work(&mut state, 0).is_some_and(|work| !work.sweeps));
    state.enters(owner, place(2), NOW);
    for (seconds, sweeps) in [(1, true), (2, true), (3, false), (11, false), (12, true)] {
        // The places that are known to be left are deleted before.
        let mut works = iter::from_fn(|| work(&mut state, seconds)).take(3);
        assert_eq!(works.any(|work| work.sweeps), sweeps, "{seconds}");
    }
}

#[test]
fn a_waiter_that_was_woken_has_the_whole_of_its_turn_and_a_claim_keeps_its_place_until_its_end() {
    let turn = TURN.as_secs();
    let (mut state, waiters) = state(2);
    let owners = [waiters[0].0, waiters[1].0];
    refused(&mut state, owners[0], 1, KEY);
    refused(&mut state, owners[1], 2, KEY);
    // This one claims until that time, in a call that began before the report.
    assert!(state.claims(owners[1], later(turn + 1)));
    state.deleted(1, 120, NOW);
    assert!(leaves(&mut state, turn).is_empty());
    let mut left = leaves(&mut state, turn + 1);
    left.sort();
    assert_eq!(left, [place(1), place(2)]);
}

#[test]
fn a_waiter_whose_turn_comes_while_it_need_only_look_has_no_longer_than_a_turn() {
    let (mut state, waiters) = state(1);
    refused(&mut state, waiters[0].0, 1, KEY);
    state.created(1, 100, NOW);
    state.deleted(1, 120, NOW);
    assert!(leaves(&mut state, TURN.as_secs()).is_empty());
    assert_eq!(leaves(&mut state, TURN.as_secs() + 1), [place(1)]);
}

#[test]
fn a_waiter_that_was_answered_after_its_turn_came_is_not_woken_a_second_time() {
    let (mut state, waiters) = state(1);
    refused(&mut state, waiters[0].0, 1, KEY);
    assert!(state.claims(waiters[0].0, later(1)));
    state.deleted(1, 120, NOW);
    assert_eq!(woken(&mut state), 1);
    state.answered(waiters[0].0, false, NOW);
    assert_eq!(woken(&mut state), 0);
    assert_eq!(leaves(&mut state, 4), [place(1)], "its call has ended");
}
