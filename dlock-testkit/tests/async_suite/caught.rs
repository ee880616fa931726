//! Each broken behaviour, the case that catches it, and its message.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dlock_testkit::{ASYNC_LAWS, LAWS, Subject, Verdict, laws};

use super::broken_locks::{Broken, Flaw};
use super::broken_stores::{BrokenStore, Fault};
use super::pauses;
use super::suspending::Suspending;

/// A store that keeps its promises, with locks that do not.
fn locks(flaw: Flaw) -> Subject {
    let store = std::sync::Arc::new(match flaw {
        // Elsewhere a call under way ends by itself.
        Flaw::ForgetsDroppedReleases => Suspending::polled_by_caller(),
        _ => Suspending::default(),
    });
    Subject::of_async(move || std::sync::Arc::clone(&store)).__calling(Broken::new(flaw))
}

/// A broken store, with locks that keep their promises.
fn store(fault: Fault) -> Subject {
    let store = std::sync::Arc::new(BrokenStore::new(fault));
    Subject::of_async(move || std::sync::Arc::clone(&store))
}

/// How often a case may be run again if the machine paused during it.
const TRIES: u32 = 6;

/// Runs the case and checks how it fails. As for the saboteurs of the blocking suite, it is run
/// again if this process paused meanwhile.
fn assert_caught(case: impl Fn() -> Verdict, says: &str) {
    for _ in 0..TRIES {
        let (caught, paused) = pauses::during(|| is_caught(&case, says));
        match caught {
            Ok(()) => return,
            Err(text) if !paused => panic!("{text}"),
            Err(text) => eprintln!("the machine paused: {text}"),
        }
    }
    panic!("the machine paused during each of {TRIES} tries");
}

fn is_caught(case: impl Fn() -> Verdict, says: &str) -> Result<(), String> {
    let message = match catch_unwind(AssertUnwindSafe(case)) {
        Ok(verdict) => return Err(format!("it was not caught: the case came to {verdict:?}")),
        Err(panic) => *panic.downcast::<String>().expect("a message"),
    };
    match message.contains(says) {
        true => Ok(()),
        false => Err(format!("it was caught with `{message}`, not `{says}`")),
    }
}

macro_rules! caught {
    ($($name:ident = $form:ident($what:expr), $module:ident::$case:ident, $says:literal;)+) => {
        $(
            #[test]
            fn $name() {
                let case = || laws::$module::$case(&$form($what));
                assert_caught(case, $says);
            }
        )+

        #[test]
        fn every_case_of_the_async_form_catches_a_broken_behaviour() {
            let catching: &[fn(&Subject) -> dlock_testkit::Verdict] = &[$(laws::$module::$case),+];
            for promise in ASYNC_LAWS {
                let is_there = catching.iter().any(|case| std::ptr::fn_addr_eq(*case, promise.check));
                assert!(is_there, "{} catches nothing", promise.name);
            }
        }
    };
}

