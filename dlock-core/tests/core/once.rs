//! The promises of run-once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

use crate::support::{Fault, Flaky};
use dlock_core::{
    AcquireError, FakeClock, Inspect as _, Lock, LockOptions, MemoryDatastore, OnceOutcome,
    ReleaseOutcome, Store, Wait,
};

const DAY: Duration = Duration::from_secs(86_400);
const MARK: &str = "dlock:import%once:19";

fn ok() -> Result<u32, &'static str> {
    Ok(42)
}

#[test]
fn a_job_that_succeeded_is_not_run_again_by_anybody() {
    let store = Flaky::new();
    let before = SystemTime::now() - Duration::from_secs(1);
    assert_eq!(
        Lock::new(store.clone(), "import")
            .once("19", DAY, |_| ok())
            .unwrap(),
        Ok(OnceOutcome::Ran(42))
    );
    let again = Lock::new(store.clone(), "import")
        .once("19", DAY, |_| -> Result<u32, ()> { panic!("it ran twice") });
    let Ok(OnceOutcome::AlreadyDone { since }) = again.unwrap() else {
        panic!("not done?")
    };
    assert!(since >= before && since <= SystemTime::now());
    assert!(store.is_free("dlock:import"), "the lock itself is free");
    assert_eq!(
        Lock::new(store, "import")
            .once("20", DAY, |_| ok())
            .unwrap(),
        Ok(OnceOutcome::Ran(42)),
        "another job"
    );
}

#[test]
fn a_job_counts_as_done_for_as_long_as_keep_says() {
    let fake = FakeClock::new();
    let store = Store::new(MemoryDatastore::with_clock(fake.clock()));
    let lock = Lock::new(&store, "import");
    assert_eq!(
        lock.once("19", DAY, |_| ok()).unwrap(),
        Ok(OnceOutcome::Ran(42))
    );
    fake.advance(DAY - Duration::from_secs(1));
    assert!(matches!(
        lock.once("19", DAY, |_| ok()).unwrap(),
        Ok(OnceOutcome::AlreadyDone { .. })
    ));
    fake.advance(Duration::from_secs(1));
    assert_eq!(
        lock.once("19", DAY, |_| ok()).unwrap(),
        Ok(OnceOutcome::Ran(42))
    );
}

#[test]
fn a_job_that_failed_or_panicked_is_free_to_be_run_again() {
    let store = Flaky::new();
    let lock = Lock::new(store.clone(), "import");
    assert_eq!(
        lock.once("19", DAY, |_| Err::<(), _>("failed")).unwrap(),
        Err("failed")
    );
    assert!(store.is_free(MARK) && store.is_free("dlock:import"));
    let panic = catch_unwind(AssertUnwindSafe(|| {
        lock.once("19", DAY, |_| -> Result<(), ()> {
            panic!("intended by the test")
        })
    }));
    assert!(panic.is_err() && store.is_free(MARK) && store.is_free("dlock:import"));
    assert_eq!(
        lock.once("19", DAY, |_| ok()).unwrap(),
        Ok(OnceOutcome::Ran(42))
    );
}

#[test]
fn while_it_runs_others_are_refused_and_the_mark_says_running() {
    let store = Flaky::new();
    let lock = Lock::new(store.clone(), "import");
    lock.once("19", DAY, |_| {
        let other = Lock::new(store.clone(), "import").once("19", DAY, |_| ok());
        assert!(other.unwrap_err().is_held());
        assert!(!store.is_free(MARK));
        ok()
    })
    .unwrap()
    .unwrap();
}

#[test]
fn a_waiter_waits_for_the_mark_of_a_crashed_run_and_then_the_job_runs() {
    let store = Flaky::new();
    let short = LockOptions::builder().ttl(Duration::from_secs(6));
    let lock = Lock::with_options(store.clone(), "import", short).unwrap();
    leave_a_crash_for(&store, Duration::from_secs(5));
    let tried = lock.once("19", DAY, |_| ok());
    assert!(
        tried.unwrap_err().is_held(),
        "a caller that does not wait learns that the job runs"
    );
    assert!(store.is_free("dlock:import"), "and holds nothing");
    let wait = Wait::within(Duration::from_secs(20));
    assert_eq!(
        lock.once_with(&wait, "19", DAY, |_| ok()).unwrap(),
        Ok(OnceOutcome::Ran(42))
    );
}

