use std::future::ready;

use super::*;

fn run<T>(future: impl Future<Output = T>) -> T {
    // Without a clock of its own.
    Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn soon() -> Time {
    Clock::BOOTTIME
        .now()
        .saturating_add(Duration::from_millis(30))
}

#[test]
fn what_is_there_already_is_found_without_a_change() {
    assert_eq!(run(until(&Notify::new(), || Some(7))), 7);
}

#[test]
fn a_change_during_the_look_is_not_missed() {
    let (changed, mut looks) = (Notify::new(), 0);
    let found = run(until(&changed, || {
        looks += 1;
        changed.notify_waiters();
        (looks == 3).then_some(looks)
    }));
    assert_eq!(found, 3);
}

#[test]
fn each_change_is_followed_by_one_look_until_there_is_something() {
    let (changed, looks) = (Notify::new(), Mutex::new(0));
    let mut found = pin!(until(&changed, || {
        let mut looks = looks.lock().unwrap();
        *looks += 1;
        (*looks == 3).then_some("found")
    }));
    let mut cx = Context::from_waker(Waker::noop());
    for expected in [1, 2] {
        assert!(found.as_mut().poll(&mut cx).is_pending());
        assert!(found.as_mut().poll(&mut cx).is_pending(), "no change");
        assert_eq!(*looks.lock().unwrap(), expected);
        changed.notify_waiters();
    }
    assert_eq!(found.as_mut().poll(&mut cx), Poll::Ready("found"));
}

#[test]
fn what_is_ready_in_time_is_returned_and_nothing_after_it() {
    assert_eq!(run(ready_by(Time::ZERO, ready(7))).unwrap(), Some(7));
    let end = soon();
    assert_eq!(run(ready_by(end, pending::<()>())).unwrap(), None);
    assert!(Clock::BOOTTIME.now() >= end);
}

#[test]
fn a_sleep_ends_at_its_time_and_also_one_that_began_later_and_ends_earlier() {
    let (end, earlier) = (Time::MAX, soon());
    let mut endless = pin!(sleep_until(end));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(endless.as_mut().poll(&mut cx).is_pending());
    run(sleep_until(earlier)).unwrap();
    assert!(Clock::BOOTTIME.now() >= earlier);
    assert!(endless.as_mut().poll(&mut cx).is_pending());
}

#[test]
fn two_sleeps_that_end_at_the_same_time_both_end() {
    let end = soon();
    let mut sleeps = vec![Box::pin(sleep_until(end)), Box::pin(sleep_until(end))];
    run(poll_fn(|cx| {
        sleeps.retain_mut(|sleep| sleep.as_mut().poll(cx).is_pending());
        match sleeps.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }));
    assert!(Clock::BOOTTIME.now() >= end);
}
