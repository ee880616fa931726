//! Waiters that give up, and waiters that die. For stores that declare wake-ups.

use std::thread;
use std::time::Duration;

use dlock_core::{AcquireOutcome, Cancel, Clock, Signal, Wait};

use super::process::is_shared;
use super::queue::{MISSED_TURN, SOON, is_queueing, missed_turn};
use crate::case::{Case, Law, Sample, broken, check, now};
use crate::child_process::ChildProcess;
use crate::form::{Lock, LockGuard, Store};
use crate::waiter::Waiter;
use crate::{Subject, Verdict};

const ROUNDS: u64 = 20;
/// Longer than the lifetime of the waiters that die.
const LONG: Duration = Duration::from_secs(60);
/// The number of waiters of the process that dies.
const DEAD: usize = 3;

/// A waiter that gives up, before its turn or after it was handed the lock, does not keep it from
/// the next waiter.
pub fn a_waiter_that_gives_up_is_passed_over(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Waiting);
    if let Err(verdict) = is_queueing(&case) {
        return verdict;
    }
    let handles = [subject.first(), subject.another()];
    let holder = case.client(&case.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let waiter = |handle: usize| {
        let (waiter, signal) = (
            case.client_on(&handles[handle], holder.key()),
            Signal::new(),
        );
        let waiter = waiter.waiting();
        let watch = waiter.watch(&signal);
        waiter.refused(
            case.long(),
            "somebody holds the key, or waits for it already",
        );
        (waiter, watch, signal)
    };
    let is_woken =
        |signal: &Signal| Clock::BOOTTIME.sleep_until(signal, now().saturating_add(SOON));

    // Before its turn.
    let (_, gives_up, _) = waiter(0);
    let (next, watch, signal) = waiter(1);
    drop(gives_up);
    signal.take();
    holder.frees(&lease, "the lease had half an hour left");
    check!(
        case,
        is_woken(&signal),
        "the first waiter had given up, then the key was released, and the next one was not woken"
    );
    let lease = next.take(case.long(), "it was woken").lease;
    drop(watch);

    // In its turn.
    let mut holding = (next, lease);
    case.sampled("a waiter that gave up in its turn", || {
        let (_, gives_up, signal) = waiter(0);
        let (last, watch, last_signal) = waiter(1);
        let (former, lease) = &holding;
        former.frees(lease, "the lease had half an hour left");
        let free = now();
        check!(
            case,
            is_woken(&signal),
            "the key was released, and the first waiter was not woken"
        );
        last_signal.take();
        drop(gives_up);
        // If it missed its turn, the next one may have been woken before, and missed its own.
        let is_late = free.until(now()) > missed_turn(&case);
        check!(
            case,
            is_late || is_woken(&last_signal),
            "the first waiter gave up when it was woken, and the next one was not woken"
        );
        let lease = last.take(case.long(), "it was woken").lease;
        drop(watch);
        holding = (last, lease);
        match is_late {
            true => Sample::TooSlow,
            false => Sample::Judged,
        }
    });
    let (last, lease) = holding;
    last.frees(&lease, "the lease had half an hour left");
    case.client(holder.key())
        .take(case.long(), "nobody waited any more");
    Verdict::Kept
}

/// A wait that ends at about the moment of the release, by its deadline or a cancel, leaves the
/// lock to the next waiter.
pub fn a_wait_that_ends_at_the_release_delays_nobody(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Waiting);
    if let Err(verdict) = is_queueing(&case) {
        return verdict;
    }
    let handles = [subject.first(), subject.another()];
    let lock = case.lock(&Store::new(subject.first()), "at-the-release", |options| {
        options
    });
    for round in 0..ROUNDS {
        let guard = case.acquired(&lock, "all who waited are done");
        let (cancel, wait) = (Cancel::new(), Duration::from_millis(100));
        let ends = now().saturating_add(wait);
        let ends_at_the_release = match round % 2 {
            0 => Wait::within(wait),
            _ => Wait::within(LONG).cancelled_by(&cancel),
        };
        let start = |handle, wait| Waiter::start(&case, &handles[handle], "at-the-release", wait);
        let first = start(0, ends_at_the_release);
        let next = start(1, Wait::within(SOON));
        // From a little before the release to a little after it.
        case.sleep_until(ends.saturating_sub(Duration::from_micros(300 * ROUNDS / 2)));
        let canceller = thread::spawn(move || {
            Clock::BOOTTIME.sleep_until(&Signal::new(), ends);
            cancel.cancel();
        });
        case.sleep_until(now().saturating_add(Duration::from_micros(300 * round)));
        case.released(guard);
        if let Err(error) = next.end() {
            broken!(
                case,
                "a wait ended when the lock was released, and the next waiter did not get its turn: {error}"
            );
        }
        // It was served or not; both are right.
        let _ = first.end();
        let _ = canceller.join();
    }
    drop(case.acquired(&lock, "all who waited are done"));
    Verdict::Kept
}

