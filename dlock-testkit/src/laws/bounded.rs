//! Law 9: every call ends by its deadline, with an answer or a typed error.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Datastore, DatastoreError, Extension, Lease, ReleaseOutcome, Signal, Time,
};

use crate::case::{Case, Law, broken, check, now};
use crate::client::described;
use crate::form::Handle;
use crate::threads::{together, within};
use crate::{Subject, Verdict};

/// How late a call may return on an overloaded machine.
const LATE: Duration = Duration::from_secs(2);
/// After this time a call counts as hanging.
const HANGS: Duration = Duration::from_secs(10);
/// How many times in a row a call must be late to count as the store's fault and not the machine's.
const TRIES: u32 = 3;

/// The kind of a call's answer, without its content.
type Outcome = Result<&'static str, DatastoreError>;
type Call = Box<dyn Fn(&dyn Datastore, Time) -> Outcome + Send + Sync>;

/// Each kind of call, on a free key and on a held one.
fn calls(case: &Case<'_>) -> Vec<(&'static str, Call)> {
    let free = case.client(&case.key());
    let holder = case.client(&case.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let stranger = case.client(holder.key());
    let long = case.long();
    let (free, refused) = (free.claim(), stranger.claim());
    let waiting = refused.clone();
    let abandoned = free.clone();
    let watched = refused.clone();
    let (extended, batched, released) = (lease.clone(), lease.clone(), lease.clone());
    let confirmed = lease;
    vec![
        (
            "an acquire of a held key",
            Box::new(move |store, end| {
                attempted(store.acquire(&refused.clone().with_not_after(end), long))
            }),
        ),
        (
            "an acquire by a claimant who would wait for a minute",
            Box::new(move |store, end| {
                let until = now().saturating_add(Duration::from_secs(60));
                let claim = waiting.clone().with_not_after(end).with_deadline(until);
                attempted(store.acquire(&claim, long))
            }),
        ),
        (
            "a watch",
            Box::new(move |store, end| {
                let watch = store.watch(&watched.clone().with_not_after(end), &Signal::new())?;
                Ok(if watch.is_some() { "Some" } else { "None" })
            }),
        ),
        (
            "an acquire of a free key",
            Box::new(move |store, end| {
                attempted(store.acquire(&free.clone().with_not_after(end), long))
            }),
        ),
        (
            "an abandon",
            Box::new(move |store, end| {
                store
                    .abandon(&abandoned.clone().with_not_after(end))
                    .map(|()| "()")
            }),
        ),
        (
            "an extend",
            Box::new(move |store, end| extended_to(store.extend(&extended.for_call(1, end), long))),
        ),
        (
            "an extend of many",
            Box::new(move |store, end| {
                let call = (batched.for_call(2, end), long);
                let many = vec![call.clone(), call];
                store
                    .extend_many(&many)
                    .into_iter()
                    .map(extended_to)
                    .collect::<Result<Vec<_>, _>>()
                    .map(|_| "a batch")
            }),
        ),
        (
            "a confirm",
            Box::new(move |store, end| extended_to(store.confirm(&confirmed.for_call(3, end)))),
        ),
        (
            "a release",
            Box::new(move |store, end| {
                store
                    .release(&released.for_call(4, end))
                    .map(|answer| match answer {
                        ReleaseOutcome::Released => "Ours",
                        ReleaseOutcome::NotHeld => "NotOurs",
                    })
            }),
        ),
    ]
}

fn attempted(answer: Result<AcquireOutcome, DatastoreError>) -> Outcome {
    answer.map(|answer| match answer {
        AcquireOutcome::Granted(_) => "Granted",
        AcquireOutcome::Held(_) => "Held",
    })
}

fn extended_to(answer: Result<Extension, DatastoreError>) -> Outcome {
    answer.map(|answer| match answer {
        Extension::Extended(_) => "Extended",
        Extension::Lost => "Lost",
    })
}

/// Makes the call with a `not_after` of `allowed` from now, and checks that it returns by then.
fn ends_in_time(case: &Case<'_>, store: &Handle, what: &str, call: &Arc<Call>, allowed: Duration) {
    for last in [false, false, true] {
        let (store, call) = (store.clone(), Arc::clone(call));
        let started = now();
        let end = started.saturating_add(allowed);
        let Some(ended) = within(HANGS, move || call(&*store, end)) else {
            broken!(
                case,
                "{what} with {allowed:?} left had not returned after {HANGS:?}"
            )
        };
        let took = started.until(now());
        match ended {
            Err(panic) => {
                check!(
                    case,
                    panic
                        .downcast_ref::<String>()
                        .is_some_and(|text| text.starts_with("law ")),
                    "{what} with {allowed:?} left panicked instead of returning an error"
                );
                resume_unwind(panic)
            }
            Ok(Err(error)) => check!(
                case,
                error.is_transient(),
                "{what} with {allowed:?} left failed with an error that is not transient: {}",
                described(&error)
            ),
            Ok(Ok(_)) => {}
        }
        if took <= allowed + LATE {
            return;
        }
        check!(
            case,
            !last,
            "{what} with {allowed:?} left took {took:?}, {TRIES} times in a row"
        );
    }
}

/// Makes the call with a minute left while the writer is busy. It must end by the store's own
/// limit.
fn keeps_the_stores_limit(case: &Case<'_>, subject: &Subject, what: &str, call: Arc<Call>) {
    let (store, limit) = (subject.first(), case.traits.call_timeout);
    let started = now();
    let end = started.saturating_add(limit + HANGS * 2);
    let ended = within(limit + HANGS, move || call(&*store, end));
    check!(
        case,
        ended.is_some(),
        "{what}, while the store's writer was busy, had not returned after {:?}, though the store declares that a call takes at most \
         {limit:?}",
        limit + HANGS
    );
}

/// Each call returns by its `not_after`, however little time is left, even none.
pub fn every_call_ends_by_its_deadline(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Bounded);
    for allowed in [
        Duration::from_millis(200),
        Duration::from_millis(5),
        Duration::ZERO,
    ] {
        for (what, call) in calls(&case) {
            ends_in_time(&case, &subject.first(), what, &Arc::new(call), allowed);
        }
    }
    Verdict::Kept
}

