use super::*;

const KEY: &str = "dlock:import";

fn at(millis: u64) -> Time {
    Time::from_nanos(millis * 1_000_000)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A state that runs, with one queued waiter that came at 0.
fn with_a_waiter() -> (State, u64, OwnerToken, Signal) {
    let mut state = State::default();
    let run = state.start().unwrap();
    let (owner, signal) = (OwnerToken::random().unwrap(), Signal::new());
    state.enter(KEY, owner, &signal, at(0));
    assert!(state.asks(owner));
    state.queued(owner, 7, None);
    (state, run, owner, signal)
}

fn look(handed_to: Option<OwnerToken>, left: Left, generation: i64) -> Look {
    Look {
        handed_to,
        left,
        has_next: true,
        generation,
    }
}

fn sleeps_until(state: &mut State, run: u64, now: Time) -> Time {
    match state.next(run, now) {
        Next::Sleep(until) => until,
        Next::Work(_) => panic!("there is work"),
        Next::End => panic!("it is over"),
    }
}

fn looks(state: &mut State, run: u64, now: Time) -> usize {
    match state.next(run, now) {
        Next::Work(work) => work.looks.len(),
        _ => 0,
    }
}

#[test]
fn a_key_is_looked_at_once_a_second_however_many_wait_for_it() {
    let (mut state, run, ..) = with_a_waiter();
    for _ in 0..50 {
        let other = OwnerToken::random().unwrap();
        state.enter(KEY, other, &Signal::new(), at(10));
    }
    assert_eq!(sleeps_until(&mut state, run, at(20)), at(1000));
    assert_eq!(looks(&mut state, run, at(1000)), 1);
    state.looked(KEY, &look(None, Left::For(ms(25_000)), 7), at(1001));
    assert_eq!(sleeps_until(&mut state, run, at(1001)), at(2000));
}

#[test]
fn it_is_looked_at_when_the_lease_before_its_waiter_ends() {
    let (mut state, run, owner, _) = with_a_waiter();
    assert_eq!(sleeps_until(&mut state, run, at(1)), at(1000));
    assert!(state.queued(owner, 7, Some(at(300))), "the looker sleeps");
    assert_eq!(looks(&mut state, run, at(300)), 1);
    state.looked(KEY, &look(None, Left::For(ms(400)), 7), at(302));
    assert_eq!(sleeps_until(&mut state, run, at(303)), at(702));
    let heard = || Message::Ends(ms(50), KEY.into());
    assert!(state.hear(heard(), at(310)), "the looker sleeps");
    assert_eq!(looks(&mut state, run, at(360)), 1);
    assert!(!state.hear(heard(), at(360)), "it is awake");
}

#[test]
fn a_looker_that_gets_up_in_time_is_not_woken() {
    let (mut state, run, owner, _) = with_a_waiter();
    assert_eq!(sleeps_until(&mut state, run, at(1)), at(1000));
    assert!(!state.queued(owner, 7, Some(at(1000))));
    assert!(state.queued(owner, 7, Some(at(999))));
}

#[test]
fn the_end_of_a_lease_that_goes_to_another_process_is_not_looked_at() {
    let (mut state, run, ..) = with_a_waiter();
    assert_eq!(looks(&mut state, run, at(1000)), 1);
    let look = Look {
        has_next: false,
        ..look(None, Left::For(ms(400)), 7)
    };
    state.looked(KEY, &look, at(1000));
    assert_eq!(sleeps_until(&mut state, run, at(1000)), at(2000));
}

#[test]
fn a_waiter_is_woken_by_a_message_by_a_look_and_when_it_is_not_in_the_queue_any_more() {
    let (mut state, _, owner, signal) = with_a_waiter();
    assert!(!state.hear(Message::Claim(owner), at(1)));
    assert!(signal.take());
    state.looked(KEY, &look(None, Left::For(ms(5000)), 7), at(1));
    assert!(!signal.take(), "all is well");
    state.looked(KEY, &look(Some(owner), Left::For(ms(900)), 7), at(1));
    assert!(signal.take());
    state.looked(KEY, &look(None, Left::For(ms(5000)), 8), at(1));
    assert!(signal.take());
    state.look_failed("dlock:other");
    assert!(!signal.take());
    state.look_failed(KEY);
    assert!(signal.take());
    let stranger = OwnerToken::random().unwrap();
    state.hear(Message::Claim(stranger), at(1));
    assert!(!signal.take());
}

#[test]
fn only_who_may_be_in_the_queue_has_to_leave_it() {
    let (mut state, _, owner, _) = with_a_waiter();
    let (silent, winner) = (OwnerToken::random().unwrap(), OwnerToken::random().unwrap());
    for owner in [silent, winner] {
        state.enter(KEY, owner, &Signal::new(), at(0));
    }
    assert!(state.asks(winner));
    state.granted(winner);
    assert!(state.leave(owner));
    assert!(!state.leave(owner), "once");
    assert!(!state.leave(silent));
    assert!(!state.leave(winner), "that would free its lock");
    assert!(!state.asks(owner), "it waits no more");
}

#[test]
fn a_leave_that_failed_is_repeated() {
    let (mut state, run, owner, _) = with_a_waiter();
    sleeps_until(&mut state, run, at(0));
    assert!(state.leave(owner));
    state.still_queued(KEY, owner);
    let Next::Work(work) = state.next(run, at(1)) else {
        panic!("there is a leave to repeat")
    };
    assert_eq!(work.leaves, [(KEY.into(), owner)]);
    assert!(work.looks.is_empty());
    sleeps_until(&mut state, run, at(2));
}

#[test]
fn the_threads_end_some_time_after_the_last_waiter_and_begin_again_with_the_next() {
    let (mut state, run, owner, signal) = with_a_waiter();
    assert!(state.is_running());
    assert!(state.start().is_none(), "they run");
    state.leave(owner);
    assert_eq!(sleeps_until(&mut state, run, at(100)), at(10_100));
    state.enter(KEY, owner, &signal, at(9000));
    assert_eq!(sleeps_until(&mut state, run, at(9000)), at(10_000));
    state.leave(owner);
    sleeps_until(&mut state, run, at(10_050));
    assert!(matches!(state.next(run, at(20_050)), Next::End));
    assert!(!state.runs(run) && !state.is_running());
    let again = state.start().unwrap();
    assert!(state.runs(again) && !state.runs(run));
    state.end(run);
    assert!(state.runs(again), "an old thread ends no new run");
    state.stop();
    assert!(matches!(state.next(again, at(20_051)), Next::End));
    assert!(state.start().is_none(), "the store is gone");
}

#[test]
fn who_looks_and_hears_nothing_is_deaf_after_a_while() {
    let (mut state, run, ..) = with_a_waiter();
    assert!(!state.is_deaf(at(1_000_000)));
    for second in [1000, 2000, 3000] {
        assert_eq!(looks(&mut state, run, at(second)), 1);
        state.looked(KEY, &look(None, Left::Endless, 7), at(second + 5));
    }
    assert!(!state.is_deaf(at(4000)));
    assert!(state.is_deaf(at(4001)));
    state.hear(Message::Heard, at(4001));
    assert!(!state.is_deaf(at(5000)));
}

#[test]
fn a_new_subscription_looks_at_everything_at_once() {
    let (mut state, run, ..) = with_a_waiter();
    state.subscribed(run - 1, at(5));
    assert!(state.hearing == Hearing::Starting, "of an earlier run");
    state.subscribed(run, at(5));
    assert!(state.hearing == Hearing::Yes);
    assert_eq!(looks(&mut state, run, at(5)), 1);
}

#[test]
fn a_free_key_with_dead_waiters_before_ours_is_looked_at_again_soon() {
    let (mut state, run, ..) = with_a_waiter();
    assert_eq!(looks(&mut state, run, at(1000)), 1);
    state.looked(KEY, &look(None, Left::Free, 7), at(1000));
    assert_eq!(sleeps_until(&mut state, run, at(1000)), at(1010));
    state.looked(KEY, &look(None, Left::For(ms(1)), 7), at(1001));
    assert_eq!(
        sleeps_until(&mut state, run, at(1001)),
        at(1010),
        "never in a loop"
    );
}

#[test]
fn a_free_key_without_a_queue_is_left_to_its_waiters() {
    let (mut state, run, ..) = with_a_waiter();
    assert_eq!(looks(&mut state, run, at(1000)), 1);
    state.looked(KEY, &look(None, Left::Free, 0), at(1000));
    assert_eq!(sleeps_until(&mut state, run, at(1000)), at(2000));
}

#[test]
fn who_heard_of_its_look_before_the_answer_is_not_deaf() {
    let (mut state, run, ..) = with_a_waiter();
    assert_eq!(looks(&mut state, run, at(1000)), 1);
    state.hear(Message::Heard, at(1001));
    state.looked(KEY, &look(None, Left::Endless, 7), at(1002));
    assert!(!state.is_deaf(at(9000)));
}

fn leaves(state: &mut State, run: u64, now: Time) -> usize {
    match state.next(run, now) {
        Next::Work(work) => work.leaves.len(),
        _ => 0,
    }
}

#[test]
fn a_leave_that_fails_again_is_not_repeated_at_once() {
    let (mut state, run, owner, _) = with_a_waiter();
    assert!(state.leave(owner));
    state.still_queued(KEY, owner);
    assert_eq!(leaves(&mut state, run, at(1)), 1);
    state.still_queued(KEY, owner);
    assert_eq!(sleeps_until(&mut state, run, at(2)), at(1001));
    assert_eq!(leaves(&mut state, run, at(1001)), 1);
}

#[test]
fn a_server_that_was_away_is_told_who_left_in_trips_of_a_bounded_size() {
    let (mut state, run, owner, _) = with_a_waiter();
    for _ in 0..LEAVES_KEPT * 2 {
        state.still_queued(KEY, owner);
    }
    let told: Vec<_> = (1..=LEAVES_KEPT as u64)
        .map(|second| leaves(&mut state, run, at(second * 1000)))
        .take_while(|leaves| *leaves > 0)
        .collect();
    assert!(told.iter().all(|leaves| *leaves <= LEAVES));
    assert_eq!(told.iter().sum::<usize>(), LEAVES_KEPT);
}
