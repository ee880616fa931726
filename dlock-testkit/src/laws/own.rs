//! Law 4: release and extend act only for the token that holds the key.

use dlock_core::{AcquireOutcome, Extension, Grant, Lease, OwnerToken, ReleaseOutcome};

use crate::case::{Case, Law, Sample, broken, check};
use crate::client::{Client, Holding, described};
use crate::{Subject, Verdict};

/// The basic cycle: an owner claims a key, others are refused, the owner releases, and the key is
/// free.
pub fn a_key_is_taken_and_freed(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Own);
    let key = case.key();
    for _ in 0..3 {
        let holder = case.client(&key);
        let lease = holder.take(case.long(), "the key was free").lease;
        case.client(&key).refused(case.long(), "the key was held");
        holder.prolong(&lease, case.long(), "the lease had half an hour left");
        case.client(&key).refused(case.long(), "the key was held");
        holder.frees(&lease, "the lease had half an hour left");
    }
    Verdict::Kept
}

/// A former owner, which has released its lease, and the present owner.
fn former_and_present<'c>(
    case: &'c Case<'_>,
    key: &str,
) -> (Client<'c>, Lease, Client<'c>, Holding) {
    let former = case.client(key);
    let old = former.take(case.long(), "nobody had claimed the key").lease;
    former.frees(&old, "the lease had half an hour left");
    let present = case.client(key);
    let holding = present.take(case.long(), "the former holder had released the key");
    (former, old, present, holding)
}

/// A release by another owner frees nothing, however often it is tried.
pub fn a_strangers_release_frees_nothing(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Own);
    let key = case.key();
    let (former, old, present, holding) = former_and_present(&case, &key);
    for _ in 0..3 {
        let answer = former.release(&old).value;
        let since = "a release by another owner came";
        let next = case.client(&key).ask(case.traits.ttl_min).value;
        check!(
            case,
            matches!(next, AcquireOutcome::Held(_)),
            "a release by another owner freed the key"
        );
        check!(
            case,
            answer == ReleaseOutcome::NotHeld,
            "a release by another owner was answered `Released`"
        );
        present.prolong(&holding.lease, case.long(), since);
    }
    present.frees(&holding.lease, "releases by another owner came");
    Verdict::Kept
}

/// An extend by another owner is answered `Lost` and changes neither the holder nor the end of its
/// lease.
pub fn a_strangers_extend_changes_nothing(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Own);
    case.sampled("an extend before the lease ended", || {
        let key = case.key();
        let (former, old, present, long) = former_and_present(&case, &key);
        let since = "the lease had half an hour left";
        let holding = present.prolong(&long.lease, case.short(), since);
        let answer = former.extend(&old, case.long());
        if answer.received > holding.barred_until() {
            return Sample::TooSlow;
        }
        check!(
            case,
            matches!(answer.value, Extension::Lost),
            "an extend by another owner was answered `Extended`"
        );
        case.sleep_until(holding.free_from(&case));
        let since = "an extend by another owner was refused, then the holder's lease ended";
        case.client(&key).take(case.long(), since);
        Sample::Judged
    });
    Verdict::Kept
}

/// An extend for a shorter time by another owner does not free the key early.
pub fn a_strangers_extend_shortens_nothing(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Own);
    let key = case.key();
    let (former, old, present, holding) = former_and_present(&case, &key);
    let brief = case.traits.ttl_min;
    let answer = former.extend(&old, brief);
    check!(
        case,
        matches!(answer.value, Extension::Lost),
        "an extend by another owner was answered `Extended`"
    );
    case.sleep_until(answer.received.saturating_add(brief + case.tail(brief)));
    let since = "an extend by another owner came";
    case.client(&key).refused(brief, since);
    present.frees(&holding.lease, since);
    Verdict::Kept
}

