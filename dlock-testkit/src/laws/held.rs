//! Law 3: a refused claim changes nothing.

use dlock_core::Holder;

use crate::case::{Case, Law, Sample, check, now};
use crate::{Subject, Verdict};

/// A refused claim, for however long, does not keep the key beyond the end of the holder's lease.
pub fn refused_claims_do_not_lengthen_the_lease(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Held);
    case.sampled("a refusal before the lease ended", || {
        let key = case.key();
        let holding = case
            .client(&key)
            .take(case.short(), "nobody had claimed the key");
        for _ in 0..10 {
            let since = "the lease had not ended";
            let stranger = case.client(&key);
            if !stranger.refused_before_end(case.long(), &holding, since) {
                return Sample::TooSlow;
            }
        }
        case.sleep_until(holding.free_from(&case));
        let since = "claims that asked for more were refused, then the lease ended";
        case.client(&key).take(case.long(), since);
        Sample::Judged
    });
    Verdict::Kept
}

/// A refused claim, for however short, does not free the key before the end of the holder's lease.
pub fn refused_claims_do_not_shorten_the_lease(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Held);
    let key = case.key();
    let holder = case.client(&key);
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let brief = case.traits.ttl_min;
    for _ in 0..10 {
        case.client(&key).refused(brief, "the key was held");
    }
    case.sleep_until(now().saturating_add(brief + case.tail(brief)));
    let since = "claims that asked for less were refused";
    case.client(&key).refused(brief, since);
    holder.prolong(&lease, case.long(), since);
    holder.frees(&lease, since);
    Verdict::Kept
}

/// After refused claims the holder is who it was: its text, its fencing token, its right to extend
/// and to release.
pub fn refused_claims_leave_the_holder(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Held);
    let key = case.key();
    let holder = case.client(&key).with_holder(&text("the-holder"));
    let stranger = case.client(&key).with_holder(&text("a-stranger"));
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let since = "a claim was refused";
    let first = stranger.refused(case.long(), "the key was held");
    let second = case.client(&key).refused(case.long(), since);
    for held in [first, second] {
        let seen = held.holder().map(Holder::host);
        check!(
            case,
            seen == Some("the-holder"),
            "the refusal shows the holder {seen:?} where the claim said \"the-holder\" (a store keeps `Claim::holder` beside \
             the key and gives it to `HeldBy::with_holder_text`)"
        );
        check!(
            case,
            held.fence() == lease.fence() || held.fence().is_none(),
            "the refusal shows the fencing token {:?} where the holder has {:?}",
            held.fence(),
            lease.fence()
        );
    }
    let again = holder.take(
        case.long(),
        "the holder repeated its claim after others were refused",
    );
    check!(
        case,
        again.lease.fence() == lease.fence(),
        "{since}, and the holder's fencing token changed from {:?} to {:?}",
        lease.fence(),
        again.lease.fence()
    );
    holder.prolong(&lease, case.long(), since);
    holder.frees(&lease, since);
    Verdict::Kept
}

/// A claim that was refused and not repeated does not get the key when it becomes free.
pub fn a_refused_claim_holds_nothing_later(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Held);
    let key = case.key();
    let holder = case.client(&key);
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    case.client(&key).refused(case.long(), "the key was held");
    holder.frees(&lease, "the key was held");
    let since = "the holder released the key, and a refused claimant went away";
    case.client(&key).take(case.long(), since);
    Verdict::Kept
}

/// A refusal does not overstate how long the holder's lease lasts, if it says anything about it.
pub fn a_refusal_says_the_remaining_time(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Held);
    let key = case.key();
    let holding = case
        .client(&key)
        .take(case.long(), "nobody had claimed the key");
    let stranger = case.client(&key);
    let asked = now();
    let held = stranger.refused(case.long(), "the key was held");
    if let Some(left) = held.expires_in() {
        let least = now().until(holding.barred_until());
        let most = asked.until(holding.free_from(&case));
        check!(
            case,
            left >= least.saturating_sub(case.traits.granularity) && left <= most,
            "the refusal says that the key is free in {left:?}, but the lease had {least:?} to {most:?} left"
        );
    }
    Verdict::Kept
}

/// A holder description, as a claim on this host would have it.
pub(crate) fn text(host: &str) -> String {
    format!("dlock1 {host} 4121 00000000000000aa 1764000271000 running")
}
