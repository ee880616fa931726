//! Law 7: extend replaces the remaining time, in the order of its calls, and revives nothing.

use std::any::Any;
use std::time::Duration;

use dlock_core::{Extension, Holder, Lease, drift};

use crate::case::{Case, Law, Sample, broken, check, now};
use crate::client::{Answer, Client, Holding, described};
use crate::laws::held::text;
use crate::{Subject, Verdict};

/// An extend sets the remaining time: it is not added to what was left, and a shorter time
/// shortens.
pub fn extend_replaces_the_remaining_time(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    for first in [case.short(), case.long()] {
        case.sampled("an extend before the lease ended", || {
            let key = case.key();
            let holder = case.client(&key);
            let lease = holder.take(first, "nobody had claimed the key");
            let answer = holder.extend(&lease.lease, case.short());
            if answer.received > lease.barred_until() {
                return Sample::TooSlow;
            }
            let extended = holder.prolonged(&lease.lease, answer, "the lease had not ended");
            let (asked, granted) = (case.short(), extended.lease.grant().ttl);
            check!(
                case,
                granted <= asked + case.traits.granularity + drift(asked),
                "a lease of {first:?} was extended to {asked:?} and {granted:?} were granted"
            );
            case.sleep_until(extended.free_from(&case));
            let since = format!(
                "a lease of {first:?} was extended to {:?}, and that had passed",
                case.short()
            );
            case.client(&key).take(case.long(), &since);
            Sample::Judged
        });
    }
    Verdict::Kept
}

/// An extend lengthens: the key is held beyond the first end.
pub fn extend_lengthens(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    case.sampled("an extend before the lease ended", || {
        let key = case.key();
        let holder = case.client(&key);
        let lease = holder.take(case.short(), "nobody had claimed the key");
        let answer = holder.extend(&lease.lease, case.long());
        if answer.received > lease.barred_until() {
            return Sample::TooSlow;
        }
        let extended = holder.prolonged(&lease.lease, answer, "the lease had not ended");
        let granted = extended.lease.grant().ttl;
        check!(
            case,
            granted >= case.long() - drift(case.long()),
            "an extend to {:?} was answered with {granted:?}",
            case.long()
        );
        case.sleep_until(lease.free_from(&case));
        let since = "the lease was extended to half an hour";
        case.client(&key).refused(case.long(), since);
        holder.frees(&extended.lease, since);
        Sample::Judged
    });
    Verdict::Kept
}

/// A lease that has ended is lost and stays lost, even if nobody else has claimed the key.
pub fn extend_revives_no_expired_lease(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    let key = case.key();
    let holder = case.client(&key);
    let holding = holder.take(case.short(), "nobody had claimed the key");
    case.sleep_until(holding.free_from(&case));
    let since = "the lease had ended by itself";
    holder.lost(&holding.lease, since);
    holder.on(&subject.another()).lost(&holding.lease, since);
    case.client(&key)
        .take(case.long(), "an extend came after the lease's end");
    Verdict::Kept
}

/// A released lease is lost, and the key stays free.
pub fn extend_revives_no_released_lease(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    let key = case.key();
    let holder = case.client(&key);
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let sent_before = holder.next_call(&lease);
    holder.frees(&lease, "the lease had half an hour left");
    holder.lost(&lease, "the lease had been released");
    // A renewal that was under way when the lease was released.
    if let Ok(Extension::Extended(_)) = holder.store().extend(&sent_before, case.long()) {
        broken!(
            case,
            "the lease had been released, but an extend sent before that was answered `Extended`"
        );
    }
    case.client(&key)
        .take(case.long(), "extends came after the lease's release");
    Verdict::Kept
}

/// An older call that arrives after a newer one changes nothing: neither does it shorten.
pub fn a_late_older_extend_does_not_shorten(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    for late in [1, 2] {
        let key = case.key();
        let holder = case.client(&key);
        let lease = holder.take(case.long(), "nobody had claimed the key").lease;
        let newer = extend_numbered(&holder, 2, &lease, case.long());
        let brief = case.short();
        let answer = holder.extend_numbered(late, &lease, brief);
        tells_the_remaining_time(&case, &answer, &newer, late);
        let over = answer.received.saturating_add(brief + case.tail(brief));
        case.sleep_until(over);
        let since = format!(
            "the extend {late} to {brief:?} came after the extend 2 to {:?}",
            case.long()
        );
        case.client(&key).refused(brief, &since);
        holder.frees(&newer.lease, &since);
    }
    Verdict::Kept
}

