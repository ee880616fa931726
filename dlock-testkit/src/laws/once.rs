//! Jobs that run once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

use dlock_core::{AcquireError, OnceOutcome, Wait};

use super::process::is_shared;
use crate::case::{Case, Law, Sample, broken, check, now};
use crate::child_process::ChildProcess;
use crate::client::PATIENCE;
use crate::form::{Guarded, Lock, Store};
use crate::recorder::ExtendRecorder;
use crate::{Subject, Verdict};

/// Tries to run a job, and tries again after transient errors.
pub(super) fn tried(
    lock: &Lock,
    wait: &Wait,
    keep: Duration,
    mut job: impl FnMut(&dyn Guarded) -> Result<(), &'static str>,
) -> String {
    let give_up = now().saturating_add(PATIENCE);
    loop {
        return match lock.once_with(wait, "job", keep, &mut job) {
            Ok(Ok(OnceOutcome::Ran(()))) => "ran".to_owned(),
            Ok(Ok(OnceOutcome::RanUnmarked(()))) => "ran unmarked".to_owned(),
            Ok(Ok(OnceOutcome::AlreadyDone { .. })) => "already done".to_owned(),
            Ok(Err(reason)) => format!("failed {reason}"),
            Err(AcquireError::Held(_)) => "held".to_owned(),
            // The job was not started.
            Err(AcquireError::Datastore(error)) if error.is_transient() && now() < give_up => {
                continue;
            }
            Err(error) => format!("error {error:?}"),
        };
    }
}

pub(super) fn well(_: &dyn Guarded) -> Result<(), &'static str> {
    Ok(())
}

pub(super) fn expect(case: &Case<'_>, outcome: &str, expected: &str, since: &str) {
    check!(
        case,
        outcome == expected,
        "{since}, and the next try came to `{outcome}`, not to `{expected}`"
    );
}

/// A job that was done does not run again while its mark is kept, and runs again afterwards.
pub fn a_job_runs_once(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Once);
    let (here, there) = (Store::new(subject.first()), Store::new(subject.another()));
    let lock = case.lock(&here, "done", |options| options);
    let elsewhere = case.lock(&there, "done", |options| options);
    let before = SystemTime::now() - Duration::from_secs(1);
    expect(
        &case,
        &tried(&lock, &Wait::none(), case.long(), well),
        "ran",
        "the job was new",
    );
    let since = "the job was done and its mark is kept for half an hour";
    for lock in [&lock, &elsewhere] {
        expect(
            &case,
            &tried(lock, &Wait::none(), case.long(), well),
            "already done",
            since,
        );
    }
    match lock.once("job", case.long(), |_| Ok::<(), ()>(())) {
        Ok(Ok(OnceOutcome::AlreadyDone { since, .. })) => check!(
            case,
            since >= before && since <= SystemTime::now() + Duration::from_secs(1),
            "the job was done just now, the mark says at {since:?}"
        ),
        other => broken!(case, "{since}, and the next try came to {other:?}"),
    }
    // Another job of the same lock, and the lock itself, are free.
    let other = lock.once("another job", case.long(), |_| Ok::<(), ()>(()));
    check!(
        case,
        matches!(other, Ok(Ok(OnceOutcome::Ran(())))),
        "another job was new, and came to {other:?}"
    );
    drop(case.acquired(&lock, "the job was done"));
    // A mark that is kept for a short time.
    let brief = case.lock(&here, "briefly", |options| options);
    let keep = case.short();
    expect(
        &case,
        &tried(&brief, &Wait::none(), keep, well),
        "ran",
        "the job was new",
    );
    case.sleep_until(now().saturating_add(keep + case.tail(keep)));
    expect(
        &case,
        &tried(&brief, &Wait::none(), keep, well),
        "ran",
        "the job's mark was over",
    );
    Verdict::Kept
}

/// A job that failed or panicked runs again at once.
pub fn a_failed_job_runs_again(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Once);
    let store = Store::new(subject.first());
    let lock = case.lock(&store, "failed", |options| options);
    let outcome = tried(&lock, &Wait::none(), case.long(), |_| Err("by itself"));
    expect(
        &case,
        &outcome,
        "failed by itself",
        "the job returned an error",
    );
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        // `resume_unwind` prints no message: this panic is intended.
        tried(&lock, &Wait::none(), case.long(), |_| {
            std::panic::resume_unwind(Box::new("meant"))
        })
    }));
    check!(
        case,
        panicked.is_err(),
        "the job panicked, and `once` returned {panicked:?}"
    );
    expect(
        &case,
        &tried(&lock, &Wait::none(), case.long(), well),
        "ran",
        "the job had failed and panicked",
    );
    expect(
        &case,
        &tried(&lock, &Wait::none(), case.long(), well),
        "already done",
        "the job was done",
    );
    Verdict::Kept
}

