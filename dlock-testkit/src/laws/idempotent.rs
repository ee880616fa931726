//! Law 5: calls that core repeats after a lost reply do no harm.

use std::time::Duration;

use dlock_core::{AcquireOutcome, Holder, Lease};

use crate::case::{Case, Law, Sample, check, now};
use crate::laws::held::text;
use crate::threads::together;
use crate::{Subject, Verdict};

/// The same claim repeated is granted again with the same fencing token, on any handle.
pub fn a_repeated_claim_is_the_same_grant(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Idempotent);
    let key = case.key();
    let holder = case.client(&key);
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let elsewhere = holder.on(&subject.another());
    for client in [&holder, &elsewhere, &holder] {
        let again = client
            .take(case.long(), "the claim that holds the key was repeated")
            .lease;
        check!(
            case,
            again.fence() == lease.fence(),
            "a repeated claim got the fencing token {:?} after {:?}",
            again.fence(),
            lease.fence()
        );
    }
    case.client(&key)
        .refused(case.long(), "the claim that holds the key was repeated");
    Verdict::Kept
}

/// Repeats of one claim that arrive together are all granted, with one fencing token.
pub fn concurrent_repeats_are_one_grant(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Idempotent);
    for _ in 0..10 {
        let client = case.client(&case.key());
        let since = "only repeats of one claim arrived";
        let fences = together(6, |_| client.take(case.long(), since).lease.fence());
        check!(
            case,
            fences.iter().all(|fence| *fence == fences[0]),
            "concurrent repeats of one claim got the fencing tokens {fences:?}"
        );
    }
    Verdict::Kept
}

/// A claim repeated late in its lease holds for as long as the repeated grant says.
pub fn a_repeated_claim_holds_for_as_long_as_granted(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Idempotent);
    case.sampled("a repeat shortly before the lease ended", || {
        let key = case.key();
        let holder = case.client(&key);
        // Long enough to tell the first end, plus the store's granularity, from the second.
        let ttl = case.short().max(case.traits.granularity * 2);
        let first = holder.take(ttl, "nobody had claimed the key");
        case.sleep_until(first.sent.saturating_add(ttl * 4 / 5));
        let again = holder.take(ttl, "the claim that holds the key was repeated");
        if again.received > first.barred_until() {
            // It may have been a new grant.
            return Sample::TooSlow;
        }
        let says = again.lease.grant().ttl;
        let since = format!("a claim repeated at 0.8 of its lease was granted for {says:?}");
        let stranger = case.client(&key);
        case.sleep_until(first.barred_until());
        let first_end = first.free_from(&case);
        let mut seen = false;
        while now() < again.barred_until() {
            let is_after_first = now() > first_end;
            let is_refused = stranger.refused_before_end(case.traits.ttl_min, &again, &since);
            seen |= is_after_first && is_refused;
            std::thread::sleep(ttl / 50);
        }
        // A store may answer with the true remaining time instead. Then there is nothing to check
        // after the first end.
        if seen || says < ttl / 2 {
            Sample::Judged
        } else {
            Sample::TooSlow
        }
    });
    Verdict::Kept
}

/// A claim repeated for less time does not shorten its lease.
pub fn a_repeated_claim_takes_nothing_away(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Idempotent);
    let key = case.key();
    let holder = case.client(&key);
    let first = holder.take(case.long(), "nobody had claimed the key").lease;
    let brief = case.traits.ttl_min;
    let again = holder.take(brief, "the claim that holds the key was repeated");
    case.sleep_until(again.received.saturating_add(brief + case.tail(brief)));
    let since = "a claim with half an hour left was repeated for a shorter time";
    case.client(&key).refused(brief, since);
    holder.frees(&first, since);
    Verdict::Kept
}

/// A late copy of a claim does not replace the holder's description that an extend has stored
/// since.
pub fn a_repeated_claim_leaves_the_holder(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Idempotent);
    let key = case.key();
    let holder = case.client(&key).with_holder(&text("first"));
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let renamed = lease.with_holder(text("second"));
    let since = "an extend called the holder \"second\"";
    holder.prolong(&renamed, case.traits.ttl_min.max(case.short()), since);
    // For longer than the remaining time, so that the store must write.
    holder.take(case.long(), "the claim that holds the key was repeated");
    let held = case.client(&key).refused(case.traits.ttl_min, since);
    let seen = held.holder().map(Holder::host);
    check!(
        case,
        seen == Some("second"),
        "{since}, a copy of its claim came late, and the refusal shows the holder {seen:?}"
    );
    Verdict::Kept
}

