//! Law 6: a lease lasts at least as long as granted, and not much longer.

use std::thread;
use std::time::Duration;

use dlock_core::{AcquireOutcome, drift};

use crate::case::{Case, Law, Sample, broken, check, now};
use crate::client::{Client, Holding, described};
use crate::{Subject, Verdict};

/// A century: as good as for ever.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A lease keeps others out until it ends, and no longer than the store's granularity after that.
pub fn a_lease_ends_when_granted(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Expiry);
    case.sampled("a claim shortly before the lease ended", || {
        let key = case.key();
        let holding = case
            .client(&key)
            .take(case.short(), "nobody had claimed the key");
        watched_to_its_end(&case, &key, &holding)
    });
    Verdict::Kept
}

/// A time to live that is not a multiple of the store's unit is not rounded down.
pub fn an_uneven_time_is_not_rounded_down(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Expiry);
    case.sampled("a claim shortly before the lease ended", || {
        let odd = (case.short() * 137 / 100).min(case.traits.ttl_max);
        let key = case.key();
        let holding = case.client(&key).take(odd, "nobody had claimed the key");
        watched_to_its_end(&case, &key, &holding)
    });
    Verdict::Kept
}

/// An extended lease keeps others out until its new end, and no longer than the granularity after
/// that.
pub fn an_extended_lease_ends_when_granted(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Expiry);
    case.sampled("a claim shortly before the extended lease ended", || {
        let key = case.key();
        let holder = case.client(&key);
        let ttl = case.short();
        let first = holder.take(ttl, "nobody had claimed the key");
        case.sleep_until(first.sent.saturating_add(ttl / 2));
        let answer = holder.extend(&first.lease, ttl);
        if answer.received > first.barred_until() {
            return Sample::TooSlow;
        }
        let extended = holder.prolonged(&first.lease, answer, "half of the lease was left");
        watched_to_its_end(&case, &key, &extended)
    });
    Verdict::Kept
}

/// Claims until the key is granted, which must be not before the end, but soon after.
fn watched_to_its_end(case: &Case<'_>, key: &str, holding: &Holding) -> Sample {
    let ttl = holding.lease.grant().ttl;
    let stranger = case.client(key);
    // This detects stores that end leases early by a tenth or more.
    let late = holding.received.saturating_add(ttl * 9 / 10);
    let mut refused_late = false;
    case.sleep_until(holding.sent.saturating_add(ttl / 2));
    loop {
        // A claim that is running when the last tenth begins could be the last one before the end.
        if now() < late && now().saturating_add(case.latency()) > late {
            case.sleep_until(late);
        }
        let answer = stranger.ask(case.traits.ttl_min);
        match answer.value {
            AcquireOutcome::Held(_) => {
                refused_late |= answer.sent >= late && answer.received <= holding.barred_until();
                check!(
                    case,
                    answer.sent <= holding.free_from(case),
                    "a lease of {ttl:?} still barred others {:?} after it was granted, though the store declares a granularity of {:?}",
                    holding.received.until(answer.sent),
                    case.traits.granularity
                );
            }
            AcquireOutcome::Granted(_) => {
                let early = answer.received.until(holding.barred_until());
                check!(
                    case,
                    early.is_zero(),
                    "a lease of {ttl:?} was given away {:?} after it was asked for",
                    holding.sent.until(answer.received)
                );
                break;
            }
        }
        thread::sleep(ttl / 200);
    }
    if refused_late {
        Sample::Judged
    } else {
        Sample::TooSlow
    }
}

