//! How the thread sleeps. No connection is opened.

use std::thread;

use dlock_core::Signal;

use super::super::tests::{enter, waiters, waiting_claim};
use super::*;

/// A time that no test waits for.
const NEVER: Duration = Duration::from_secs(100_000);

#[test]
fn the_thread_sleeps_for_the_whole_time_and_goes_on_with_its_run() {
    let (waiters, claim) = (waiters(), waiting_claim());
    let shared = enter(&waiters, &claim);
    let until = deadline_in(Duration::from_millis(30));
    sleep(shared, 1, until);
    assert!(Clock::BOOTTIME.now() >= until);
    assert!(pause(shared, 1, Duration::ZERO));
}

#[test]
fn a_run_that_is_over_neither_sleeps_nor_goes_on() {
    let (waiters, claim) = (waiters(), waiting_claim());
    let shared = enter(&waiters, &claim);
    sleep(shared, 2, deadline_in(NEVER));
    assert!(!pause(shared, 2, NEVER));
    shared.state().leave(claim.owner());
    sleep_without_waiters(shared, 2);
}

#[test]
fn the_thread_makes_no_heartbeats_until_there_is_a_waiter() {
    let (waiters, claim) = (waiters(), waiting_claim());
    let shared = waiters.shared().unwrap().unwrap();
    assert_eq!(shared.state().start(), Some(1));
    let has_waiters = thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            sleep_without_waiters(shared, 1);
            shared.state().has_waiters()
        });
        thread::sleep(Duration::from_millis(30));
        shared.state().enter(claim.owner(), &Signal::new());
        shared.changed.notify_all();
        sleeper.join().unwrap()
    });
    assert!(has_waiters);
    sleep_without_waiters(shared, 1);
}

#[test]
fn each_try_that_fails_doubles_the_pause_up_to_the_longest() {
    let mut pause = TRY_AGAIN;
    for millis in [400, 800, 1600, 3200, 5000, 5000] {
        pause = after_another(pause);
        assert_eq!(pause, Duration::from_millis(millis));
    }
}
