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

/// Whether a waiter was notified since the last time.
fn is_woken(state: &mut State, signal: &Signal) -> bool {
    state.take_woken().iter().for_each(Signal::notify);
    signal.take()
}

fn reply(handed_to: Option<OwnerToken>, left: Left, generation: i64) -> HeartbeatReply {
    HeartbeatReply {
        handed_to,
        left,
        has_next: true,
        generation,
    }
}

/// A heartbeat for the key that names no waiter.
fn due() -> Due {
    due_of(None)
}

fn due_of(last: Option<OwnerToken>) -> Due {
    Due {
        key: KEY.into(),
        asks: false,
        last,
    }
}

fn work(state: &mut State, run: u64, now: Time) -> Work {
    match state.next(run, now) {
        Next::Work(work) => work,
        _ => panic!("there is nothing to do"),
    }
}

fn sleeps_until(state: &mut State, run: u64, now: Time) -> Time {
    match state.next(run, now) {
        Next::Sleep(until) => until,
        Next::Work(_) => panic!("there is work"),
        Next::End(_) => panic!("it is over"),
    }
}

fn heartbeats(state: &mut State, run: u64, now: Time) -> usize {
    match state.next(run, now) {
        Next::Work(work) => work.heartbeats.len(),
        _ => 0,
    }
}

#[test]
fn a_key_has_one_heartbeat_a_second_however_many_wait_for_it() {
    let (mut state, run, ..) = with_a_waiter();
    for _ in 0..50 {
        let other = OwnerToken::random().unwrap();
        state.enter(KEY, other, &Signal::new(), at(10));
    }
    assert_eq!(sleeps_until(&mut state, run, at(20)), at(1000));
    assert_eq!(heartbeats(&mut state, run, at(1000)), 1);
    state.heartbeat_answered(&due(), &reply(None, Left::For(ms(25_000)), 7), at(1001));
    assert_eq!(sleeps_until(&mut state, run, at(1001)), at(2000));
}

#[test]
fn a_heartbeat_is_due_when_the_lease_before_its_waiter_ends() {
    let (mut state, run, owner, _) = with_a_waiter();
    assert_eq!(sleeps_until(&mut state, run, at(1)), at(1000));
    assert!(
        state.queued(owner, 7, Some(at(300))),
        "the heartbeat sleeps"
    );
    assert_eq!(heartbeats(&mut state, run, at(300)), 1);
    state.heartbeat_answered(&due(), &reply(None, Left::For(ms(400)), 7), at(302));
    assert_eq!(sleeps_until(&mut state, run, at(303)), at(702));
    let ends = || Message::Ends(ms(50), KEY.into());
    assert!(state.received(ends(), at(310)), "the heartbeat sleeps");
    assert_eq!(heartbeats(&mut state, run, at(360)), 1);
    assert!(!state.received(ends(), at(360)), "it is awake");
}

#[test]
fn a_heartbeat_thread_that_wakes_in_time_is_not_woken() {
    let (mut state, run, owner, _) = with_a_waiter();
    assert_eq!(sleeps_until(&mut state, run, at(1)), at(1000));
    assert!(!state.queued(owner, 7, Some(at(1000))));
    assert!(state.queued(owner, 7, Some(at(999))));
}

#[test]
fn the_end_of_a_lease_that_goes_to_another_process_makes_no_heartbeat_due() {
    let (mut state, run, ..) = with_a_waiter();
    assert_eq!(heartbeats(&mut state, run, at(1000)), 1);
    let reply = HeartbeatReply {
        has_next: false,
        ..reply(None, Left::For(ms(400)), 7)
    };
    state.heartbeat_answered(&due(), &reply, at(1000));
    assert_eq!(sleeps_until(&mut state, run, at(1000)), at(2000));
}

#[test]
fn a_waiter_is_woken_by_a_message_by_a_heartbeat_and_when_it_is_not_in_the_queue_any_more() {
    let (mut state, _, owner, signal) = with_a_waiter();
    assert!(!state.received(Message::Claim(owner, KEY.into()), at(1)));
    assert!(is_woken(&mut state, &signal));
    state.heartbeat_answered(&due(), &reply(None, Left::For(ms(5000)), 7), at(1));
    assert!(!is_woken(&mut state, &signal), "all is well");
    state.heartbeat_answered(&due(), &reply(Some(owner), Left::For(ms(900)), 7), at(1));
    assert!(is_woken(&mut state, &signal));
    state.heartbeat_answered(&due(), &reply(None, Left::For(ms(5000)), 8), at(1));
    assert!(is_woken(&mut state, &signal));
    state.heartbeat_failed("dlock:other");
    assert!(!is_woken(&mut state, &signal));
    state.heartbeat_failed(KEY);
    assert!(is_woken(&mut state, &signal));
    let stranger = OwnerToken::random().unwrap();
    state.received(Message::Claim(stranger, KEY.into()), at(1));
    assert!(!is_woken(&mut state, &signal));
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
    assert!(work.heartbeats.is_empty());
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
    assert!(matches!(state.next(run, at(20_050)), Next::End(_)));
    assert!(!state.runs(run) && !state.is_running());
    let again = state.start().unwrap();
    assert!(state.runs(again) && !state.runs(run));
    drop(state.end(run));
    assert!(state.runs(again), "an old thread ends no new run");
    drop(state.stop());
    assert!(matches!(state.next(again, at(20_051)), Next::End(_)));
    assert!(state.start().is_none(), "the store is gone");
}

