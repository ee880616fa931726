//! Law 10: an acquire that failed or was given up leaves nothing behind.

use std::time::Duration;

use dlock_core::{AcquireOutcome, ErrorKind, Signal};

use crate::case::{Case, Law, Sample, broken, check, now};
use crate::client::described;
use crate::{Subject, Verdict};

/// A claim that was granted and is abandoned holds nothing.
pub fn an_abandoned_grant_is_gone(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Clean);
    let key = case.key();
    for handle in [subject.first(), subject.another()] {
        let client = case.client(&key);
        client.take(
            case.long(),
            "an abandoned claim was the last to hold the key",
        );
        // As after a lost reply: the claimant does not know of the grant.
        client.on(&handle).abandon();
        let since = "a granted claim had been abandoned";
        let next = case.client(&key);
        let lease = next.take(case.long(), since).lease;
        client.abandon();
        case.client(&key)
            .refused(case.long(), "a former claim was abandoned once more");
        next.frees(&lease, "a former claim was abandoned once more");
    }
    Verdict::Kept
}

/// A claim that never reached the store is abandoned without a trace.
pub fn abandoning_an_unsent_claim_takes_nothing(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Clean);
    let key = case.key();
    for _ in 0..3 {
        case.client(&key).abandon();
    }
    case.client(&key).take(
        case.long(),
        "only claims that were never made were abandoned",
    );
    Verdict::Kept
}

/// A claimant that waited, was refused and gave up is not handed the key later.
pub fn a_claimant_that_gives_up_gets_nothing(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Clean);
    let key = case.key();
    let holder = case.client(&key);
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    for _ in 0..5 {
        let waiter = case.client(&key);
        let until = now().saturating_add(Duration::from_secs(60));
        let claim = waiter.claim().with_deadline(until);
        let watch = waiter.store().watch(&claim, &Signal::new());
        if let Ok(AcquireOutcome::Granted(_)) = waiter.store().acquire(&claim, case.long()) {
            broken!(
                case,
                "a waiting claimant was granted a key that somebody held"
            );
        }
        drop(watch);
        waiter.abandon();
    }
    holder.frees(&lease, "the waiters had given up");
    case.client(&key).take(
        case.long(),
        "the holder released the key, and all who waited had given up",
    );
    Verdict::Kept
}

/// A claim that reaches the store after its end takes nothing, or at most for its time to live
/// where the store cannot refuse it.
pub fn a_late_claim_leaves_nothing(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Clean);
    for late_by in [
        Duration::ZERO,
        Duration::from_millis(100),
        Duration::from_secs(3600),
    ] {
        let key = case.key();
        let late = case.client(&key);
        let claim = late.claim().with_not_after(now().saturating_sub(late_by));
        let ttl = case.short();
        let answer = late.store().acquire(&claim, ttl);
        let received = now();
        match answer {
            Ok(AcquireOutcome::Granted(_)) if case.traits.refuses_late_calls => broken!(
                case,
                "a claim was granted {late_by:?} after its end, though the store declares that it refuses late calls"
            ),
            Err(error) => {
                let kind = error.kind();
                check!(
                    case,
                    matches!(
                        kind,
                        ErrorKind::Stale | ErrorKind::Timeout | ErrorKind::Unreachable
                    ),
                    "a claim that came {late_by:?} after its end failed with `{}`, not with an error of kind `Stale` or `Timeout`",
                    described(&error)
                );
            }
            Ok(_) => {}
        }
        if !case.traits.refuses_late_calls {
            case.sleep_until(received.saturating_add(ttl + case.tail(ttl)));
        }
        let since = format!("a claim came {late_by:?} after its end");
        case.client(&key).take(case.long(), &since);
    }
    Verdict::Kept
}

/// An extend that reaches the store after its end changes nothing, where the store declares that it
/// refuses late calls.
pub fn a_late_extend_changes_nothing(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Clean);
    if !case.traits.refuses_late_calls {
        // The late extend may be carried out, but then like any other extend.
        let holder = case.client(&case.key());
        let lease = holder.take(case.long(), "nobody had claimed the key").lease;
        drop(
            holder
                .store()
                .extend(&lease.for_call(1, now()), case.long()),
        );
        holder.prolong(&lease, case.long(), "a late extend came before");
        holder.frees(&lease, "a late extend came before");
        return Verdict::NotApplicable("the store does not declare that it refuses late calls");
    }
    case.sampled("a late extend before the lease ended", || {
        let key = case.key();
        let holder = case.client(&key);
        let holding = holder.take(case.short(), "nobody had claimed the key");
        let late = holding
            .lease
            .for_call(1, now().saturating_sub(Duration::from_millis(100)));
        let answer = holder.store().extend(&late, case.long());
        if now() > holding.barred_until() {
            return Sample::TooSlow;
        }
        if let Ok(dlock_core::Extension::Extended(grant)) = answer {
            check!(
                case,
                grant.ttl <= case.short(),
                "an extend that came after its end was answered with {:?}",
                grant.ttl
            );
        }
        case.sleep_until(holding.free_from(&case));
        case.client(&key).take(
            case.long(),
            "an extend came after its end, then the lease ended",
        );
        Sample::Judged
    });
    Verdict::Kept
}

/// A released key is shown as free, where the store can be inspected.
pub fn a_released_key_has_no_holder(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Clean);
    let holder = case.client(&case.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    holder.frees(&lease, "the lease had half an hour left");
    let store = subject.first();
    let Some(inspect) = store.inspect() else {
        // In a store that cannot be inspected, the key must still be free.
        case.client(holder.key())
            .take(case.long(), "the holder had released the key");
        return Verdict::NotApplicable("the store cannot be looked into");
    };
    match inspect.holder(holder.key()) {
        Ok(None) => Verdict::Kept,
        Ok(Some(held)) => broken!(case, "the key had been released, but was shown as {held}"),
        Err(error) => broken!(
            case,
            "a released key could not be looked at: {}",
            described(&error)
        ),
    }
}