/// A lease made of an older grant of the same claim extends and releases like the latest.
pub fn an_older_grant_still_works(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Idempotent);
    let key = case.key();
    let holder = case.client(&key);
    let oldest = holder.take(case.long(), "nobody had claimed the key").lease;
    holder.take(case.long(), "the claim that holds the key was repeated");
    holder.prolong(
        &oldest,
        case.long(),
        "a newer grant of the same claim was made",
    );
    holder.prolong(
        &oldest,
        case.long(),
        "the lease was extended since its first grant",
    );
    let elsewhere = holder.on(&subject.another());
    elsewhere.prolong(
        &oldest,
        case.long(),
        "the lease was extended since its first grant",
    );
    let since = "the lease was extended since its first grant";
    elsewhere.frees(&oldest, since);
    case.client(&key).take(
        case.long(),
        "the holder released the key with its first grant",
    );
    Verdict::Kept
}

/// A release repeated is harmless, while the key is free and when somebody else holds it by then.
pub fn a_repeated_release_is_harmless(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Idempotent);
    let key = case.key();
    let former = case.client(&key);
    let old = former.take(case.long(), "nobody had claimed the key").lease;
    former.frees(&old, "the lease had half an hour left");
    let since = "the same lease had been released";
    former.frees_nothing(&old, since);
    former.frees_nothing(&old, since);
    let present = case.client(&key);
    let lease = present.take(case.long(), "a release was repeated").lease;
    former.release(&old);
    let next = case.client(&key).ask(case.traits.ttl_min).value;
    check!(
        case,
        matches!(next, AcquireOutcome::Held(_)),
        "a repeated release freed the key of somebody else"
    );
    former.frees_nothing(&old, since);
    present.frees(&lease, "a former holder repeated its release");
    Verdict::Kept
}

/// A release with a number that was used already, like a copy made by the network, is harmless too.
pub fn a_copied_release_is_harmless(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Idempotent);
    let key = case.key();
    let former = case.client(&key);
    let old = former.take(case.long(), "nobody had claimed the key").lease;
    let call = former.next_call(&old);
    let copies = together(4, |_| former.store().release(&call));
    let freed = copies
        .iter()
        .filter(|copy| matches!(copy, Ok(dlock_core::ReleaseOutcome::Released)))
        .count();
    let failed = copies.iter().filter(|copy| copy.is_err()).count();
    check!(
        case,
        freed == 1 || failed > 0,
        "{freed} of 4 copies of one release were answered `Released`"
    );
    if freed == 0 {
        // The store may have carried out none of those that failed.
        former.release(&old);
    }
    let present = case.client(&key);
    let lease = present
        .take(case.long(), "the holder had released the key")
        .lease;
    // A copy that arrives late. Its answer does not matter.
    drop(former.store().release(&call));
    present.prolong(
        &lease,
        case.long(),
        "a copy of a former holder's release arrived",
    );
    Verdict::Kept
}

/// A claim repeated after its release is a new grant.
pub fn a_claim_repeated_after_its_release_is_a_new_grant(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Idempotent);
    let key = case.key();
    let holder = case.client(&key);
    let first = holder.take(case.long(), "nobody had claimed the key").lease;
    holder.frees(&first, "the lease had half an hour left");
    let second: Lease = holder
        .take(case.long(), "the holder had released the key")
        .lease;
    check!(
        case,
        first.fence().is_none() || second.fence() > first.fence(),
        "a claim repeated after its release got the fencing token {:?} after {:?}",
        second.fence(),
        first.fence()
    );
    case.client(&key)
        .refused(case.long(), "the claim was granted anew");
    holder.frees(&second, "the claim was granted anew");
    case.client(&key).take(
        Duration::max(case.traits.ttl_min, case.short()),
        "the holder had released the key",
    );
    Verdict::Kept
}
