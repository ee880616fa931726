//! Locks whose holder is too slow, stopped or killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use dlock_core::ReleaseError;

use super::process::is_shared;
use crate::case::{Case, Law, Sample, broken, check, now};
use crate::child_process::ChildProcess;
use crate::form::Store;
use crate::{Subject, Verdict};

/// Generous, for a waiter on an overloaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A lock is renewed for as long as its guard lives.
pub fn a_held_lock_is_renewed(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Renewal);
    let store = Store::new(subject.first());
    let ttl = case.short() * 2;
    let mut number = 0;
    case.sampled("a lease that was renewed in time", || {
        number += 1;
        let id = format!("renewed-{number}");
        let lock = case.lock(&store, &id, |options| options.ttl(ttl));
        let guard = case.acquired(&lock, "nobody held the lock");
        let end = now().saturating_add(ttl * 3 + case.tail(ttl));
        while now() < end {
            thread::sleep(ttl / 10);
            let next = case.client(lock.key()).ask(case.traits.ttl_min).value;
            if !guard.is_valid() {
                return Sample::TooSlow;
            }
            check!(
                case,
                matches!(next, dlock_core::AcquireOutcome::Held(_)),
                "a guard was valid, but somebody else was granted its key"
            );
        }
        match guard.release() {
            Ok(()) => Sample::Judged,
            // The lease has ended between the last check and the release.
            Err(ReleaseError::Lost) => Sample::TooSlow,
            Err(error) => broken!(case, "a renewed lock was not released: {error:?}"),
        }
    });
    Verdict::Kept
}

/// A guard whose lease has ended stays lost, calls each callback once, and its release is harmless.
pub fn a_lost_lock_is_reported_once(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Loss);
    let store = Store::new(subject.first());
    let notified = Arc::new(AtomicU32::new(0));
    let counts_in = |notified: &Arc<AtomicU32>| {
        let notified = Arc::clone(notified);
        move || {
            notified.fetch_add(1, Ordering::SeqCst);
        }
    };
    let lock = case.lock(&store, "lost", |options| {
        options.ttl(case.short()).renew(false)
    });
    let guard = case.acquired(&lock, "nobody held the lock");
    guard.on_lost(counts_in(&notified));
    let present = case.client(lock.key());
    case.sleep_until(now().saturating_add(case.short() + case.tail(case.short())));
    let lease = present
        .take(case.long(), "the guard's lease had ended")
        .lease;
    check!(
        case,
        !guard.is_valid(),
        "a guard is valid though somebody else was granted its key"
    );
    // A callback that is registered late is called too.
    guard.on_lost(counts_in(&notified));
    let give_up = now().saturating_add(PATIENCE);
    while notified.load(Ordering::SeqCst) < 2 && now() < give_up {
        thread::sleep(Duration::from_millis(5));
    }
    let answer = guard.release();
    check!(
        case,
        matches!(answer, Err(ReleaseError::Lost)),
        "the release of a lost lock was answered with {answer:?}"
    );
    case.client(lock.key()).refused(
        case.long(),
        "a lost lock was released, and somebody else holds its key",
    );
    present.frees(&lease, "a lost lock was released");
    // After a release no callback is called.
    let guard = case.acquired(&lock, "nobody held the lock");
    let other = Arc::new(AtomicU32::new(0));
    guard.on_lost(counts_in(&other));
    let released = guard.release().is_ok();
    case.sleep_until(now().saturating_add(case.short() + case.tail(case.short())));
    let (notified, other) = (
        notified.load(Ordering::SeqCst),
        other.load(Ordering::SeqCst),
    );
    check!(
        case,
        notified == 2,
        "two asked to be notified of a loss, and were notified {notified} times"
    );
    check!(
        case,
        other == 0 || !released,
        "a released lock was reported as lost"
    );
    Verdict::Kept
}

/// The lock of a killed process is taken over when its lease ends.
pub fn a_killed_holder_is_taken_over(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Loss);
    if let Err(verdict) = is_shared(&case) {
        return verdict;
    }
    let ttl = case.short() * 2;
    let mut other = ChildProcess::start(&case);
    let answer = other.ask(&format!("lock killed {} renewed", ttl.as_millis()));
    check!(
        case,
        answer.starts_with("granted"),
        "another process tried a free lock and was answered `{answer}`"
    );
    let store = Store::new(subject.first());
    let lock = case.lock(&store, "killed", |options| options);
    let early = lock.try_acquire();
    let valid = other.ask("valid killed");
    check!(
        case,
        early.is_err() || valid == "false",
        "another process's guard was valid, but this one acquired its lock"
    );
    drop(early);
    other.kill();
    let killed = now();
    let guard = match lock.acquire_within(PATIENCE) {
        Ok(guard) => guard,
        Err(error) => broken!(
            case,
            "the holder was killed, but the lock was not taken over: {error}"
        ),
    };
    let took = killed.until(now());
    let most = ttl + case.tail(ttl) + Duration::from_secs(10);
    check!(
        case,
        took < most,
        "the lock of a killed holder with a lease of {ttl:?} was taken over after {took:?}"
    );
    drop(guard);
    Verdict::Kept
}

/// A process that was stopped past the end of its lease finds the lock lost, and its release does
/// not affect the next holder.
#[cfg(unix)]
pub fn a_stopped_holder_finds_its_lock_lost(subject: &Subject) -> Verdict {
    use rustix::process::Signal;

    let case = Case::new(subject, Law::Loss);
    if let Err(verdict) = is_shared(&case) {
        return verdict;
    }
    let ttl = case.short() * 2;
    let mut other = ChildProcess::start(&case);
    let answer = other.ask(&format!("lock stopped {} renewed", ttl.as_millis()));
    check!(
        case,
        answer.starts_with("granted"),
        "another process tried a free lock and was answered `{answer}`"
    );
    other.signal(Signal::STOP);
    let store = Store::new(subject.first());
    let lock = case.lock(&store, "stopped", |options| options);
    let guard = match lock.acquire_within(PATIENCE) {
        Ok(guard) => guard,
        Err(error) => broken!(
            case,
            "the holder was stopped, but the lock was not taken over: {error}"
        ),
    };
    other.signal(Signal::CONT);
    let since = "a process was stopped past the end of its lease, and somebody else holds the lock";
    let valid = other.ask("valid stopped");
    check!(
        case,
        valid == "false",
        "{since}, but its guard's `is_valid` is {valid}"
    );
    let released = other.ask("unlock stopped");
    check!(
        case,
        released == "lost",
        "{since}, but its release was answered `{released}`"
    );
    case.client(lock.key()).refused(case.long(), since);
    check!(
        case,
        guard.is_valid(),
        "{since}, but the next holder's guard is lost"
    );
    if let Err(error) = guard.release() {
        broken!(
            case,
            "{since}, but the next holder's release failed: {error:?}"
        );
    }
    Verdict::Kept
}

/// A process that was stopped past the end of its lease finds the lock lost, and its release does
/// not affect the next holder.
#[cfg(not(unix))]
pub fn a_stopped_holder_finds_its_lock_lost(subject: &Subject) -> Verdict {
    // Without stopping a process, only this can be tested: a lease that has ended is lost.
    let _ = a_lost_lock_is_reported_once(subject);
    Verdict::NotApplicable("this system cannot stop a process")
}
