use super::*;

fn at(millis: u64) -> Time {
    Time::from_nanos(millis * 1_000_000)
}

/// A state with the thread of run 1 and a waiter that has claimed.
fn with_waiter() -> (State, OwnerToken, Signal) {
    let mut state = State::default();
    assert_eq!(state.start(), Some(1));
    let (owner, signal) = (OwnerToken::random().unwrap(), Signal::new());
    state.enter(owner, &signal);
    assert!(state.asks(owner));
    (state, owner, signal)
}

fn beat(handed: Vec<OwnerToken>) -> Heartbeat {
    Heartbeat {
        backend: 1,
        is_known: true,
        next: None,
        handed,
    }
}

/// Notifies as the caller of a change does; returns whether this signal was.
fn is_woken(state: &mut State, signal: &Signal) -> bool {
    state.take_woken().iter().for_each(Signal::notify);
    signal.take()
}

#[test]
fn a_waiter_is_woken_by_a_notification_and_by_a_heartbeat() {
    let (mut state, owner, signal) = with_waiter();
    state.beaten(&beat(vec![]), at(0), at(0));
    assert!(!is_woken(&mut state, &signal));
    assert!(state.received(&[start(owner)]));
    assert!(is_woken(&mut state, &signal));
    state.beaten(&beat(vec![owner]), at(1000), at(1000));
    assert!(is_woken(&mut state, &signal));
    assert!(state.take_strangers().is_empty());
}

#[test]
fn what_is_handed_to_a_waiter_that_is_not_here_is_given_back() {
    let (mut state, _, signal) = with_waiter();
    let gone = OwnerToken::random().unwrap();
    assert!(!state.received(&[start(gone)]), "ask who it is");
    state.beaten(&beat(vec![gone]), at(0), at(0));
    assert_eq!(state.take_strangers(), [gone]);
    assert!(state.take_strangers().is_empty());
    assert!(!is_woken(&mut state, &signal));
}

#[test]
fn all_claim_again_when_the_database_may_have_lost_them() {
    let (mut state, _, signal) = with_waiter();
    state.connected();
    assert!(is_woken(&mut state, &signal));
    state.beaten(&beat(vec![]), at(0), at(0));
    let unknown = Heartbeat {
        is_known: false,
        ..beat(vec![])
    };
    state.beaten(&unknown, at(1000), at(1000));
    assert!(is_woken(&mut state, &signal));
    // The server counts from some time between the sending and the answer.
    state.beaten(&beat(vec![]), at(3000), at(1000 + 2199));
    assert!(!is_woken(&mut state, &signal));
    state.beaten(&beat(vec![]), at(5000), at(3000 + 2200));
    assert!(is_woken(&mut state, &signal), "it was late");
    assert!(state.is_served(at(7999)) && !state.is_served(at(8000)));
    assert!(!state.is_served(at(10_000)));
    assert!(state.disconnected());
    assert!(is_woken(&mut state, &signal) && !state.is_served(at(7000)));
    assert!(!state.disconnected());
}

#[test]
fn the_next_heartbeat_comes_when_a_lease_may_end_and_within_a_second() {
    let (mut state, ..) = with_waiter();
    for (next, expected) in [
        (None, 1000),
        (Some(5000), 1000),
        (Some(300), 301),
        (Some(2), 10),
    ] {
        let beat = Heartbeat {
            next: next.map(Duration::from_millis),
            ..beat(vec![])
        };
        assert_eq!(state.beaten(&beat, at(7000), at(7001)), at(7000 + expected));
    }
}

#[test]
fn a_waiter_leaves_the_queue_if_it_may_be_there() {
    let (mut state, owner, _) = with_waiter();
    assert!(state.leave(owner) && !state.leave(owner));

    let (mut state, owner, _) = with_waiter();
    state.granted(owner);
    assert!(!state.leave(owner));

    let (mut state, ..) = with_waiter();
    let never_claimed = OwnerToken::random().unwrap();
    state.enter(never_claimed, &Signal::new());
    assert!(!state.leave(never_claimed));
}

#[test]
fn the_thread_ends_when_nobody_has_waited_for_a_while_and_comes_back() {
    let (mut state, owner, _) = with_waiter();
    assert!(state.goes_on(1, at(0)) && state.goes_on(1, at(60_000)));
    state.leave(owner);
    assert!(state.goes_on(1, at(61_000)) && state.goes_on(1, at(70_999)));
    state.enter(owner, &Signal::new());
    assert!(state.goes_on(1, at(71_000)));
    state.leave(owner);
    assert!(state.goes_on(1, at(72_000)) && !state.goes_on(1, at(82_000)));
    assert!(!state.runs(1));
    assert_eq!(state.start(), Some(2));
    assert!(!state.goes_on(1, at(82_000)) && state.goes_on(2, at(82_000)));
    state.stop();
    assert!(!state.runs(2) && state.start().is_none());
}

#[test]
fn the_thread_is_started_once_and_one_that_did_not_start_may_be_started_again() {
    let mut state = State::default();
    assert_eq!(state.start(), Some(1));
    assert_eq!(state.start(), None, "it runs");
    state.end(1);
    assert!(!state.runs(1));
    assert_eq!(state.start(), Some(2));
    state.end(1);
    assert!(state.runs(2), "that was another one");
}

#[test]
fn a_claim_that_does_not_wait_is_not_queued() {
    let (mut state, owner, _) = with_waiter();
    assert!(state.has_waiters());
    let stranger = OwnerToken::random().unwrap();
    assert!(!state.asks(stranger) && !state.leave(stranger));
    state.granted(stranger);
    assert!(state.leave(owner));
    assert!(!state.has_waiters());
}

#[test]
fn a_notification_for_several_wakes_those_that_are_here() {
    let (mut state, owner, signal) = with_waiter();
    let gone = OwnerToken::random().unwrap();
    assert!(!state.received(&[start(gone), start(owner)]));
    assert!(is_woken(&mut state, &signal));
    assert!(!state.received(&[start(owner), start(gone)]));
    assert!(is_woken(&mut state, &signal));
    assert!(state.received(&[]));
    assert!(!is_woken(&mut state, &signal));
}

#[cfg(feature = "tokio")]
#[test]
fn a_key_is_left_when_the_last_of_its_waiters_is_off_the_queue() {
    let (mut state, ..) = with_waiter();
    assert!(state.is_running());
    state.leaving.insert("dlock:a".into(), 2);
    state.leaving.insert("dlock:b".into(), 1);
    state.has_left("dlock:a");
    assert_eq!(state.leaving.get("dlock:a"), Some(&1));
    state.has_left("dlock:a");
    state.has_left("dlock:a");
    let left: Vec<_> = state.leaving.keys().map(|key| &**key).collect();
    assert_eq!(left, ["dlock:b"]);
    state.stop();
    assert!(!state.is_running());
}