/// The key becomes free by itself and for anyone, without any call meanwhile.
pub fn an_expired_key_is_free_for_anyone(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Expiry);
    let since = "the lease had ended by itself";
    let keys: Vec<String> = (0..4).map(|_| case.key()).collect();
    let holders: Vec<(Client<'_>, Holding)> = keys
        .iter()
        .map(|key| {
            let holder = case.client(key);
            let holding = holder.take(case.short(), "nobody had claimed the key");
            (holder, holding)
        })
        .collect();
    for (_, holding) in &holders {
        case.sleep_until(holding.free_from(&case));
    }
    // It can be claimed by a stranger, through another handle, by the former holder's claim, and
    // through a fresh handle.
    case.client(&keys[0]).take(case.long(), since);
    case.client_on(&subject.another(), &keys[1])
        .take(case.long(), since);
    let again = holders[2].0.take(case.long(), since);
    let first = holders[2].1.lease.fence();
    check!(
        case,
        first.is_none() || again.lease.fence() > first,
        "a claim repeated after its lease ended got the fencing token {:?} after {first:?}",
        again.lease.fence()
    );
    holders[3].0.on(&subject.another()).take(case.long(), since);
    Verdict::Kept
}

/// A fresh grant is for the time that was asked for.
pub fn a_grant_is_for_what_was_asked(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Expiry);
    for ttl in [
        case.traits.ttl_min,
        case.short(),
        case.long(),
        case.traits.ttl_max,
    ] {
        let key = case.key();
        let holder = case.client(&key);
        let holding = holder.take(ttl, "nobody had claimed the key");
        let granted = holding.lease.grant().ttl;
        check!(
            case,
            granted.saturating_add(drift(ttl)) >= ttl
                && granted <= ttl + case.traits.granularity + drift(ttl),
            "a claim for {ttl:?} was granted for {granted:?}"
        );
        if holding.left() > Duration::from_secs(1) {
            // The longest time must not be treated as zero.
            case.client(&key)
                .refused(case.traits.ttl_min, "a long lease had just begun");
            holder.frees(&holding.lease, "a long lease had just begun");
        }
    }
    Verdict::Kept
}

/// A time outside what the store declares is refused with a typed error, or kept: it is never no
/// lease, and never one for ever.
pub fn an_impossible_time_is_refused_or_kept(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Expiry);
    let longest = case.traits.ttl_max;
    let short = [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_micros(999),
        Duration::from_millis(1),
    ];
    for ttl in short {
        let Some((client, holding)) = granted_outside_range(&case, ttl) else {
            continue;
        };
        case.sleep_until(holding.free_from(&case));
        let since = format!(
            "a claim for {ttl:?} was granted for {:?}",
            holding.lease.grant().ttl
        );
        case.client(client.key()).take(case.traits.ttl_min, &since);
    }
    let long = [
        longest + Duration::from_secs(1),
        longest * 2,
        Duration::from_millis(u64::MAX),
        Duration::from_secs(u64::from(u32::MAX) + 1),
        Duration::from_secs(u64::MAX),
        Duration::MAX,
    ];
    for ttl in long {
        let Some((client, holding)) = granted_outside_range(&case, ttl) else {
            continue;
        };
        let granted = holding.lease.grant().ttl;
        check!(
            case,
            granted <= FOR_EVER,
            "a claim for {ttl:?} was granted for {granted:?}: that is for ever, and the store declares at most {longest:?}"
        );
        let since = format!("a claim for {ttl:?} was granted for {granted:?}");
        case.client(client.key())
            .refused(case.traits.ttl_min, &since);
        client.frees(&holding.lease, &since);
    }
    Verdict::Kept
}

/// An extend to a time outside the declared range is refused with a typed error, or kept.
pub fn an_impossible_extend_is_refused_or_kept(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Expiry);
    let longest = case.traits.ttl_max;
    let impossible = [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_micros(999),
        longest + Duration::from_secs(1),
        longest.saturating_mul(2),
        Duration::from_millis(u64::MAX),
        Duration::MAX,
    ];
    for ttl in impossible {
        let holder = case.client(&case.key());
        let lease = holder.take(case.long(), "nobody had claimed the key").lease;
        let sent = now();
        let answer = holder.store().extend(&holder.next_call(&lease), ttl);
        let received = now();
        match answer {
            Ok(dlock_core::Extension::Extended(grant)) => {
                let granted = grant.ttl;
                let since = format!("an extend to {ttl:?} was answered with {granted:?}");
                check!(
                    case,
                    granted <= FOR_EVER,
                    "{since}: that is for ever, and the store declares at most {longest:?}"
                );
                let lease = lease.renewed(grant);
                let holding = Holding {
                    lease,
                    sent,
                    received,
                };
                if ttl > longest {
                    case.client(holder.key())
                        .refused(case.traits.ttl_min, &since);
                } else {
                    case.sleep_until(holding.free_from(&case));
                    case.client(holder.key()).take(case.long(), &since);
                }
            }
            Ok(dlock_core::Extension::Lost) => broken!(
                case,
                "an extend to {ttl:?} of a lease with half an hour left was answered `Lost`"
            ),
            Err(error) => {
                check!(
                    case,
                    error.kind() == dlock_core::ErrorKind::Invalid && !error.may_have_executed(),
                    "an extend to {ttl:?} failed with `{}`, not with an error of kind `Invalid` \
                     before anything was done",
                    described(&error)
                );
                holder.frees(&lease, "an extend was refused as invalid");
            }
        }
    }
    Verdict::Kept
}

