//! A healthy store that answers slowly passes the suite: it may be far away, or agree with others
//! first. So does one that keeps no short leases.

#![allow(clippy::unwrap_used)] // A test.

mod slow;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use dlock_testkit::{LAWS, Subject, Verdict, laws};
use slow::{Slow, SlowStore};

/// The cases mostly wait.
const SIDE_BY_SIDE: usize = 40;

fn subject(store: SlowStore) -> Subject {
    Subject::from(store).reopened_by("other_process", |_| Slow::by(Duration::ZERO))
}

#[test]
#[ignore = "the case that counts what stays open starts it"]
fn other_process() {
    dlock_testkit::other_process(|| subject(Slow::by(Duration::from_millis(10))));
}

/// Runs all cases, each on a store of its own.
fn passes(store: fn() -> SlowStore) {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(law) = LAWS.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let case = || (law.check)(&subject(store()));
                    if catch_unwind(AssertUnwindSafe(case)).is_err() {
                        failures.lock().unwrap().push(law.name);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{failures:?}");
}

#[test]
fn a_store_that_takes_10_ms_a_call_passes() {
    passes(|| Slow::by(Duration::from_millis(10)));
}

#[test]
fn a_store_that_takes_40_ms_a_call_passes() {
    passes(|| Slow::by(Duration::from_millis(40)));
}

#[test]
fn a_store_that_takes_150_ms_a_call_passes() {
    passes(|| Slow::by(Duration::from_millis(150)));
}

#[test]
fn a_store_that_keeps_leases_for_at_least_ten_seconds_passes() {
    passes(Slow::for_ten_seconds_at_least);
}

/// As on a machine that others keep busy for a while: the case makes its short waits longer until
/// one of them is answered.
#[test]
fn a_store_that_becomes_slow_after_it_was_measured_shows_that_a_wait_ends() {
    // The holder's claim, and the five calls with which the case measures the store.
    let store = Slow::by_after(Duration::from_millis(60), 6);
    let verdict = laws::waiting::a_wait_ends_by_its_deadline(&subject(store));
    assert_eq!(verdict, Verdict::Kept);
}
