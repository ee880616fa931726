//! The characteristics that a store declares are true.

use std::thread;
use std::time::Duration;

use dlock_core::{AcquireOutcome, ErrorKind, Extension, ReleaseOutcome, Signal};

use crate::case::{Case, Law, broken, check, now};
use crate::client::{described, fence_of};
use crate::{Subject, Verdict};

/// The declared characteristics are consistent, the same on every handle, and leave room for core's
/// keys.
pub fn characteristics_make_sense(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Declared);
    let traits = &case.traits;
    check!(
        case,
        !traits.ttl_min.is_zero() && traits.ttl_min <= traits.ttl_max,
        "times to live from {:?} to {:?} are none",
        traits.ttl_min,
        traits.ttl_max
    );
    check!(
        case,
        traits.max_key >= 80,
        "keys of {} bytes are too short",
        traits.max_key
    );
    check!(case, !traits.call_timeout.is_zero(), "a call has no time");
    check!(case, traits.batch >= 1, "a batch takes no lease");
    check!(
        case,
        subject.another().characteristics() == *traits,
        "two handles of one store declare different characteristics"
    );
    Verdict::Kept
}

/// A release wakes a waiter, if the store declares wake-ups; otherwise a watch says at once that
/// there are none.
pub fn a_release_wakes_the_watcher(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Declared);
    let holder = case.client(&case.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let signal = Signal::new();
    let waiter = case.client_on(&subject.another(), holder.key());
    let claim = waiter
        .claim()
        .with_deadline(now().saturating_add(Duration::from_secs(60)));
    let watch = match waiter.store().watch(&claim, &signal) {
        Ok(watch) => watch,
        Err(error) => broken!(case, "a watch failed: {}", described(&error)),
    };
    if !case.traits.wakes {
        check!(
            case,
            watch.is_none(),
            "the store declares no wake-ups, but a watch was answered with one"
        );
        return Verdict::NotApplicable("the store declares no wake-ups");
    }
    let Some(watch) = watch else {
        broken!(
            case,
            "the store declares wake-ups, but a watch was answered with none"
        )
    };
    // As core does: watch, claim again, sleep.
    if let Ok(AcquireOutcome::Granted(_)) = waiter.store().acquire(&claim, case.long()) {
        broken!(
            case,
            "a waiting claimant was granted a key that somebody held"
        );
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            holder.frees(&lease, "the lease had half an hour left");
        });
        let woken = claim
            .clock()
            .sleep_until(&signal, now().saturating_add(Duration::from_secs(20)));
        check!(
            case,
            woken,
            "the store declares wake-ups, but a release did not wake who watched"
        );
    });
    let granted = waiter.ask(case.long()).value;
    check!(
        case,
        matches!(granted, AcquireOutcome::Granted(_)),
        "the key was released and its only waiter woken, but its claim was refused"
    );
    drop(watch);
    waiter.abandon();
    Verdict::Kept
}

/// A waiter that has dropped its watch is not woken.
pub fn a_dropped_watch_wakes_nobody(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Declared);
    let holder = case.client(&case.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let signal = Signal::new();
    let waiter = case.client(holder.key());
    let watch = waiter.store().watch(&waiter.claim(), &signal);
    check!(
        case,
        matches!(watch, Ok(Some(_))) == case.traits.wakes || watch.is_err(),
        "the store declares wake-ups: {}, but a watch was answered otherwise",
        case.traits.wakes
    );
    drop(watch);
    signal.take();
    holder.frees(&lease, "the lease had half an hour left");
    let woken = holder
        .claim()
        .clock()
        .sleep_until(&signal, now().saturating_add(Duration::from_millis(200)));
    check!(
        case,
        !woken,
        "a waiter was woken after it had dropped its watch"
    );
    if case.traits.wakes {
        Verdict::Kept
    } else {
        Verdict::NotApplicable("the store declares no wake-ups")
    }
}

/// `confirm` does not overstate the remaining time of a lease, and reports a lost lease as lost.
pub fn confirm_tells_the_truth(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Declared);
    let holder = case.client(&case.key());
    let holding = holder.take(case.long(), "nobody had claimed the key");
    let declared = case.traits.confirm_after;
    case.sleep_until(now().saturating_add(declared.unwrap_or_default()));
    let confirm = |lease| match holder.store().confirm(&holder.next_call(lease)) {
        Ok(answer) => answer,
        Err(error) => broken!(case, "a confirm failed: {}", described(&error)),
    };
    let asked = now();
    match confirm(&holding.lease) {
        Extension::Lost => broken!(
            case,
            "a lease with half an hour left was answered `Lost` by a confirm"
        ),
        Extension::Extended(grant) if declared.is_some() => {
            let most = asked.until(holding.free_from(&case));
            check!(
                case,
                grant.ttl <= most,
                "a confirm said that the lease has {:?} left, but it has {most:?} at the most",
                grant.ttl
            );
        }
        Extension::Extended(grant) => {
            check!(
                case,
                grant.ttl <= holding.lease.grant().ttl,
                "the store declares no confirm, but one answered more than was granted"
            );
            return Verdict::NotApplicable("the store declares that its grants need no confirm");
        }
    }
    holder.frees(&holding.lease, "the lease had half an hour left");
    check!(
        case,
        matches!(confirm(&holding.lease), Extension::Lost),
        "a released lease was answered `Extended` by a confirm"
    );
    Verdict::Kept
}

