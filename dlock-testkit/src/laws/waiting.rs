//! Waiting for a lock: success, deadline, cancellation.

use std::thread;
use std::time::Duration;

use dlock_core::{AcquireError, Cancel, Wait};

use crate::case::{Case, Law, Sample, broken, check, now};
use crate::form::{LockGuard, Store};
use crate::{Subject, Verdict};

/// The time of a hand-over on an overloaded machine, including the pause of a poll.
const SOON: Duration = Duration::from_secs(10);
/// Longer than any case waits.
const LONG: Duration = Duration::from_secs(60);

fn acquired(case: &Case<'_>, acquired: Result<LockGuard, AcquireError>, since: &str) -> LockGuard {
    match acquired {
        Ok(guard) => guard,
        Err(error) => broken!(case, "{since}, but the lock was not acquired: {error}"),
    }
}

/// A waiter gets the lock when it is released.
pub fn a_release_ends_the_wait(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Waiting);
    let (here, there) = (Store::new(subject.first()), Store::new(subject.another()));
    let lock = case.lock(&here, "released", |options| options);
    let guard = case.acquired(&lock, "nobody held the lock");
    let fence = guard.fencing_token();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let lock = case.lock(&there, "released", |options| options);
            let won = lock.acquire_within(LONG);
            (won, now())
        });
        thread::sleep(Duration::from_millis(200));
        check!(
            case,
            !waiter.is_finished(),
            "the lock was held, but a waiter's acquire had ended"
        );
        case.released(guard);
        let released = now();
        let (won, at) = match waiter.join() {
            Ok(won) => won,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let won = acquired(&case, won, "the lock was released while somebody waited");
        check!(
            case,
            fence.is_none() || won.fencing_token() > fence,
            "the waiter got the fencing token {:?} after {fence:?}",
            won.fencing_token()
        );
        let took = released.until(at);
        check!(
            case,
            took < SOON,
            "the lock came to its waiter {took:?} after the release"
        );
    });
    Verdict::Kept
}

/// A waiter gets the lock when the holder's lease ends, not before and not long after.
pub fn the_end_of_a_lease_ends_the_wait(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Waiting);
    let store = Store::new(subject.another());
    let lock = case.lock(&store, "expired", |options| options);
    // A lease without renewal, as after a crash.
    let holding = case
        .client(lock.key())
        .take(case.short(), "nobody had claimed the key");
    let won = acquired(
        &case,
        lock.acquire_within(LONG),
        "the holder's lease ended while somebody waited",
    );
    let at = now();
    let early = at.until(holding.barred_until());
    check!(
        case,
        early.is_zero(),
        "the waiter got the lock {early:?} before the holder's lease ended"
    );
    let late = holding.free_from(&case).until(at);
    check!(
        case,
        late < SOON,
        "the waiter got the lock {late:?} after the holder's lease ended"
    );
    drop(won);
    Verdict::Kept
}

/// A wait ends at its deadline, not before and not long after; a wait of zero is a single try.
pub fn a_wait_ends_by_its_deadline(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Waiting);
    let store = Store::new(subject.first());
    let lock = case.lock(&store, "held", |options| options);
    let holder = case.client(lock.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let call = case.latency();
    for wait in [
        Duration::ZERO,
        Duration::from_millis(10).max(call * 4),
        Duration::from_millis(700).max(call * 8),
    ] {
        case.sampled("a short wait end in time", || {
            let wait = case.stretched(wait);
            let started = now();
            let answer = lock.acquire_within(wait);
            let took = started.until(now());
            // There was time for only one call, and it returned too late.
            if matches!(&answer, Err(AcquireError::Datastore(error)) if error.is_transient()) {
                return Sample::TooSlow;
            }
            check!(
                case,
                matches!(answer, Err(AcquireError::Held(_))),
                "the lock was held, but a wait of {wait:?} ended with {answer:?}"
            );
            check!(
                case,
                took >= wait,
                "a wait of {wait:?} was given up after {took:?}"
            );
            if took < wait + Duration::from_secs(2) + call * 4 {
                Sample::Judged
            } else {
                Sample::TooSlow
            }
        });
    }
    holder.frees(&lease, "the lease had half an hour left");
    // The waiter that gave up is not handed the key.
    case.client(lock.key())
        .take(case.long(), "all who waited had given up");
    Verdict::Kept
}

/// A cancelled wait ends at once and leaves nothing behind.
pub fn a_cancelled_wait_ends_and_leaves_nothing(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Waiting);
    let store = Store::new(subject.first());
    let lock = case.lock(&store, "cancelled", |options| options);
    let holder = case.client(lock.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let cancel = Cancel::new();
    let (answer, cancelled_at, ended_at) = thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let answer = lock.acquire_with(&Wait::forever().cancelled_by(&cancel));
            (answer, now())
        });
        thread::sleep(Duration::from_millis(200));
        let at = now();
        cancel.cancel();
        match waiter.join() {
            Ok((answer, ended)) => (answer, at, ended),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    check!(
        case,
        matches!(answer, Err(AcquireError::Cancelled)),
        "a cancelled wait ended with {answer:?}"
    );
    let took = cancelled_at.until(ended_at);
    check!(case, took < SOON, "a cancelled wait ended {took:?} later");
    holder.frees(&lease, "the lease had half an hour left");
    case.client(lock.key())
        .take(case.long(), "the only wait was cancelled");
    Verdict::Kept
}
