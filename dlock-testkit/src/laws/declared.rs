//! What a store declares of itself is true.

use std::thread;
use std::time::Duration;

use dlock_core::{Attempt, ErrorKind, Extension, Released, Signal};

use crate::case::{Case, Law, broken, check, now};
use crate::client::{described, fence_of};
use crate::{Subject, Verdict};

/// What the store declares can be true at all, is the same on every handle, and leaves room for core's names.
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

/// A waiter is woken by the release, if the store declares that it wakes; else it says at once that it does not.
pub fn a_release_wakes_who_watches(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Declared);
    let holder = case.client(&case.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let signal = Signal::new();
    let waiter = case.client_on(&subject.another(), holder.key());
    let claim = waiter
        .claim()
        .waiting_until(now().saturating_add(Duration::from_secs(60)));
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
    // The order that core keeps: watch, claim again, sleep.
    if let Ok(Attempt::Granted(_)) = waiter.store().acquire(&claim, case.long()) {
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
            .park(&signal, now().saturating_add(Duration::from_secs(20)));
        check!(
            case,
            woken,
            "the store declares wake-ups, but a release did not wake who watched"
        );
    });
    let granted = waiter.ask(case.long()).value;
    check!(
        case,
        matches!(granted, Attempt::Granted(_)),
        "the key was released and its only waiter woken, but its claim was refused"
    );
    drop(watch);
    waiter.abandon();
    Verdict::Kept
}

/// Who does not watch any more is not woken.
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
        .park(&signal, now().saturating_add(Duration::from_millis(200)));
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

/// `confirm` tells how long a lease lives at the least, and that one which is gone is lost.
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

/// What no lock client wrote is an error of kind `ForeignKey`, and stays.
pub fn a_foreign_key_is_left_alone(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Declared);
    let key = case.key();
    if !subject.write_foreign(&key) {
        // Nobody wrote anything, so nothing is foreign.
        case.client(&key)
            .take(case.long(), "nobody had claimed the key");
        return Verdict::NotApplicable(
            "the subject does not say how to write something foreign (`.foreign_written_by(|place, key| …)`)",
        );
    }
    // Twice: the first must not have overwritten it.
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

/// Where operators can look in, they see the holder, and can break exactly the lease that they saw.
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
        broken(other) == Released::NotOurs,
        "a lease was broken by a fencing token that its holder does not have"
    );
    case.client(&key)
        .refused(case.long(), "a lease with another fencing token was broken");
    check!(
        case,
        broken(fence) == Released::Ours,
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
        broken(fence) == Released::NotOurs,
        "the next holder's lease was broken by the fencing token of the one before"
    );
    next.frees(&present, "a former holder's lease was broken again");
    Verdict::Kept
}