caught! {
    a_dropped_acquire_is_forgotten = locks(Flaw::ForgetsDroppedAcquires), dropped_acquire::an_acquire_leaves_nothing,
        "lock (dropped): the only acquire of a lock was dropped";
    a_dropped_waiter_is_forgotten = locks(Flaw::ForgetsDroppedAcquires), dropped_acquire::a_waiter_leaves_its_place,
        "lock (dropped): ";
    a_dropped_acquire_keeps_its_grant = locks(Flaw::KeepsTheGrantOfDroppedAcquires), dropped_acquire::an_acquire_leaves_nothing,
        "lock (dropped): the only acquire of a lock was dropped";
    a_release_needs_to_be_polled = locks(Flaw::ReleasesOnlyWhenPolled), dropped_release::a_release_is_carried_out,
        "lock (dropped): the release of a lock was dropped";
    a_release_ends_half_way = locks(Flaw::ForgetsDroppedReleases), dropped_release::a_release_is_carried_out,
        "lock (dropped): the release of a lock was dropped";
    a_dropped_guard_is_forgotten = locks(Flaw::ForgetsDroppedGuards), dropped_release::a_guard_is_released,
        "lock (dropped): the guard of a lock was dropped outside of a runtime";
    a_guard_needs_a_runtime = locks(Flaw::ForgetsGuardsDroppedInTasks), dropped_release::a_guard_is_released,
        "lock (dropped): the guard of a lock was dropped in a task";
    a_guard_is_forgotten_at_the_shutdown = locks(Flaw::ForgetsDroppedGuards), async_runtime::a_runtime_that_shuts_down_leaves_nothing,
        "lock (async): the runtime ended";
    a_locked_job_goes_on = locks(Flaw::DetachesLockedJobs), dropped_release::a_locked_job_is_ended,
        "lock (dropped): `locked` was dropped";
    once_marks_what_had_not_ended = locks(Flaw::MarksDroppedJobs), dropped_once::frees_a_job_that_has_not_ended,
        "and the next try came to `already done`, not to `ran`";
    once_keeps_the_job_that_was_dropped = locks(Flaw::ForgetsDroppedJobs), dropped_once::frees_a_job_that_has_not_ended,
        "not to `ran`";
    once_leaves_a_job_unmarked = locks(Flaw::LeavesDroppedJobsUnmarked), dropped_once::marks_a_job_that_has_ended,
        "not to `already done`";
    a_loss_is_not_reported = locks(Flaw::NeverReportsALoss), async_loss::lost_ends_at_the_loss,
        "was lost, but the task that awaits `lost` had not ended";
    a_loss_is_reported_too_soon = locks(Flaw::ReportsALossAtOnce), async_loss::lost_ends_at_the_loss,
        "lock (async): `lost` ended for a valid lease";
    a_loss_is_reported_to_one = locks(Flaw::ReportsALossToTheFirst), async_loss::lost_ends_at_the_loss,
        "was lost, but the task that awaits `lost` had not ended";
    a_job_goes_on_after_the_loss = locks(Flaw::GoesOnAfterTheLoss), async_loss::locked_or_cancel_ends_the_job,
        "was lost, but `locked_or_cancel` had not ended";
    a_job_is_detached_at_the_loss = locks(Flaw::DetachesCancelledJobs), async_loss::locked_or_cancel_ends_the_job,
        "a lease was lost, but the future of its job was not dropped";
    a_job_is_cancelled_without_a_loss = locks(Flaw::CancelsAtOnce), async_loss::locked_or_cancel_ends_the_job,
        "and `locked_or_cancel` came to Ok(None)";
    a_wait_ignores_its_cancel = locks(Flaw::IgnoresCancels), waiting::a_cancelled_wait_ends_and_leaves_nothing,
        "lock (waiting): a cancelled wait ended with";
    an_acquire_is_not_exclusive = locks(Flaw::AcquiresAnotherLock), async_runtime::both_forms_exclude_each_other,
        "lock (async): a lock of the other form was held";
    renewals_need_the_executor = store(Fault::ExtendsOnTheRuntimeOfTheAcquire), async_runtime::a_blocked_executor_loses_no_lease_unnoticed,
        "not shown: 20 times it was too late to see a lease that was renewed in time";
    the_next_call_gets_the_answer = store(Fault::MixesUpAnswers), dropped_calls::mix_up_no_answers,
        "lock (dropped): ";
    a_dropped_watch_stays = store(Fault::KeepsDroppedWatches), dropped_calls::mix_up_no_answers,
        "all who waited or claimed had been dropped, but a claim was refused";
    a_dropped_extend_frees_the_key = store(Fault::FreesTheKeyOfADroppedExtend), dropped_calls::extends_lose_no_lease,
        "lock (dropped): the holder's extend was dropped";
    a_dropped_extend_is_half_done = store(Fault::ShortensTheLeaseOfADroppedExtend), dropped_calls::extends_lose_no_lease,
        "lock (dropped): the holder's extend was dropped";
}

/// The control: the same store with the real locks.
#[test]
fn a_store_that_its_callers_poll_keeps_what_is_promised_for_dropped_futures() {
    for promise in ASYNC_LAWS {
        let store = std::sync::Arc::new(Suspending::polled_by_caller());
        let subject = Subject::of_async(move || std::sync::Arc::clone(&store));
        assert_eq!((promise.check)(&subject), Verdict::Kept, "{}", promise.name);
    }
}

#[test]
fn the_two_tables_name_no_case_twice() {
    let names: Vec<_> = LAWS.iter().chain(ASYNC_LAWS).map(|law| law.name).collect();
    for (number, name) in names.iter().enumerate() {
        assert!(!names[..number].contains(name), "{name} is there twice");
    }
}
