//! The lease with which the places end.

use super::*;

fn lease_work(state: &mut State, seconds: u64) -> Option<LeaseWork> {
    work(state, seconds).and_then(|work| work.lease)
}

#[test]
fn the_lease_is_asked_for_until_it_is_granted_and_then_kept_alive_once_a_second() {
    let mut state = State::default();
    state.start(NOW).unwrap();
    state.enter(OwnerToken::random().unwrap(), &Signal::new());
    assert_eq!(lease_work(&mut state, 0), Some(LeaseWork::Grant));
    assert_eq!(lease_work(&mut state, 0), None, "a second has not passed");
    state.lease_failed(1);
    assert_eq!(lease_work(&mut state, 1), Some(LeaseWork::Grant));
    state.lease_granted(1, 7, later(1));
    assert_eq!(lease_work(&mut state, 2), Some(LeaseWork::KeepAlive(7)));
    assert_eq!(lease_work(&mut state, 2), None);
    assert_eq!(lease_work(&mut state, 3), Some(LeaseWork::KeepAlive(7)));
}

#[test]
fn a_lease_that_ended_is_replaced_at_once_and_not_used_meanwhile() {
    let (mut state, _) = state(1);
    assert_eq!(lease_work(&mut state, 1), Some(LeaseWork::KeepAlive(7)));
    assert_eq!(state.granted_lease(), Some(7));
    assert!(state.lease_ended(7, later(1)));
    assert_eq!(state.granted_lease(), None);
    assert_eq!(lease_work(&mut state, 1), Some(LeaseWork::Grant));
}

#[test]
fn a_failed_grant_ends_the_wait_for_the_lease_and_takes_none_that_is_there() {
    let mut state = State::default();
    state.start(NOW).unwrap();
    assert_eq!(state.granted_lease(), None);
    state.lease_failed(0);
    assert_eq!(state.lease, Lease::Unknown, "that was another run");
    state.lease_failed(1);
    assert_eq!(state.lease, Lease::Failed);
    state.lease_granted(1, 7, NOW);
    state.lease_failed(1);
    assert_eq!(state.lease, Lease::Granted(7));
}

#[test]
fn a_lease_that_an_earlier_run_asked_for_is_not_taken() {
    let mut state = State::default();
    state.start(NOW).unwrap();
    state.lease_granted(0, 7, NOW);
    assert_eq!(state.granted_lease(), None);
}

#[test]
fn a_waiter_that_claimed_without_a_lease_is_woken_when_there_is_one() {
    let mut state = State::default();
    state.start(NOW).unwrap();
    let [early, late] = [(); 2].map(|()| OwnerToken::random().unwrap());
    let signals = [(); 2].map(|()| Signal::new());
    state.enter(early, &signals[0]);
    assert!(state.claims(early, later(2)));
    state.answered(early, false, NOW);
    state.lease_granted(1, 7, NOW);
    assert_eq!(woken(&mut state), 1);
    assert!(signals[0].take());

    state.enter(late, &signals[1]);
    for owner in [early, late] {
        assert!(state.claims(owner, later(2)));
    }
    state.lease_granted(1, 8, NOW);
    assert_eq!(woken(&mut state), 0, "these could get a place");
}