/// An owner whose lease has ended can neither extend nor release the lease of the next holder.
pub fn an_expired_owner_touches_nobody_elses_lease(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Own);
    let key = case.key();
    let former = case.client(&key);
    let old = former.take(case.short(), "nobody had claimed the key");
    case.sleep_until(old.free_from(&case));
    let present = case.client(&key);
    let lease = present
        .take(case.long(), "the former lease had ended")
        .lease;
    let since = "the lease had ended and somebody else holds the key";
    former.lost(&old.lease, since);
    former.frees_nothing(&old.lease, since);
    let since = "an expired owner tried to extend and to release";
    case.client(&key).refused(case.long(), since);
    present.frees(&lease, since);
    Verdict::Kept
}

/// In a batch each lease is judged by its own owner, and the answers are in the order of the
/// leases.
pub fn a_batch_extends_only_what_is_held(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Own);
    let mut batch = Vec::new();
    let mut expected = Vec::new();
    let mut holders = Vec::new();
    for index in 0..12 {
        let key = case.key();
        let (former, old, present, holding) = former_and_present(&case, &key);
        // Not symmetric, so that a wrong order shows.
        if index % 5 == 1 {
            batch.push((former.next_call(&old), case.long()));
            expected.push(false);
        } else {
            batch.push((present.next_call(&holding.lease), case.long()));
            expected.push(true);
        }
        holders.push((present, holding));
    }
    let answers = subject.first().extend_many(&batch);
    check!(
        case,
        answers.len() == batch.len(),
        "a batch of {} leases got {} answers",
        batch.len(),
        answers.len()
    );
    for (place, (answer, held)) in answers.into_iter().zip(expected).enumerate() {
        let extended = match answer {
            Ok(answer) => matches!(answer, Extension::Extended(_)),
            // A timeout says nothing about owners.
            Err(error) if error.is_transient() => continue,
            Err(error) => {
                check!(case, false, "a batch failed: {}", described(&error));
                false
            }
        };
        check!(
            case,
            extended == held,
            "in a batch the lease at place {place} was answered as {}, though its owner {} the key",
            if extended { "extended" } else { "lost" },
            if held { "holds" } else { "does not hold" }
        );
    }
    for (present, holding) in holders {
        let since = "a batch with other owners' leases came";
        case.client(present.key()).refused(case.long(), since);
        present.frees(&holding.lease, since);
    }
    Verdict::Kept
}

/// Abandoning a refused claim does not free the key of its holder.
pub fn abandoning_a_refused_claim_frees_nothing(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Own);
    let key = case.key();
    let holder = case.client(&key);
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let stranger = case.client(&key);
    stranger.refused(case.long(), "the key was held");
    stranger.abandon();
    let since = "another owner abandoned its claim";
    case.client(&key).refused(case.long(), since);
    holder.frees(&lease, since);
    Verdict::Kept
}

/// Owners whose tokens differ in one bit are different owners, whichever bit it is.
pub fn owners_differ_by_any_bit(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Own);
    let holder = case.client(&case.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let digits = lease.owner().to_string();
    for place in 0..digits.len() {
        let other: String = digits
            .chars()
            .enumerate()
            .map(|(at, digit)| match digit.to_digit(16) {
                // Change one bit of this digit, and keep the others.
                Some(value) if at == place => char::from_digit(value ^ 1, 16).unwrap_or(digit),
                _ => digit,
            })
            .collect();
        let Some(owner) = OwnerToken::from_hex(&other) else {
            broken!(case, "{other} is no owner token")
        };
        let stranger = holder.as_owner(owner);
        let since =
            format!("the key was held by another owner, whose token differs at digit {place}");
        stranger.refused(case.long(), &since);
        // As if it had been granted, without a revision: a store would compare that.
        let claimed = Lease::new(stranger.claim(), Grant::new(case.long()));
        if let Ok(ReleaseOutcome::Released) =
            stranger.store().release(&stranger.next_call(&claimed))
        {
            broken!(case, "{since}, but a release was answered `Released`");
        }
    }
    holder.frees(&lease, "only other owners came");
    Verdict::Kept
}