/// A lease of the longest time is kept for that time, and not cut to an hour or to a small integer.
pub fn the_longest_time_is_kept(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Expiry);
    let longest = case.traits.ttl_max;
    let holder = case.client(&case.key());
    let lease = holder.take(longest, "nobody had claimed the key").lease;
    let answer = holder.extend_numbered(2, &lease, longest);
    let holding = holder.prolonged(&lease, answer, "the lease had just begun");
    let granted = holding.lease.grant().ttl;
    let least = |at: dlock_core::Time| {
        let left = at.until(holding.barred_until());
        left.saturating_sub(case.traits.granularity + drift(granted) + Duration::from_secs(1))
    };
    // An older call changes nothing, and is answered with the true remaining time.
    let older = holder.extend_numbered(1, &holding.lease, case.long());
    let dlock_core::Extension::Extended(left) = &older.value else {
        broken!(
            case,
            "an older extend of the present holder was answered `Lost`"
        )
    };
    check!(
        case,
        left.ttl >= least(older.received),
        "a lease was extended to {granted:?}, and a moment later the store says that it has {:?} left",
        left.ttl
    );
    let held = case.client(holder.key()).refused(
        case.traits.ttl_min,
        "a lease of the longest time had just begun",
    );
    if let Some(left) = held.expires_in() {
        check!(
            case,
            left >= least(now()),
            "a lease was extended to {granted:?}, and a refusal says that the key is free in {left:?}"
        );
    }
    holder.frees(&holding.lease, "a lease of the longest time had just begun");
    Verdict::Kept
}

/// Claims for a time outside the declared range. Returns the grant, if there was one.
fn granted_outside_range<'c>(case: &'c Case<'_>, ttl: Duration) -> Option<(Client<'c>, Holding)> {
    let client = case.client(&case.key());
    let answer = client.try_once(ttl);
    match answer.value {
        Ok(AcquireOutcome::Granted(grant)) => {
            let lease = dlock_core::Lease::new(client.claim(), grant);
            let holding = Holding {
                lease,
                sent: answer.sent,
                received: answer.received,
            };
            Some((client, holding))
        }
        Ok(AcquireOutcome::Held(held)) => broken!(
            case,
            "a claim for {ttl:?} on a free key was refused: {held}"
        ),
        Err(error) => {
            check!(
                case,
                error.kind() == dlock_core::ErrorKind::Invalid && !error.may_have_executed(),
                "a claim for {ttl:?} failed with `{}`, not with an error of kind `Invalid` before anything was done",
                described(&error)
            );
            let since = format!("a claim for {ttl:?} was refused as invalid");
            let lease = case.client(client.key()).take(case.long(), &since).lease;
            drop(client.store().release(&client.next_call(&lease)));
            None
        }
    }
}

/// As soon as somebody else can have the key, the lease is over for its holder too.
pub fn an_expired_lease_cannot_be_released(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Expiry);
    let holder = case.client(&case.key());
    let holding = holder.take(case.short(), "nobody had claimed the key");
    case.sleep_until(holding.free_from(&case));
    check!(case, now() > holding.received, "the clock stands still");
    holder.frees_nothing(&holding.lease, "the lease had ended by itself");
    Verdict::Kept
}