/// An older call that arrives after a newer one does not lengthen.
pub fn a_late_older_extend_does_not_lengthen(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    case.sampled("a late extend before the lease ended", || {
        let key = case.key();
        let holder = case.client(&key);
        let first = holder.take(case.long(), "nobody had claimed the key");
        let brief = extend_numbered(&holder, 7, &first.lease, case.short());
        let answers = [6, 7, 1].map(|late| holder.extend_numbered(late, &first.lease, case.long()));
        for answer in &answers {
            if answer.received > brief.barred_until() {
                return Sample::TooSlow;
            }
            tells_the_remaining_time(&case, answer, &brief, 6);
        }
        case.sleep_until(brief.free_from(&case));
        let since = "extends 6, 7 and 1 to half an hour came after the extend 7 to a short time, and that had passed";
        case.client(&key).take(case.long(), since);
        Sample::Judged
    });
    Verdict::Kept
}

/// The highest number seen is kept through a repeated claim, on every handle.
pub fn a_repeated_claim_does_not_forget_the_order(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    let key = case.key();
    let holder = case.client(&key);
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let newer = extend_numbered(&holder, 5, &lease, case.long());
    let again = holder
        .take(case.long(), "the claim that holds the key was repeated")
        .lease;
    let elsewhere = holder.on(&subject.another());
    let brief = case.short();
    let mut over = now();
    for (client, late) in [(&holder, 3), (&elsewhere, 4)] {
        let answer = client.extend_numbered(late, &again, brief);
        over = answer.received;
        check!(
            case,
            matches!(answer.value, Extension::Extended(_)),
            "an older extend of the present holder was answered `Lost`"
        );
    }
    case.sleep_until(over.saturating_add(brief + case.tail(brief)));
    let since = "extends 3 and 4 to a short time came after the extend 5 to half an hour and a repeat of the claim";
    case.client(&key).refused(brief, since);
    holder.frees(&newer.lease, since);
    Verdict::Kept
}

/// The next owner's calls start at one again.
pub fn the_order_of_calls_ends_with_its_owner(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    case.sampled("an extend before the lease ended", || {
        let key = case.key();
        let former = case.client(&key);
        let old = former.take(case.long(), "nobody had claimed the key").lease;
        extend_numbered(&former, 1_000_000, &old, case.long());
        former.frees(&old, "the lease had half an hour left");
        let present = case.client(&key);
        let holding = present.take(case.short(), "the former holder had released the key");
        let answer = present.extend_numbered(1, &holding.lease, case.long());
        if answer.received > holding.barred_until() {
            return Sample::TooSlow;
        }
        let since = "a new holder made its first extend, after a former one's millionth";
        present.prolonged(&holding.lease, answer, since);
        case.sleep_until(holding.free_from(&case));
        case.client(&key).refused(case.traits.ttl_min, since);
        Sample::Judged
    });
    Verdict::Kept
}