/// A value that no lock client wrote gives an error of kind `ForeignKey`, and is not overwritten.
pub fn a_foreign_key_is_left_alone(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Declared);
    let key = case.key();
    if !subject.write_foreign(&key) {
        // Nothing foreign was written.
        case.client(&key)
            .take(case.long(), "nobody had claimed the key");
        return Verdict::NotApplicable(
            "the subject does not say how to write something foreign (`.foreign_written_by(|place, key| …)`)",
        );
    }
    // Twice, since the first claim must not have overwritten it.
    for _ in 0..2 {
        match case.client(&key).try_once(case.long()).value {
            Err(error) => check!(
                case,
                error.kind() == ErrorKind::ForeignKey && !error.may_have_executed(),
                "a claim of a key that holds something foreign failed with `{}`, not with an error of kind `ForeignKey`",
                described(&error)
            ),
            Ok(answer) => broken!(
                case,
                "a claim of a key that holds something foreign was answered with {answer:?}, not with an error of kind `ForeignKey`"
            ),
        }
    }
    Verdict::Kept
}

/// Where operators can inspect the store, they see the holder and can break exactly that holder's
/// lease.
pub fn a_broken_lease_is_lost(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Declared);
    let key = case.key();
    let holder = case.client(&key);
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let store = subject.first();
    let Some(inspect) = store.inspect() else {
        holder.frees(&lease, "the lease had half an hour left");
        return Verdict::NotApplicable("the store cannot be looked into");
    };
    let fence = fence_of(&case, lease.grant());
    match inspect.holder(&key) {
        Ok(Some(held)) => check!(
            case,
            held.fence() == Some(fence),
            "a look at the key shows the fencing token {:?}, its holder has {fence}",
            held.fence()
        ),
        other => broken!(case, "a look at a held key was answered with {other:?}"),
    }
    let broken = |fence| match inspect.break_lease(&key, fence) {
        Ok(answer) => answer,
        Err(error) => broken!(case, "a lease could not be broken: {}", described(&error)),
    };
    let other = dlock_core::FencingToken::new(fence.get() + 1);
    check!(
        case,
        broken(other) == ReleaseOutcome::NotHeld,
        "a lease was broken by a fencing token that its holder does not have"
    );
    case.client(&key)
        .refused(case.long(), "a lease with another fencing token was broken");
    check!(
        case,
        broken(fence) == ReleaseOutcome::Released,
        "a lease could not be broken by its fencing token"
    );
    let next = case.client(&key);
    let present = next
        .take(case.long(), "the holder's lease was broken")
        .lease;
    holder.lost(&lease, "the lease was broken");
    holder.frees_nothing(&lease, "the lease was broken");
    check!(
        case,
        broken(fence) == ReleaseOutcome::NotHeld,
        "the next holder's lease was broken by the fencing token of the one before"
    );
    next.frees(&present, "a former holder's lease was broken again");
    Verdict::Kept
}

/// Where operators can break a lease, a waiter gets the key then, as it does after a release.
pub fn a_broken_lease_wakes_the_next(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Declared);
    let store = subject.first();
    let holder = case.client(&case.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let Some(inspect) = store.inspect() else {
        holder.frees(&lease, "the lease had half an hour left");
        return Verdict::NotApplicable("the store cannot be looked into");
    };
    if !case.traits.wakes {
        holder.frees(&lease, "the lease had half an hour left");
        return Verdict::NotApplicable("the store declares no wake-ups");
    }
    let signal = Signal::new();
    let waiter = case.client_on(&subject.another(), holder.key()).waiting();
    let watch = waiter.watch(&signal);
    if let AcquireOutcome::Granted(_) = waiter.ask(case.long()).value {
        broken!(
            case,
            "a waiting claimant was granted a key that somebody held"
        );
    }
    let fence = fence_of(&case, lease.grant());
    match inspect.break_lease(holder.key(), fence) {
        Ok(ReleaseOutcome::Released) => {}
        Ok(ReleaseOutcome::NotHeld) => {
            broken!(case, "a lease could not be broken by its fencing token")
        }
        Err(error) => broken!(case, "a lease could not be broken: {}", described(&error)),
    }
    let woken = waiter
        .claim()
        .clock()
        .sleep_until(&signal, now().saturating_add(Duration::from_secs(20)));
    check!(
        case,
        woken,
        "a lease was broken, and the next one, who waited for it, was not woken"
    );
    waiter.take(case.long(), "the holder's lease was broken while it waited");
    drop(watch);
    Verdict::Kept
}
