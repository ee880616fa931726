//! Laws 9 and 10 for calls that come late or nearly late: their answers say truthfully what was
//! done.

use std::thread;
use std::time::Duration;

use dlock_core::AcquireOutcome;

use crate::case::{Case, Law, broken, check, now};
use crate::client::described;
use crate::{Subject, Verdict};

/// How late the calls are.
const LATE_BY: Duration = Duration::from_millis(100);
/// How long a key is checked after a claim that was reported as not done: a store might take it
/// later, in the background.
const AFTERWARDS: Duration = Duration::from_millis(120);

/// A release that reaches the store after its end frees nothing, where late calls are refused.
pub fn a_late_release_frees_nothing(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Clean);
    let holder = case.client(&case.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let late = lease.for_call(1, now().saturating_sub(LATE_BY));
    let answer = holder.store().release(&late);
    if !case.traits.refuses_late_calls {
        drop(answer);
        return Verdict::NotApplicable("the store does not declare that it refuses late calls");
    }
    let since = "a release came after its end";
    if let Err(error) = answer {
        check!(
            case,
            !error.may_have_executed() || error.is_transient(),
            "{since} and failed: {}",
            described(&error)
        );
    }
    case.client(holder.key()).refused(case.long(), since);
    holder.frees(&lease, since);
    Verdict::Kept
}

/// A batch that reaches the store after the end of its calls changes nothing, where late calls are
/// refused.
pub fn a_late_batch_changes_nothing(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Clean);
    let holders = [case.client(&case.key()), case.client(&case.key())];
    let leases = holders
        .each_ref()
        .map(|holder| holder.take(case.long(), "nobody had claimed the key").lease);
    let end = now().saturating_sub(LATE_BY);
    let late: Vec<_> = leases
        .iter()
        .map(|lease| (lease.for_call(1, end), case.short()))
        .collect();
    drop(subject.first().extend_many(&late));
    if !case.traits.refuses_late_calls {
        return Verdict::NotApplicable("the store does not declare that it refuses late calls");
    }
    let ttl = case.short();
    case.sleep_until(now().saturating_add(ttl + case.tail(ttl)));
    for (holder, lease) in holders.iter().zip(&leases) {
        let since = "a batch that would have shortened the lease came after its end";
        case.client(holder.key()).refused(case.long(), since);
        holder.frees(lease, since);
    }
    Verdict::Kept
}

/// A claim that failed with "nothing was done" did nothing, and does nothing later, however little
/// time it had left.
pub fn a_claim_reported_as_not_done_was_not_done(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Clean);
    let lefts = [0, 1, 2, 3, 5, 8, 12, 16, 20, 25, 29, 40];
    let mut denied = Vec::new();
    for left in lefts.into_iter().cycle().take(lefts.len() * 3) {
        let client = case.client(&case.key());
        let left = Duration::from_millis(left);
        let end = now().saturating_add(left);
        let answer = client
            .store()
            .acquire(&client.claim().with_not_after(end), case.long());
        let received = now();
        match answer {
            Err(error) if !error.may_have_executed() => {
                check!(
                    case,
                    error.is_transient(),
                    "a claim with {left:?} left failed with an error that is not transient: {}",
                    described(&error)
                );
                denied.push((case.client(client.key()), left, received));
            }
            // It may or may not have been done, so there is nothing to check.
            Err(_) => {}
            Ok(AcquireOutcome::Granted(_)) => check!(
                case,
                !case.traits.refuses_late_calls || !left.is_zero(),
                "a claim with no time left was granted, though the store declares that it refuses \
                 late calls"
            ),
            Ok(AcquireOutcome::Held(held)) => broken!(case, "a free key was {held}"),
        }
    }
    // Check half of the keys at once, and the other half later.
    let (at_once, later): (Vec<_>, Vec<_>) = denied
        .into_iter()
        .enumerate()
        .partition(|(number, _)| number % 2 == 0);
    for (_, (other, left, _)) in at_once {
        let since = format!("a claim with {left:?} left failed and said that nothing was done");
        other.take(case.long(), &since);
    }
    thread::sleep(AFTERWARDS + case.latency() * 2);
    for (_, (other, left, received)) in later {
        let since = format!(
            "a claim with {left:?} left failed and said that nothing was done, {:?} ago",
            received.until(now())
        );
        other.take(case.long(), &since);
    }
    Verdict::Kept
}

/// A claim whose end has just passed is not granted, where late calls are refused.
pub fn a_claim_just_after_its_end_is_not_granted(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Bounded);
    for late_by in [1, 2, 3, 4, 6, 8] {
        let client = case.client(&case.key());
        let late_by = Duration::from_millis(late_by);
        let end = now().saturating_sub(late_by);
        let answer = client
            .store()
            .acquire(&client.claim().with_not_after(end), case.short());
        if let (Ok(AcquireOutcome::Granted(_)), true) = (answer, case.traits.refuses_late_calls) {
            broken!(
                case,
                "a claim was granted {late_by:?} after its end, though the store declares that it \
                 refuses late calls"
            );
        }
    }
    if case.traits.refuses_late_calls {
        Verdict::Kept
    } else {
        Verdict::NotApplicable("the store does not declare that it refuses late calls")
    }
}
