//! The runs of the threads.

use super::*;

#[test]
fn the_threads_are_started_once_and_not_for_a_store_that_is_dropped() {
    let mut state = State::default();
    assert_eq!(state.start(NOW), Some(1));
    assert!(state.is_running());
    assert_eq!(state.start(NOW), None, "they run");
    state.lease_granted(1, 7, NOW);
    assert_eq!(state.stop().lease, Some(7));
    assert!(!state.is_running());
    assert_eq!(state.start(NOW), None, "the store is dropped");
}

#[test]
fn a_run_whose_threads_did_not_start_gives_way_to_another_which_its_end_leaves_alone() {
    let mut state = State::default();
    assert_eq!(state.start(NOW), Some(1));
    assert_eq!(state.end(1).lease, None);
    assert_eq!(state.start(NOW), Some(2));
    state.lease_granted(2, 7, NOW);
    assert_eq!(state.end(1).lease, None);
    assert!(state.runs(2));
    assert_eq!(state.end(2).lease, Some(7));
    assert!(!state.runs(2));
}

#[test]
fn a_new_run_asks_for_a_lease_at_once_however_short_the_time_since_the_last_one() {
    let mut state = State::default();
    state.start(NOW).unwrap();
    assert!(work(&mut state, 0).is_some());
    let just_before = later(9).saturating_add(Duration::from_millis(900));
    assert!(matches!(state.next(1, just_before), Next::Work(_)));
    assert!(matches!(state.next(1, later(10)), Next::End(_)));
    assert_eq!(state.start(later(10)), Some(2));
    state.enter(OwnerToken::random().unwrap(), &Signal::new());
    let Next::Work(work) = state.next(2, later(10)) else {
        panic!("there is no lease")
    };
    assert_eq!(work.lease, Some(LeaseWork::Grant));
    assert!(!work.sweeps, "there is nothing to look for yet");
    assert!(matches!(state.next(1, later(10)), Next::End(_)));
}

#[test]
fn the_thread_sleeps_until_the_next_heartbeat_sweep_or_deletion() {
    let (mut state, _) = state(1);
    let pause = |state: &State, seconds| state.pause(1, later(seconds));
    let second = Duration::from_secs(1);
    assert!(work(&mut state, 0).is_some());
    assert_eq!(pause(&state, 0), second);
    assert_eq!(state.pause(2, NOW), Duration::ZERO, "that run is over");
    drop(state.leaves_later(place(1), None));
    assert_eq!(pause(&state, 0), Duration::ZERO, "a place is to be deleted");
    assert_eq!(leaves(&mut state, 0), [place(1)]);
    assert_eq!(pause(&state, 0), second);

    let soon = later(9).saturating_add(second / 2);
    assert!(matches!(state.next(1, soon), Next::Work(_)));
    assert_eq!(state.pause(1, soon), second / 2, "the sweep");
    assert!(work(&mut state, 10).is_some_and(|work| work.sweeps && work.lease.is_none()));
    assert!(work(&mut state, 11).is_some_and(|work| !work.sweeps));
}

#[test]
fn a_waiter_keeps_the_threads_however_long_it_waits() {
    let (mut state, waiters) = state(1);
    for seconds in [0, 9, 18, 40] {
        assert!(work(&mut state, seconds).is_some());
    }
    assert!(state.leave(waiters[0].0, later(40)).is_none());
    assert!(work(&mut state, 41).is_some());
    let (owner, signal) = &waiters[0];
    state.enter(*owner, signal);
    assert!(state.leave(*owner, later(50)).is_none());
    assert!(work(&mut state, 51).is_some(), "the time begins anew");
    assert!(work(&mut state, 60).is_some());
    assert!(matches!(state.next(1, later(61)), Next::End(_)));
}