#[test]
fn a_subscription_is_lost_when_no_ping_is_received_for_a_while() {
    let (mut state, run, ..) = with_a_waiter();
    assert!(!state.is_subscription_lost(at(1_000_000)));
    for second in [1000, 2000, 3000] {
        assert_eq!(heartbeats(&mut state, run, at(second)), 1);
        state.heartbeat_answered(&due(), &reply(None, Left::Endless, 7), at(second + 5));
    }
    assert!(!state.is_subscription_lost(at(4000)));
    assert!(state.is_subscription_lost(at(4001)));
    state.received(Message::Ping, at(4001));
    assert!(!state.is_subscription_lost(at(5000)));
}

#[test]
fn a_new_subscription_makes_all_heartbeats_due() {
    let (mut state, run, ..) = with_a_waiter();
    state.subscribed(run - 1, at(5));
    assert!(
        state.subscription == SubscriptionState::Starting,
        "of an earlier run"
    );
    state.subscribed(run, at(5));
    assert!(state.subscription == SubscriptionState::Active);
    assert_eq!(heartbeats(&mut state, run, at(5)), 1);
}

#[test]
fn a_free_key_with_dead_waiters_before_ours_has_another_heartbeat_soon() {
    let (mut state, run, ..) = with_a_waiter();
    assert_eq!(heartbeats(&mut state, run, at(1000)), 1);
    state.heartbeat_answered(&due(), &reply(None, Left::Free, 7), at(1000));
    assert_eq!(sleeps_until(&mut state, run, at(1000)), at(1010));
    state.heartbeat_answered(&due(), &reply(None, Left::For(ms(1)), 7), at(1001));
    assert_eq!(
        sleeps_until(&mut state, run, at(1001)),
        at(1010),
        "never in a loop"
    );
}

#[test]
fn a_free_key_without_a_queue_is_left_to_its_waiters() {
    let (mut state, run, ..) = with_a_waiter();
    assert_eq!(heartbeats(&mut state, run, at(1000)), 1);
    state.heartbeat_answered(&due(), &reply(None, Left::Free, 0), at(1000));
    assert_eq!(sleeps_until(&mut state, run, at(1000)), at(2000));
}