/// A process that dies while it holds the lock leaves the lock and the mark to their leases. Here
/// an operator breaks the lock, and the mark stays.
fn leave_a_crash_for(store: &Flaky, ttl: Duration) {
    let options = LockOptions::builder().ttl(ttl).renew(false);
    let lock = Lock::with_options(store.clone(), "import", options).unwrap();
    let crash: Result<_, AcquireError> = lock.once("19", DAY, |guard| {
        let fence = guard.fencing_token().unwrap();
        assert_eq!(
            store.memory.break_lease("dlock:import", fence).unwrap(),
            ReleaseOutcome::Released
        );
        // The mark cannot be released.
        store.releases.fail_next(&[Fault::Refuse, Fault::Refuse]);
        Err::<(), _>("crash")
    });
    assert_eq!(crash.unwrap(), Err("crash"));
    assert!(!store.is_free(MARK));
}

#[test]
fn if_the_mark_was_lost_while_the_job_ran_it_is_claimed_afresh() {
    let store = Flaky::new();
    let lock = Lock::new(store.clone(), "import");
    let outcome = lock.once("19", DAY, |_| {
        let fence = store.memory.holder(MARK).unwrap().unwrap().fence().unwrap();
        assert_eq!(
            store.memory.break_lease(MARK, fence).unwrap(),
            ReleaseOutcome::Released
        );
        ok()
    });
    assert_eq!(outcome.unwrap(), Ok(OnceOutcome::Ran(42)));
    assert!(matches!(
        lock.once("19", DAY, |_| ok()).unwrap(),
        Ok(OnceOutcome::AlreadyDone { .. })
    ));
}

#[test]
fn a_job_that_ran_but_could_not_be_marked_is_reported_as_unmarked() {
    let store = Flaky::new();
    let lock = Lock::new(store.clone(), "import");
    let outcome = lock.once("19", DAY, |_| {
        store.extends.fail_always(Some(Fault::Refuse));
        store.acquires.fail_always(Some(Fault::Refuse));
        ok()
    });
    assert_eq!(outcome.unwrap(), Ok(OnceOutcome::RanUnmarked(42)));
}

#[test]
fn a_mark_whose_reply_was_lost_is_set_once_more_with_the_same_result() {
    let store = Flaky::new();
    let lock = Lock::new(store.clone(), "import");
    let outcome = lock.once("19", DAY, |_| {
        store.extends.fail_next(&[Fault::LoseReply]);
        ok()
    });
    assert_eq!(outcome.unwrap(), Ok(OnceOutcome::Ran(42)));
    assert!(matches!(
        lock.once("19", DAY, |_| ok()).unwrap(),
        Ok(OnceOutcome::AlreadyDone { .. })
    ));
}

#[test]
fn a_late_copy_of_the_marks_claim_does_not_turn_done_into_running() {
    let store = Flaky::new();
    let lock = Lock::new(store.clone(), "import");
    // The first claim is the lock's, the second the mark's.
    store.acquires.fail_next(&[Fault::Pass, Fault::ArriveLate]);
    assert_eq!(
        lock.once("19", DAY, |_| ok()).unwrap(),
        Ok(OnceOutcome::Ran(42))
    );
    std::thread::sleep(crate::support::LATE * 2);
    assert!(matches!(
        lock.once("19", DAY, |_| ok()).unwrap(),
        Ok(OnceOutcome::AlreadyDone { .. })
    ));
}

#[test]
fn a_job_that_was_done_before_does_not_hold_the_lock_for_its_min_hold() {
    let store = Flaky::new();
    let options = LockOptions::builder().min_hold(Duration::from_millis(50));
    let lock = Lock::with_options(store.clone(), "import", options).unwrap();
    assert_eq!(
        lock.once("19", DAY, |_| ok()).unwrap(),
        Ok(OnceOutcome::Ran(42))
    );
    let wait = Wait::within(Duration::from_secs(20));
    assert!(matches!(
        lock.once_with(&wait, "19", DAY, |_| ok()).unwrap(),
        Ok(OnceOutcome::AlreadyDone { .. })
    ));
    assert!(store.is_free("dlock:import"));
}

#[test]
fn the_mark_of_a_job_that_failed_is_free_whatever_min_hold_says() {
    let store = Flaky::new();
    let options = LockOptions::builder().min_hold(DAY);
    let lock = Lock::with_options(store.clone(), "import", options).unwrap();
    let failed = lock.once("19", DAY, |_| Err::<(), _>("failed"));
    assert_eq!(failed.unwrap(), Err("failed"));
    assert!(store.is_free(MARK) && !store.is_free("dlock:import"));
}