/// A call with a minute left takes no longer than the store's own limit for a call.
pub fn every_call_ends_by_the_stores_own_limit(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Bounded);
    let limit = case.traits.call_timeout;
    for (what, call) in calls(&case) {
        for last in [false, false, true] {
            let started = now();
            let outcome = call(
                &*subject.first(),
                started.saturating_add(Duration::from_secs(60)),
            );
            let took = started.until(now());
            if let Err(error) = outcome {
                check!(
                    case,
                    error.is_transient(),
                    "{what} failed: {}",
                    described(&error)
                );
            }
            if took <= limit + LATE {
                break;
            }
            check!(
                case,
                !last,
                "{what} took {took:?}, {TRIES} times in a row, though the store declares that a call takes at most {limit:?}"
            );
        }
    }
    Verdict::Kept
}

/// Many calls at once also end in time.
pub fn many_calls_at_once_end_in_time(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Bounded);
    let key = case.key();
    let holder = case.client(&key);
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let limit = case.traits.call_timeout;
    let slowest = || {
        let times = together(32, |_| {
            let stranger = case.client(&key);
            let started = now();
            if let Err(error) = stranger.try_once(case.long()).value {
                check!(
                    case,
                    error.is_transient(),
                    "a claim failed: {}",
                    described(&error)
                );
            }
            started.until(now())
        });
        times.into_iter().max().unwrap_or_default()
    };
    let mut tries = 0;
    loop {
        let took = slowest();
        tries += 1;
        if took <= limit + LATE {
            break;
        }
        check!(
            case,
            tries < TRIES,
            "of 32 claimants at once one waited {took:?} for an answer, though a call takes at most {limit:?}"
        );
    }
    holder.frees(&lease, "only refused claims came");
    Verdict::Kept
}

/// While the store's writer is busy, each call still ends by its deadline, with an error that says
/// so.
pub fn a_busy_writer_does_not_delay_calls_beyond_their_deadline(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Bounded);
    let all = calls(&case);
    let allowed = Duration::from_millis(300);
    let Some(busy) = subject.hold_writer() else {
        check!(
            case,
            !case.traits.single_writer,
            "not shown: the store declares a single writer, but the subject does not say how to keep it busy: add \
             `.writer_held_by(|place| …)`"
        );
        // Without a single writer, calls do not queue behind each other.
        let Verdict::Kept = many_calls_at_once_end_in_time(subject) else {
            broken!(case, "not shown: the case of many calls did not apply")
        };
        return Verdict::NotApplicable("the store has no single writer that could be busy");
    };
    let all: Vec<_> = all
        .into_iter()
        .map(|(what, call)| (what, Arc::new(call)))
        .collect();
    for (what, call) in &all {
        let what = format!("{what}, while the store's writer was busy,");
        ends_in_time(&case, &subject.first(), &what, call, allowed);
    }
    if let Some((what, call)) = all.into_iter().next() {
        keeps_the_stores_limit(&case, subject, what, call);
    }
    // A claim for a fresh key cannot be granted while the writer is busy.
    let client = case.client(&case.key());
    let answer = client.store().acquire(
        &client.claim().with_not_after(now().saturating_add(allowed)),
        case.long(),
    );
    if let Ok(AcquireOutcome::Granted(grant)) = answer {
        drop(busy);
        // The store wrote in another way, or the subject does not keep the writer busy. Either way
        // the case proves nothing.
        let lease = Lease::new(client.claim(), grant);
        client.frees(&lease, "the claim had just been granted");
        broken!(
            case,
            "not shown: a claim was granted while `writer_held_by` was to keep the store's writer busy"
        );
    }
    drop(busy);
    Verdict::Kept
}