/// A time that the store cannot keep is refused before the job starts.
pub fn an_impossible_keep_is_refused_before_the_job(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Once);
    let store = Store::new(subject.first());
    let lock = case.lock(&store, "impossible", |options| options);
    for keep in [
        Duration::ZERO,
        case.traits.ttl_max + Duration::from_secs(1),
        Duration::MAX,
    ] {
        let mut started = false;
        let outcome = lock.once("job", keep, |_| {
            started = true;
            Ok::<(), ()>(())
        });
        check!(
            case,
            matches!(outcome, Err(AcquireError::Invalid(_))) && !started,
            "a mark that is to be kept for {keep:?} came to {outcome:?}, and the job was started: {started}"
        );
    }
    drop(case.acquired(&lock, "the job was refused"));
    Verdict::Kept
}

/// A job whose lease was lost while it ran is still marked as done.
pub fn a_lost_lease_still_marks_the_job(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Once);
    let store = Store::new(subject.first());
    let ttl = case.short();
    let lock = case.lock(&store, "outlived", |options| options.ttl(ttl).renew(false));
    let outcome = tried(&lock, &Wait::none(), case.long(), |guard| {
        case.sleep_until(now().saturating_add(ttl + case.tail(ttl)));
        check!(
            case,
            !guard.is_valid(),
            "a lease of {ttl:?} that nobody renews is valid after its end"
        );
        Ok(())
    });
    expect(
        &case,
        &outcome,
        "ran",
        "the job was new and outlived its lease",
    );
    let outcome = tried(&lock, &Wait::none(), case.long(), well);
    expect(
        &case,
        &outcome,
        "already done",
        "the job outlived its lease and was done",
    );
    Verdict::Kept
}

/// A renewal that arrives after the job was marked as done changes nothing.
pub fn a_late_renewal_does_not_undo_the_mark(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Once);
    let (recorder, renewals) = ExtendRecorder::over(subject.first());
    let store = Store::new(recorder);
    let ttl = case.short() * 2;
    let mut number = 0;
    case.sampled(
        "a job that was renewed and done before its lease ended",
        || {
            number += 1;
            let id = format!("late-{number}");
            let lock = case.lock(&store, &id, |options| options.ttl(ttl));
            let (before, mut held) = (renewals.count(), true);
            let outcome = tried(&lock, &Wait::none(), case.long(), |guard| {
                // The extends of the lock and of the mark.
                let give_up = now().saturating_add(ttl * 2);
                while renewals.count() < before + 2 && now() < give_up {
                    std::thread::sleep(ttl / 50);
                }
                held = guard.is_valid();
                Ok(())
            });
            let mut renewals = renewals.after(before);
            // Without the extend that set the mark.
            renewals.retain(|(_, time)| *time < case.long());
            if !held || renewals.len() < 2 {
                return Sample::TooSlow;
            }
            expect(&case, &outcome, "ran", "the job was new");
            case.repeat_too_late(&renewals);
            case.sleep_until(now().saturating_add(ttl + case.tail(ttl)));
            let outcome = tried(&lock, &Wait::none(), case.long(), well);
            let since = "the job was done, and older renewals came after";
            expect(&case, &outcome, "already done", since);
            Sample::Judged
        },
    );
    Verdict::Kept
}

/// Another process is refused while the job runs, and does not run it afterwards.
pub fn another_process_sees_what_runs_and_what_is_done(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Once);
    if let Err(verdict) = is_shared(&case) {
        return verdict;
    }
    let mut other = ChildProcess::start(&case);
    let order = format!("once shared {} job well", case.long().as_millis());
    let store = Store::new(subject.first());
    let lock = case.lock(&store, "shared", |options| options);
    let outcome = tried(&lock, &Wait::none(), case.long(), |_| {
        let answer = other.ask(&order);
        check!(
            case,
            answer.starts_with("held"),
            "the job runs, but another process's try came to `{answer}`"
        );
        Ok(())
    });
    expect(&case, &outcome, "ran", "the job was new");
    expect(
        &case,
        &other.ask(&order),
        "already done",
        "the job was done by another process",
    );
    Verdict::Kept
}

/// A job whose process crashed before the mark was set runs again when its lease has ended.
pub fn a_crashed_job_runs_again(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Once);
    if let Err(verdict) = is_shared(&case) {
        return verdict;
    }
    let ttl = case.short() * 3;
    let mut number = 0;
    case.sampled(
        "a crash and a try before the crashed process's lease ended",
        || {
            number += 1;
            let id = format!("crashed-{number}");
            let mut other = ChildProcess::start(&case);
            let sent = now();
            other.send(&format!("once {id} {} job crash", ttl.as_millis()));
            other.ends();
            let store = Store::new(subject.first());
            let lock = case.lock(&store, &id, |options| options.ttl(ttl));
            let first = tried(&lock, &Wait::none(), case.long(), well);
            if now() > sent.saturating_add(ttl - dlock_core::drift(ttl)) {
                return Sample::TooSlow;
            }
            expect(
                &case,
                &first,
                "held",
                "a process crashed in the job a moment ago",
            );
            let wait = Wait::within(Duration::from_secs(60));
            let outcome = tried(&lock, &wait, case.long(), well);
            expect(
                &case,
                &outcome,
                "ran",
                "a process crashed in the job and its lease ended",
            );
            let outcome = tried(&lock, &wait, case.long(), well);
            expect(
                &case,
                &outcome,
                "already done",
                "the job was run again after a crash",
            );
            Sample::Judged
        },
    );
    Verdict::Kept
}