#[test]
fn the_wait_for_the_mark_of_a_crashed_run_has_the_same_deadline_as_the_lock() {
    let fake = FakeClock::jumping();
    let flaky = Flaky::over(MemoryDatastore::with_clock(fake.clock()));
    let store = Store::builder(flaky.layered())
        .clock(fake.clock())
        .unwrap()
        .build();
    leave_a_crash_for(&flaky, Duration::from_secs(30));
    let start = fake.clock().now();
    let wait = Wait::within(flaky.call_timeout);
    let refused = Lock::new(&store, "import").once_with(&wait, "19", DAY, |_| ok());
    assert!(refused.unwrap_err().is_held());
    let waited = start.until(fake.clock().now());
    assert!(waited <= flaky.call_timeout * 2, "{waited:?}");
}

#[test]
fn a_keep_that_the_store_cannot_keep_is_refused_before_the_job_runs() {
    let lock = Lock::new(MemoryDatastore::new(), "import");
    for (job, keep) in [("19", Duration::MAX), ("19", Duration::ZERO), ("", DAY)] {
        let refused = lock.once(job, keep, |_| -> Result<(), ()> { panic!("it ran") });
        assert!(
            matches!(refused, Err(AcquireError::Invalid(_))),
            "{job:?} {keep:?}"
        );
    }
}

#[test]
fn a_mark_that_is_set_counts_although_both_answers_were_lost() {
    let store = Flaky::new();
    let lock = Lock::new(store.clone(), "import");
    let outcome = lock.once("19", DAY, |_| {
        store
            .extends
            .fail_next(&[Fault::LoseReply, Fault::LoseReply]);
        ok()
    });
    assert_eq!(outcome.unwrap(), Ok(OnceOutcome::Ran(42)));
}

#[test]
fn a_waiter_for_a_job_that_was_done_does_not_wait() {
    let lock = Lock::new(Flaky::new(), "import");
    assert_eq!(
        lock.once("19", DAY, |_| ok()).unwrap(),
        Ok(OnceOutcome::Ran(42))
    );
    // The mark stays for a day, so a caller that waited for its end would not return.
    let again = lock.once_with(&Wait::forever(), "19", DAY, |_| ok());
    assert!(matches!(
        again.unwrap(),
        Ok(OnceOutcome::AlreadyDone { .. })
    ));
}

#[test]
fn a_job_does_not_run_if_the_lock_was_lost_during_the_wait_for_its_mark() {
    let store = Flaky::new();
    leave_a_crash_for(&store, Duration::from_secs(6));
    let options = LockOptions::builder()
        .ttl(Duration::from_secs(1))
        .renew(false);
    let lock = Lock::with_options(store.clone(), "import", options).unwrap();
    let wait = Wait::within(Duration::from_secs(20));
    let outcome = lock.once_with(&wait, "19", DAY, |_| -> Result<(), ()> {
        panic!("it ran without the lock")
    });
    assert!(
        matches!(outcome, Err(AcquireError::Datastore(_))),
        "{outcome:?}"
    );
}

#[test]
fn max_hold_does_not_end_the_mark() {
    let store = Flaky::new();
    let ttl = Duration::from_secs(6);
    let options = LockOptions::builder().ttl(ttl).max_hold(ttl);
    let lock = Lock::with_options(store.clone(), "import", options).unwrap();
    let outcome = lock.once("19", DAY, |_| {
        std::thread::sleep(ttl + ttl / 6);
        Ok::<_, ()>(store.is_free(MARK))
    });
    assert_eq!(outcome.unwrap(), Ok(OnceOutcome::Ran(false)));
}

#[test]
fn each_guard_of_once_is_acquired_and_released_for_the_observer_and_a_done_job_is_reported() {
    let events = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&events);
    let observer = move |event: &dlock_core::LockEvent<'_>| {
        use dlock_core::LockEvent;
        let event = match event {
            LockEvent::Acquired { key, .. } => format!("acquired {key}"),
            LockEvent::Released { key, .. } => format!("released {key}"),
            LockEvent::AlreadyDone { key, job, .. } => format!("already done {key} {job}"),
            _ => return,
        };
        seen.lock().unwrap().push(event);
    };
    let store = Store::builder(MemoryDatastore::new())
        .observer(observer)
        .build();
    let lock = Lock::new(&store, "import");
    let _ = lock.once("19", DAY, |_| ok()).unwrap();
    let _ = lock.once("19", DAY, |_| ok()).unwrap();
    let expected = [
        "acquired dlock:import".to_owned(),
        format!("acquired {MARK}"),
        format!("released {MARK}"),
        "released dlock:import".to_owned(),
        "acquired dlock:import".to_owned(),
        "released dlock:import".to_owned(),
        "already done dlock:import 19".to_owned(),
    ];
    assert_eq!(*events.lock().unwrap(), expected);
}
