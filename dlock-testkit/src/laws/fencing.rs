//! Law 8: fencing tokens strictly increase per key in grant order.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use dlock_core::{AcquireOutcome, Fencing, FencingToken, Lease};

use super::atomic::enough_turns;
use crate::case::{Case, Law, broken, check, now};
use crate::client::{Holding, fence_of};
use crate::threads::together;
use crate::{Subject, Verdict};

const NONE: &str = "the store declares no fencing tokens";

/// Returns whether the store declares fencing tokens. If not, its grants must have none.
fn declared(case: &Case<'_>) -> bool {
    if case.traits.fencing != Fencing::None {
        return true;
    }
    let holder = case.client(&case.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    check!(
        case,
        lease.fence().is_none(),
        "the store declares no fencing tokens, but a grant has {:?}",
        lease.fence()
    );
    holder.frees(&lease, "the lease had half an hour left");
    false
}

/// The token of a new grant, which must be greater than the previous one.
fn risen(
    case: &Case<'_>,
    last: Option<FencingToken>,
    holding: &Holding,
    since: &str,
) -> FencingToken {
    let fence = fence_of(case, holding.lease.grant());
    if let Some(last) = last {
        check!(
            case,
            fence > last,
            "{since}, and the next grant got the fencing token {fence} after {last}"
        );
    }
    fence
}

/// The token rises from grant to grant while the key is released in between, whichever handle is
/// used.
pub fn tokens_rise_after_a_release(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Fencing);
    if !declared(&case) {
        return Verdict::NotApplicable(NONE);
    }
    let handles = [subject.first(), subject.another()];
    let key = case.key();
    let mut last = None;
    for turn in 0..40 {
        let holder = case.client_on(&handles[turn % 2], &key);
        let since = "the former holder had released the key";
        let holding = holder.take(case.long(), since);
        last = Some(risen(&case, last, &holding, since));
        holder.frees(&holding.lease, "the lease had half an hour left");
    }
    Verdict::Kept
}

/// The token rises after a lease that nobody released.
pub fn tokens_rise_after_an_expiry(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Fencing);
    if !declared(&case) {
        return Verdict::NotApplicable(NONE);
    }
    let key = case.key();
    let mut last = None;
    for turn in 0..3 {
        let since = "the former lease had ended by itself";
        let holder = case.client(&key);
        let mut holding = holder.take(case.short(), since);
        last = Some(risen(&case, last, &holding, since));
        if turn == 1 {
            // An extend in between must not make the store forget the token.
            let answer = holder.extend(&holding.lease, case.short());
            if let dlock_core::Extension::Extended(_) = answer.value {
                holding = holder.prolonged(&holding.lease, answer, since);
            }
        }
        case.sleep_until(holding.free_from(&case));
    }
    Verdict::Kept
}

/// The token rises when handles are closed and opened again in between.
pub fn tokens_rise_over_reconnects(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Fencing);
    if !declared(&case) {
        return Verdict::NotApplicable(NONE);
    }
    let key = case.key();
    let mut last = None;
    for _ in 0..10 {
        let handle = subject.another();
        let holder = case.client_on(&handle, &key);
        let since = "the former holder had released the key and closed its handle";
        let holding = holder.take(case.long(), since);
        last = Some(risen(&case, last, &holding, since));
        holder.frees(&holding.lease, "the lease had half an hour left");
    }
    Verdict::Kept
}

/// A refused claim, a repeat or an extend does not change the holder's token.
pub fn a_token_is_one_grants_alone(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Fencing);
    if !declared(&case) {
        return Verdict::NotApplicable(NONE);
    }
    let key = case.key();
    let holder = case.client(&key);
    let first = holder.take(case.long(), "nobody had claimed the key");
    let fence = fence_of(&case, first.lease.grant());
    let held = case.client(&key).refused(case.long(), "the key was held");
    check!(
        case,
        held.fence().is_none_or(|shown| shown == fence),
        "the refusal shows the fencing token {:?}, the holder has {fence}",
        held.fence()
    );
    let answer = holder.extend(&first.lease, case.long());
    if let dlock_core::Extension::Extended(grant) = &answer.value {
        check!(
            case,
            grant.fence.is_none_or(|shown| shown == fence),
            "an extend was answered with the fencing token {:?}, the grant had {fence}",
            grant.fence
        );
    }
    let again = holder.take(case.long(), "the claim that holds the key was repeated");
    let again = fence_of(&case, again.lease.grant());
    check!(
        case,
        again == fence,
        "the repeated claim of the holder got the fencing token {again} after {fence}"
    );
    Verdict::Kept
}

/// Under contention, too, a later grant has the greater token.
pub fn tokens_rise_among_many_claimants(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Fencing);
    if !declared(&case) {
        return Verdict::NotApplicable(NONE);
    }
    let handles = [subject.first(), subject.another()];
    let key = case.key();
    let seen: Mutex<Vec<FencingToken>> = Mutex::default();
    let tokens = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    let started = now();
    together(6, |index| {
        while !enough_turns(tokens().len(), started) {
            let client = case.client_on(&handles[index % 2], &key);
            let AcquireOutcome::Granted(grant) = client.ask(case.long()).value else {
                thread::sleep(Duration::from_micros(100));
                continue;
            };
            // Only the holder gets here, so this is the order of the grants.
            tokens().push(fence_of(&case, &grant));
            client.frees(
                &Lease::new(client.claim(), grant),
                "the lease had half an hour left",
            );
        }
    });
    let tokens = tokens();
    for pair in tokens.windows(2) {
        if pair[1] <= pair[0] {
            broken!(
                case,
                "of claimants that took turns, the later was granted the fencing token {} after {}",
                pair[1],
                pair[0]
            );
        }
    }
    check!(
        case,
        tokens.len() >= 20,
        "not shown: 6 claimants had only {} turns in two minutes",
        tokens.len()
    );
    Verdict::Kept
}
