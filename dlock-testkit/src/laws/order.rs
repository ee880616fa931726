//! Law 7: large numbers of a lease's calls.

use std::time::Duration;

use dlock_core::{AcquireOutcome, Extension, Signal, drift};

use super::queue::is_queueing;
use crate::case::{Case, Law, Sample, broken, check, now};
use crate::client::{Client, Holding};
use crate::{Subject, Verdict};

/// Numbers at which a store that keeps them as text, or in few bits, may fail.
const STEPS: &[(u64, u64)] = &[
    (9, 10),
    (99, 100),
    (127, 128),
    (255, 256),
    (32_767, 32_768),
    (65_535, 65_536),
    (2_147_483_647, 2_147_483_648),
    (4_294_967_295, 4_294_967_296),
];

/// The ten-thousandth extend of a lease counts as the first does.
pub fn the_order_is_kept_beyond_small_numbers(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    let shortened: Vec<_> = STEPS
        .iter()
        .map(|(before, after)| {
            let holder = case.client(&case.key());
            let lease = holder.take(case.long(), "nobody had claimed the key").lease;
            let since = "the lease had half an hour left";
            let answer = holder.extend_numbered(*before, &lease, case.long());
            let lease = holder.prolonged(&lease, answer, since).lease;
            let answer = holder.extend_numbered(*after, &lease, case.short());
            let holding = holder.prolonged(&lease, answer, since);
            counts(
                &case,
                &holding,
                &format!(
                    "the extend {after} to {:?} came after the extend {before}",
                    case.short()
                ),
            );
            (holder, holding, before, after)
        })
        .collect();
    for (holder, holding, before, after) in &shortened {
        case.sleep_until(holding.free_from(&case));
        let since = format!(
            "the extend {after} to {:?} came after the extend {before} to half an hour, and that \
             time had passed",
            case.short()
        );
        case.client(holder.key()).take(case.long(), &since);
    }
    Verdict::Kept
}

/// An extend to a short time that changes nothing is answered with the longer remaining time.
fn counts(case: &Case<'_>, holding: &Holding, since: &str) {
    let (asked, granted) = (case.short(), holding.lease.grant().ttl);
    check!(
        case,
        granted <= asked + case.traits.granularity + drift(asked),
        "{since} and was answered with {granted:?}"
    );
}

/// A waiter that is handed the key starts its own order of calls.
pub fn a_hand_over_starts_a_new_order(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    if let Err(verdict) = is_queueing(&case) {
        return verdict;
    }
    case.sampled("an extend of the one that the key was handed to", || {
        let former = case.client(&case.key());
        let old = former.take(case.long(), "nobody had claimed the key").lease;
        let since = "the lease had half an hour left";
        let answer = former.extend_numbered(1_000_000, &old, case.long());
        former.prolonged(&old, answer, since);
        let signal = Signal::new();
        let waiter: Client<'_> = case.client(former.key()).waiting();
        let watch = waiter.watch(&signal);
        if let AcquireOutcome::Granted(_) = waiter.ask(case.long()).value {
            broken!(case, "a waiter was granted a key that somebody held");
        }
        former.frees(&old, since);
        let end = now().saturating_add(Duration::from_secs(20));
        let woken = waiter.claim().clock().sleep_until(&signal, end);
        check!(
            case,
            woken,
            "the key was released, and its waiter not woken"
        );
        let holding = waiter.take(case.long(), "it was the only one that waited");
        drop(watch);
        let answer = waiter.extend_numbered(1, &holding.lease, case.short());
        let brief = match answer.value {
            Extension::Extended(_) => waiter.prolonged(&holding.lease, answer, "it holds the key"),
            Extension::Lost => return Sample::TooSlow,
        };
        counts(&case, &brief, "a waiter was handed the key after the former holder's millionth extend, and its first, to a short time,");
        case.sleep_until(brief.free_from(&case));
        let since = "the key was handed to a waiter after the former holder's millionth extend, \
                     and the waiter's first extend, to a short time, had passed";
        case.client(former.key()).take(case.long(), since);
        Sample::Judged
    });
    Verdict::Kept
}
