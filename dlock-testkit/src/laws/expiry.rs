//! Law 6: a lease lives at least what was granted, and not much longer.

use std::thread;
use std::time::Duration;

use dlock_core::{Attempt, drift};

use crate::case::{Case, Law, Sample, broken, check, now};
use crate::client::{Client, Holding, described};
use crate::{Subject, Verdict};

/// A century: nobody waits for such a lease to end.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A lease bars others until it ends, and no longer than the store's granularity after.
pub fn a_lease_ends_when_it_says(subject: &Subject) -> Verdict {
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

/// A time that is no whole number of the store's units is not cut to one.
pub fn an_odd_time_is_not_cut(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Expiry);
    let odd = (case.short() * 137 / 100).min(case.traits.ttl_max);
    case.sampled("a claim shortly before the lease ended", || {
        let key = case.key();
        let holding = case.client(&key).take(odd, "nobody had claimed the key");
        watched_to_its_end(&case, &key, &holding)
    });
    Verdict::Kept
}

/// An extended lease bars others until its new end, and no longer than the granularity after.
pub fn an_extended_lease_ends_when_it_says(subject: &Subject) -> Verdict {
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

/// Claims until the key is granted: not before the end, but soon after.
fn watched_to_its_end(case: &Case<'_>, key: &str, holding: &Holding) -> Sample {
    let ttl = holding.lease.grant().ttl;
    let stranger = case.client(key);
    // A store that ends leases early by a tenth or more is seen.
    let late = holding.received.saturating_add(ttl * 9 / 10);
    let mut refused_late = false;
    case.sleep_until(holding.sent.saturating_add(ttl / 2));
    loop {
        let answer = stranger.ask(case.traits.ttl_min);
        match answer.value {
            Attempt::Held(_) => {
                refused_late |= answer.sent >= late && answer.received <= holding.barred_until();
                check!(
                    case,
                    answer.sent <= holding.free_from(case),
                    "a lease of {ttl:?} still barred others {:?} after it was granted, though the store declares a granularity of {:?}",
                    holding.received.until(answer.sent),
                    case.traits.granularity
                );
            }
            Attempt::Granted(_) => {
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

/// The key becomes free by itself, and for anyone: nobody looked at it meanwhile.
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
    // By a stranger, through another handle, by the former holder's own claim, and by a fresh handle.
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
            // The longest time must not be taken for none.
            case.client(&key)
                .refused(case.traits.ttl_min, "a long lease had just begun");
            holder.frees(&holding.lease, "a long lease had just begun");
        }
    }
    Verdict::Kept
}

/// A time outside what the store declares is refused with a typed error, or kept: it is never no lease, and never one for ever.
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
        let Some((client, holding)) = granted_oddly(&case, ttl) else {
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
        let Some((client, holding)) = granted_oddly(&case, ttl) else {
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

/// What a claim for a time that the store does not declare got, if anything.
fn granted_oddly<'c>(case: &'c Case<'_>, ttl: Duration) -> Option<(Client<'c>, Holding)> {
    let client = case.client(&case.key());
    let answer = client.try_once(ttl);
    match answer.value {
        Ok(Attempt::Granted(grant)) => {
            let lease = dlock_core::Lease::new(client.claim(), grant);
            let holding = Holding {
                lease,
                sent: answer.sent,
                received: answer.received,
            };
            Some((client, holding))
        }
        Ok(Attempt::Held(held)) => broken!(
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

/// The lease is over for its holder, too, as soon as somebody else can have it.
pub fn an_expired_lease_cannot_be_released(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Expiry);
    let holder = case.client(&case.key());
    let holding = holder.take(case.short(), "nobody had claimed the key");
    case.sleep_until(holding.free_from(&case));
    check!(case, now() > holding.received, "the clock stands still");
    holder.frees_nothing(&holding.lease, "the lease had ended by itself");
    Verdict::Kept
}