/// Waiters of a killed or stopped process delay the next waiter for a moment, not for their whole
/// wait.
pub fn a_dead_waiter_costs_the_others_a_moment(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Waiting);
    if let Err(verdict) = is_queueing(&case).and_then(|()| is_shared(&case)) {
        return verdict;
    }
    let id = "dead-waiter";
    let store = Store::new(subject.first());
    let lock = case.lock(&store, id, |options| options);
    for is_killed_first in [true, false] {
        let (other, guard) = others_wait(&case, &lock, id);
        let next = Waiter::start(&case, &subject.another(), id, Wait::within(SOON));
        let released = if is_killed_first {
            other.kill();
            case.released(guard);
            now()
        } else {
            case.released(guard);
            let released = now();
            other.kill();
            released
        };
        served_soon(&case, next, released, "the process before it was killed");
        free_soon(&case, &lock, "nobody alive waited any more");
    }
    #[cfg(unix)]
    {
        use rustix::process::Signal;
        let (mut other, guard) = others_wait(&case, &lock, id);
        let next = Waiter::start(&case, &subject.another(), id, Wait::within(SOON));
        other.signal(Signal::STOP);
        case.released(guard);
        served_soon(&case, next, now(), "the process before it was stopped");
        other.signal(Signal::CONT);
        // It has lost its place in the queue, but is served later.
        other.served();
        free_soon(&case, &lock, "all who waited are done");
    }
    Verdict::Kept
}

/// A holder, and a process with several waiters for the lock.
fn others_wait<'c>(case: &'c Case<'c>, lock: &Lock, id: &str) -> (ChildProcess<'c>, LockGuard) {
    let mut other = ChildProcess::start(case);
    let guard = case.acquired(lock, "all who waited are done, or dead");
    for _ in 0..DEAD {
        other.waits(id, LONG);
    }
    (other, guard)
}

fn served_soon(case: &Case<'_>, waiter: Waiter, released: dlock_core::Time, since: &str) {
    match waiter.end() {
        Ok(served) => {
            let took = released.until(served);
            check!(
                case,
                took < SOON,
                "{since}, and a waiter got the lock {took:?} after the release"
            );
        }
        Err(error) => broken!(case, "{since}, and a waiter did not get the lock: {error}"),
    }
}

/// A dead waiter may have been handed the lock.
fn free_soon(case: &Case<'_>, lock: &Lock, since: &str) {
    let give_up = now().saturating_add(SOON);
    while let Err(error) = case.tried(lock) {
        check!(
            case,
            now() < give_up,
            "{since}, but the lock was not acquired: {error}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// A free key behind dead waiters soon goes to the first waiter that is alive, or to the next
/// claimant if none is.
pub fn dead_waiters_keep_no_key(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Waiting);
    if let Err(verdict) = is_queueing(&case).and_then(|()| is_shared(&case)) {
        return verdict;
    }
    let mut number = 0;
    for somebody_lives in [true, false] {
        case.sampled("a key whose first waiters are dead", || {
            number += 1;
            let id = format!("behind-the-dead-{number}");
            let lock = case.lock(&Store::new(subject.first()), &id, |options| options);
            let mut other = ChildProcess::start(&case);
            // This lease is not renewed. It is long enough for the waiters to queue.
            let ttl = case.live(Duration::from_secs(3)).max(case.short());
            let holding = case
                .client(lock.key())
                .take(ttl, "nobody had claimed the key");
            for _ in 0..DEAD {
                other.waits(&id, LONG);
            }
            let alive = somebody_lives
                .then(|| Waiter::start(&case, &subject.another(), &id, Wait::within(SOON)));
            other.kill();
            if holding.left().is_zero() {
                return Sample::TooSlow;
            }
            case.sleep_until(holding.free_from(&case));
            newcomer_comes(&case, lock.key(), alive)
        });
    }
    Verdict::Kept
}

/// A newcomer tries until it is granted the key, which is free now. The living waiter, if there is
/// one, must be served before.
fn newcomer_comes(case: &Case<'_>, key: &str, alive: Option<Waiter>) -> Sample {
    let free = now();
    let newcomer = case.client(key);
    let (granted, longest) = {
        let mut longest = Duration::ZERO;
        loop {
            let answer = newcomer.ask(case.long());
            longest = longest.max(answer.sent.until(answer.received));
            if let AcquireOutcome::Granted(_) = answer.value {
                break (answer.received, longest);
            }
            let waited = free.until(answer.received);
            check!(
                case,
                waited < SOON,
                "the key was free behind dead waiters, and after {waited:?} a claim was still refused"
            );
            let before = now();
            thread::sleep(Duration::from_millis(10));
            longest = longest.max(before.until(now()));
        }
    };
    let Some(alive) = alive else {
        return Sample::Judged;
    };
    // The newcomer has not released the key, so the waiter still waits.
    newcomer.abandon();
    match alive.end() {
        Ok(served) if served < granted => Sample::Judged,
        _ if longest > MISSED_TURN => Sample::TooSlow,
        // Unless the thread of the living waiter stalled in its turn.
        Ok(_) => Sample::Doubtful(
            "the key was free behind dead waiters, and a newcomer got it before the next one, who \
             lived"
                .to_owned(),
        ),
        Err(error) => Sample::Doubtful(format!(
            "the key was free behind dead waiters, and the next one, who lived, did not get it: \
             {error}"
        )),
    }
}