#[test]
fn a_ping_before_the_answer_proves_the_subscription() {
    let (mut state, run, ..) = with_a_waiter();
    assert_eq!(heartbeats(&mut state, run, at(1000)), 1);
    state.received(Message::Ping, at(1001));
    state.heartbeat_answered(&due(), &reply(None, Left::Endless, 7), at(1002));
    assert!(!state.is_subscription_lost(at(9000)));
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

#[test]
fn what_was_handed_to_a_waiter_that_is_not_known_is_given_back_at_once() {
    let (mut state, run, ..) = with_a_waiter();
    let served = OwnerToken::random().unwrap();
    sleeps_until(&mut state, run, at(1));
    assert!(state.received(Message::Claim(served, KEY.into()), at(2)));
    let given = work(&mut state, run, at(2));
    assert!(given.heartbeats.is_empty() && given.leaves.is_empty());
    assert!(
        matches!(&given.answers[..], [Reply::GiveBack(key, owner)] if &**key == KEY && *owner == served)
    );
    // Once: the lock may be another one's by now.
    sleeps_until(&mut state, run, at(3));

    state.heartbeat_answered(&due(), &reply(Some(served), Left::For(ms(900)), 7), at(4));
    assert_eq!(work(&mut state, run, at(4)).answers.len(), 1);
}

#[test]
fn a_waiter_that_was_granted_the_lock_gives_nothing_back() {
    let (mut state, run, owner, signal) = with_a_waiter();
    state.asks(owner);
    state.granted(owner);
    sleeps_until(&mut state, run, at(1));
    assert!(!state.received(Message::Claim(owner, KEY.into()), at(2)));
    assert!(is_woken(&mut state, &signal));
    sleeps_until(&mut state, run, at(2));
}

#[test]
fn only_what_was_released_or_given_up_is_freed_when_a_record_is_asked_about() {
    let (mut state, run, waits, _) = with_a_waiter();
    let [kept, released] = [(); 2].map(|()| OwnerToken::random().unwrap());
    state.ended(released);
    sleeps_until(&mut state, run, at(1));
    for owner in [kept, waits] {
        assert!(!state.received(Message::Asked(owner, KEY.into()), at(2)));
        sleeps_until(&mut state, run, at(2));
    }
    assert!(state.received(Message::Asked(released, KEY.into()), at(2)));
    let freed = work(&mut state, run, at(2));
    assert!(
        matches!(&freed.answers[..], [Reply::Free(key, owner)] if &**key == KEY && *owner == released)
    );
}

#[test]
fn a_process_without_waiters_answers_as_well() {
    let (mut state, run, owner, _) = with_a_waiter();
    assert!(state.leave(owner));
    state.ended(owner);
    assert_eq!(sleeps_until(&mut state, run, at(1)), at(10_001));
    assert!(state.received(Message::Asked(owner, KEY.into()), at(2)));
    assert_eq!(work(&mut state, run, at(2)).answers.len(), 1);
    assert_eq!(sleeps_until(&mut state, run, at(3)), at(10_001));
}

#[test]
fn answers_that_nobody_takes_are_bounded() {
    let (mut state, run, owner, _) = with_a_waiter();
    state.ended(owner);
    for _ in 0..ANSWERS_KEPT * 2 {
        state.received(Message::Asked(owner, KEY.into()), at(2));
    }
    assert_eq!(work(&mut state, run, at(2)).answers.len(), ANSWERS_KEPT);
}

#[test]
fn a_holder_is_asked_once_a_second_at_most_and_not_in_the_first() {
    let (mut state, run, owner, _) = with_a_waiter();
    state.queued(owner, 7, Some(at(400)));
    let asked: Vec<_> = [400, 900, 1000, 1400, 1900, 2000, 2400]
        .into_iter()
        .filter(|millis| {
            let heartbeats = work(&mut state, run, at(*millis)).heartbeats;
            let left = Left::For(ms(50));
            state.heartbeat_answered(&heartbeats[0], &reply(None, left, 7), at(*millis));
            heartbeats[0].asks
        })
        .collect();
    assert_eq!(asked, [1000, 2000]);
}

#[test]
fn a_heartbeat_names_the_newest_waiter_and_if_it_is_missing_all_queue_again() {
    let (mut state, run, first, first_signal) = with_a_waiter();
    let (second, second_signal) = (OwnerToken::random().unwrap(), Signal::new());
    state.enter(KEY, second, &second_signal, at(10));
    state.asks(second);
    state.queued(second, 7, None);
    // It asks once more and keeps its place.
    state.asks(first);
    state.queued(first, 7, None);
    let heartbeats = work(&mut state, run, at(1000)).heartbeats;
    assert_eq!(heartbeats[0].last, Some(second));

    state.heartbeat_answered(&heartbeats[0], &reply(None, Left::Endless, 0), at(1001));
    assert!(is_woken(&mut state, &first_signal) && is_woken(&mut state, &second_signal));
    // Who queued again is the last.
    state.asks(second);
    state.queued(second, 7, None);
    state.asks(first);
    state.queued(first, 7, None);
    let heartbeats = work(&mut state, run, at(2000)).heartbeats;
    assert_eq!(heartbeats[0].last, Some(first));
}

#[test]
fn a_last_one_that_was_served_or_claims_meanwhile_makes_nobody_queue_again() {
    let (mut state, run, first, signal) = with_a_waiter();
    let second = OwnerToken::random().unwrap();
    state.enter(KEY, second, &Signal::new(), at(10));
    state.asks(second);
    state.queued(second, 7, None);
    let is_missing = reply(None, Left::Endless, 0);
    state.asks(second);
    assert_eq!(
        work(&mut state, run, at(1000)).heartbeats[0].last,
        Some(first)
    );
    state.heartbeat_answered(&due_of(Some(second)), &is_missing, at(1001));
    assert!(!is_woken(&mut state, &signal), "it claims");
    state.granted(second);
    state.heartbeat_answered(&due_of(Some(second)), &is_missing, at(1001));
    assert!(!is_woken(&mut state, &signal), "it was granted the lock");
    state.leave(second);
    state.heartbeat_answered(&due_of(Some(second)), &is_missing, at(1001));
    assert!(!is_woken(&mut state, &signal), "it is gone");
    state.heartbeat_answered(
        &due_of(Some(second)),
        &reply(None, Left::Endless, 8),
        at(1001),
    );
    assert!(
        is_woken(&mut state, &signal),
        "the process began a new generation"
    );
}
