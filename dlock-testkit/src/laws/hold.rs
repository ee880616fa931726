//! The minimum and maximum hold times.

use dlock_core::{AcquireOutcome, drift};

use crate::case::{Case, Law, Sample, check, now};
use crate::form::{Lock, LockGuard, Store};
use crate::recorder::ExtendRecorder;
use crate::{Subject, Verdict};

fn taken(case: &Case<'_>, lock: &Lock) -> LockGuard {
    case.acquired(lock, "nobody held the lock")
}

/// An early release keeps the key until `min_hold` has passed since the grant, and not long after.
pub fn min_hold_keeps_the_key(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Hold);
    let store = Store::new(subject.first());
    let (ttl, min_hold) = (case.long(), case.short() * 2);
    let mut number = 0;
    case.sampled("a claim shortly before `min_hold` was over", || {
        number += 1;
        let lock = case.lock(&store, &format!("least-{number}"), |options| {
            options.ttl(ttl).min_hold(min_hold)
        });
        let sent = now();
        let guard = taken(&case, &lock);
        let received = now();
        case.released(guard);
        let barred = sent.saturating_add(min_hold);
        // The rest is rounded up to the shortest time that the store accepts.
        let most = min_hold + case.tail(min_hold) + case.traits.ttl_min + drift(min_hold);
        let free = now().max(received).saturating_add(most);
        let stranger = case.client(lock.key());
        let mut refused_late = false;
        loop {
            let answer = stranger.ask(case.traits.ttl_min);
            if let AcquireOutcome::Granted(_) = answer.value {
                let early = answer.received.until(barred);
                check!(
                    case,
                    early.is_zero(),
                    "a lock was released at once, and its key was free {early:?} before `min_hold` of {min_hold:?} was over"
                );
                break;
            }
            refused_late |= answer.received <= barred
                && answer.sent >= sent.saturating_add(min_hold * 9 / 10);
            check!(
                case,
                answer.sent <= free,
                "a lock was released at once, and {:?} later its key was still taken, with a `min_hold` of {min_hold:?}",
                received.until(answer.sent)
            );
            std::thread::sleep(min_hold / 100);
        }
        if refused_late { Sample::Judged } else { Sample::TooSlow }
    });
    Verdict::Kept
}

/// A renewal that arrives after `min_hold` set a longer time changes nothing.
pub fn a_late_renewal_does_not_undo_min_hold(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Hold);
    let ttl = case.short() * 2;
    let (recorder, renewals) = ExtendRecorder::over(subject.first());
    let store = Store::new(recorder);
    let mut number = 0;
    case.sampled(
        "a renewal and an early release before the lease ended",
        || {
            number += 1;
            let lock = case.lock(&store, &format!("late-{number}"), |options| {
                options.ttl(ttl).min_hold(case.long())
            });
            let before = renewals.count();
            let guard = taken(&case, &lock);
            let give_up = now().saturating_add(ttl * 2);
            while renewals.count() == before && now() < give_up {
                std::thread::sleep(ttl / 50);
            }
            let renewals = renewals.after(before);
            if renewals.is_empty() || guard.release().is_err() {
                return Sample::TooSlow;
            }
            case.repeat_too_late(&renewals);
            case.sleep_until(now().saturating_add(ttl + case.tail(ttl)));
            case.client(lock.key()).refused(
                case.traits.ttl_min,
                "an early release kept the key for half an hour, and an older renewal came after",
            );
            Sample::Judged
        },
    );
    Verdict::Kept
}

/// The lease ends when `max_hold` has passed since the grant, even if it could still be renewed.
pub fn max_hold_ends_the_lease(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Hold);
    let store = Store::new(subject.first());
    let mut number = 0;
    case.sampled("the end of `max_hold`", || {
        number += 1;
        let (ttl, max_hold) = (case.short(), case.short() * 2);
        let lock = case.lock(&store, &format!("most-{number}"), |options| {
            options.ttl(ttl).max_hold(max_hold)
        });
        let guard = taken(&case, &lock);
        let received = now();
        let least = case.traits.ttl_min;
        case.sleep_until(received.saturating_add(max_hold + case.tail(max_hold) + least));
        check!(
            case,
            !guard.is_valid(),
            "a guard is still valid after its `max_hold` of {max_hold:?}"
        );
        let next = case.client(lock.key()).ask(case.long()).value;
        drop(guard);
        match next {
            AcquireOutcome::Granted(_) => Sample::Judged,
            // A renewal for what was left of `max_hold` may have been carried out later than it was
            // sent.
            AcquireOutcome::Held(held) => Sample::Doubtful(format!(
                "the lock's `max_hold` was over, but a claim was refused: the key was {held}"
            )),
        }
    });
    Verdict::Kept
}