/// In a batch, too, a call that is not the newest of its lease changes nothing.
pub fn a_batch_keeps_the_order_of_calls(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    let brief = case.short();
    let keys: Vec<String> = (0..6).map(|_| case.key()).collect();
    let holders: Vec<(Client<'_>, Holding)> = keys
        .iter()
        .map(|key| {
            let holder = case.client(key);
            let lease = holder.take(case.long(), "nobody had claimed the key").lease;
            let newer = extend_numbered(&holder, 9, &lease, case.long());
            (holder, newer)
        })
        .collect();
    let end = now().saturating_add(case.traits.call_timeout);
    let batch: Vec<(Lease, Duration)> = holders
        .iter()
        .map(|(_, newer)| (newer.lease.for_call(8, end), brief))
        .collect();
    for answer in subject.first().extend_many(&batch) {
        if let Ok(Extension::Lost) = answer {
            broken!(
                case,
                "an older extend of the present holder was answered `Lost` in a batch"
            );
        }
    }
    case.sleep_until(now().saturating_add(brief + case.tail(brief)));
    for (holder, newer) in &holders {
        let since =
            "a batch brought the extend 8 to a short time after the extend 9 to half an hour";
        case.client(holder.key()).refused(brief, since);
        holder.frees(&newer.lease, since);
    }
    Verdict::Kept
}

/// An extend stores the holder's description; an older one does not.
pub fn extend_stores_the_holder(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    let key = case.key();
    let holder = case.client(&key).with_holder(&text("first"));
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let shown = |expected: &str, since: &str| {
        let held = case.client(&key).refused(case.traits.ttl_min, since);
        let seen = held.holder().map(Holder::host);
        check!(
            case,
            seen == Some(expected),
            "{since}, and the refusal shows the holder {seen:?}"
        );
    };
    shown("first", "the holder called itself \"first\"");
    let renamed = lease.clone().with_holder(text("second"));
    extend_numbered(&holder, 4, &renamed, case.long());
    shown("second", "an extend called the holder \"second\"");
    let late = lease.with_holder(text("late"));
    holder.extend_numbered(3, &late, case.long());
    shown("second", "an older extend called the holder \"late\"");
    let many = [(
        holder.next_call(&renamed.with_holder(text("third"))),
        case.long(),
    )];
    if let Some(Ok(_)) = subject.first().extend_many(&many).into_iter().next() {
        shown("third", "a batch called the holder \"third\"");
    }
    Verdict::Kept
}

/// An extend that waited inside the store past the end of its lease revives nothing, whatever it
/// has waited for.
pub fn an_extend_that_waited_revives_nothing(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    let for_writer = waited(&case, "the writer", |_| subject.hold_writer());
    check!(
        case,
        for_writer || !case.traits.single_writer,
        "not shown: the store declares a single writer, but the subject does not say how to keep it \
         busy: add `.writer_held_by(|place| …)`"
    );
    let for_record = waited(&case, "its record", |key| subject.lock_record(key));
    if for_writer || for_record {
        Verdict::Kept
    } else {
        Verdict::NotApplicable(
            "the subject names nothing that a call could wait for (`.writer_held_by(|place| …)`, \
             `.record_locked_by(|place, key| …)`)",
        )
    }
}

/// Makes an extend wait, past the end of its lease, for what `hold` holds. Returns whether there
/// was something to hold.
fn waited(case: &Case<'_>, what: &str, hold: impl Fn(&str) -> Option<Box<dyn Any>>) -> bool {
    let key = case.key();
    let holder = case.client(&key);
    let holding = holder.take(case.short(), "nobody had claimed the key");
    let Some(busy) = hold(&key) else {
        return false;
    };
    let (store, call, ttl) = (
        holder.store().clone(),
        holder.next_call(&holding.lease),
        case.long(),
    );
    let end = holding.free_from(case);
    let patience = end.saturating_add(case.traits.call_timeout);
    let call = call.for_call(call.sequence(), patience);
    let waiting = std::thread::spawn(move || store.extend(&call, ttl));
    case.sleep_until(end);
    drop(busy);
    let since = format!("an extend waited for {what} past the end of its lease");
    match waiting.join() {
        Ok(Ok(Extension::Extended(_))) => broken!(case, "{since} and revived it"),
        Ok(Ok(Extension::Lost)) => {}
        Ok(Err(error)) => check!(
            case,
            error.is_transient(),
            "{since} and failed: {}",
            described(&error)
        ),
        Err(panic) => std::panic::resume_unwind(panic),
    }
    case.client(&key).take(case.long(), &since);
    true
}

/// Makes an extend with this number, which must succeed.
fn extend_numbered(holder: &Client<'_>, number: u64, lease: &Lease, ttl: Duration) -> Holding {
    let answer = holder.extend_numbered(number, lease, ttl);
    holder.prolonged(lease, answer, "the lease had not ended")
}

/// Makes an extend with an old number, which must be answered with the remaining time of the newest
/// extend.
fn tells_the_remaining_time(
    case: &Case<'_>,
    late: &Answer<Extension>,
    newest: &Holding,
    number: u64,
) {
    let Extension::Extended(grant) = &late.value else {
        broken!(
            case,
            "the extend {number} of the present holder came after a newer one and was answered `Lost`"
        )
    };
    let ttl = newest.lease.grant().ttl;
    let end = newest.received.saturating_add(ttl);
    let most = late.sent.until(end) + case.traits.granularity + drift(ttl);
    let least = late
        .received
        .until(newest.barred_until())
        .saturating_sub(case.traits.granularity);
    check!(
        case,
        grant.ttl <= most && grant.ttl >= least,
        "the extend {number} came after a newer one and was answered with {:?}, but the true remaining time was {least:?} to {most:?}",
        grant.ttl
    );
}
