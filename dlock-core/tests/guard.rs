//! What a guard promises: acquire, renewal, release.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use dlock_core::{
    AcquireError, FakeClock, Lock, LockGuard, LockOptions, MemoryDatastore, Optional as _,
    ReleaseError, Store,
};
use support::{Fault, Flaky, LATE, eventually};

const KEY: &str = "dlock:job";
/// Long enough that a loaded machine renews in time.
const TTL: Duration = Duration::from_millis(1500);

fn short() -> LockOptions {
    LockOptions::default().with_ttl(TTL)
}

fn lock(store: &Flaky, options: LockOptions) -> Lock {
    Lock::with_options(store.clone(), "job", options).unwrap()
}

#[test]
fn one_holds_and_the_others_are_refused_until_the_release() {
    let store = Store::from(MemoryDatastore::new());
    let lock = Lock::new(&store, "job");
    let guard = lock.try_acquire().unwrap();
    assert!(guard.is_valid() && guard.key() == KEY && guard.fencing_token().is_some());
    let Err(AcquireError::Held(held)) = lock.try_acquire() else {
        panic!("two holders")
    };
    assert!(
        held.to_string().starts_with("held by this process since "),
        "{held}"
    );
    assert_eq!(held.fence(), guard.fencing_token());
    guard.release().unwrap();
    assert!(lock.try_acquire().optional().unwrap().is_some());
}

#[test]
fn a_lock_tells_what_it_was_made_of() {
    let options = short().with_key_prefix("app");
    let lock = Lock::with_options(MemoryDatastore::new(), "a b", options.clone()).unwrap();
    assert_eq!((lock.id(), lock.key()), ("a b", "app:a%20b"));
    assert_eq!(lock.options(), &options);
    let reach = dlock_core::Reach::Process;
    assert_eq!(lock.store().characteristics().reach, reach);
    assert_eq!(lock.datastore().characteristics().reach, reach);
}

#[test]
fn a_held_lock_outlives_its_ttl_because_it_is_renewed() {
    let store = Flaky::new();
    let guard = lock(&store, short()).try_acquire().unwrap();
    eventually("renewed past the first ttl", || store.extends.count() > 6);
    assert!(guard.is_valid() && !store.is_free(KEY));
    guard.release().unwrap();
    assert!(store.is_free(KEY));
}

#[test]
fn the_lock_is_released_on_return_on_error_and_on_panic() {
    let store = Flaky::new();
    let lock = lock(&store, short());
    assert!(lock.locked(LockGuard::is_valid).unwrap());
    assert!(store.is_free(KEY));
    let error = lock.locked(|_| "x".parse::<u32>()).unwrap();
    assert!(error.is_err() && store.is_free(KEY));
    let panic = catch_unwind(AssertUnwindSafe(|| {
        lock.locked(|_| panic!("as the test wants"))
    }));
    assert!(panic.is_err() && store.is_free(KEY));
}

#[test]
fn a_dropped_guard_never_panics_even_if_the_store_does() {
    let store = Flaky::new();
    let guard = lock(&store, short()).try_acquire().unwrap();
    store.releases.fail_always(Some(Fault::Panic));
    drop(guard);
    assert_eq!(store.releases.count(), 1);
}

#[test]
fn a_guard_moves_to_another_thread_and_is_released_there() {
    let store = Flaky::new();
    let guard = lock(&store, short()).try_acquire().unwrap();
    thread::spawn(move || guard.release().unwrap())
        .join()
        .unwrap();
    assert!(store.is_free(KEY));
}

#[test]
fn a_release_whose_reply_was_lost_is_cleared_up_and_counts() {
    let store = Flaky::new();
    let guard = lock(&store, LockOptions::default()).try_acquire().unwrap();
    store.releases.fail_next(&[Fault::LoseReply]);
    guard.release().unwrap();
    assert_eq!(store.releases.count(), 2);
}

#[test]
fn a_release_that_cannot_be_cleared_up_says_so() {
    let store = Flaky::new();
    let lock = lock(&store, LockOptions::default());
    store
        .releases
        .fail_next(&[Fault::LoseRequest, Fault::LoseRequest]);
    let error = lock.try_acquire().unwrap().release().unwrap_err();
    assert!(matches!(error, ReleaseError::Unknown(_)), "{error:?}");
    assert!(!store.is_free(KEY));
}

#[test]
fn a_release_that_the_store_never_got_says_that_the_lock_is_still_taken() {
    let store = Flaky::new();
    let lock = lock(&store, LockOptions::default());
    store.releases.fail_next(&[Fault::Refuse, Fault::Refuse]);
    let error = lock.try_acquire().unwrap().release().unwrap_err();
    assert!(matches!(error, ReleaseError::NotReleased(_)), "{error:?}");
    store.releases.fail_next(&[Fault::Refuse]);
    let other = Lock::new(store.clone(), "other").try_acquire().unwrap();
    other
        .release()
        .expect("a single refused connection is tried again");
}

#[test]
fn a_late_copy_that_comes_while_the_release_is_answered_holds_nothing() {
    // Found by the model of the protocol: whether there is something to undo is decided before the release is sent.
    let store = Flaky::new();
    store.acquires.fail_next(&[Fault::ArriveLate]);
    let guard = lock(&store, LockOptions::default()).try_acquire().unwrap();
    store.releases.delay_replies(store.call_timeout * 2);
    guard.release().unwrap();
    assert!(store.is_free(KEY));
}

#[test]
fn where_late_calls_are_not_refused_a_lost_claim_is_given_up_whenever_the_release_comes() {
    let store = Flaky {
        refuses_late_calls: false,
        ..Flaky::new()
    };
    store.acquires.fail_next(&[Fault::LoseRequest]);
    let guard = lock(&store, LockOptions::default()).try_acquire().unwrap();
    thread::sleep(store.call_timeout * 2);
    guard.release().unwrap();
    assert_eq!(store.abandons.count(), 1);

    let unharmed = lock(&store, LockOptions::default()).try_acquire().unwrap();
    unharmed.release().unwrap();
    assert_eq!(store.abandons.count(), 1, "nothing was lost");
}

#[test]
fn a_late_copy_of_a_claim_holds_nothing_after_an_early_release() {
    // Found by the simulation of lossy networks in `drive`: the lost request is carried out after the release.
    let store = Flaky::new();
    store.acquires.fail_next(&[Fault::ArriveLate]);
    let guard = lock(&store, LockOptions::default()).try_acquire().unwrap();
    assert_eq!(
        store.acquires.count(),
        2,
        "the lost answer is asked for again"
    );
    guard.release().unwrap();
    thread::sleep(LATE * 2);
    assert!(store.is_free(KEY));
}

#[test]
fn a_release_that_keeps_nothing_does_not_wait_for_a_lost_claim_first() {
    let fake = FakeClock::jumping();
    let flaky = Flaky::over(MemoryDatastore::with_clock(fake.clock()));
    let store = Store::builder(flaky.clone()).clock(fake.clock()).build();
    flaky.acquires.fail_next(&[Fault::LoseReply]);
    let options = LockOptions::default()
        .with_ttl(flaky.call_timeout / 2)
        .with_renew(false);
    let guard = Lock::with_options(&store, "job", options)
        .unwrap()
        .try_acquire()
        .unwrap();
    guard
        .release()
        .expect("after the lost claim's end it would have been too late");
}

#[test]
fn a_store_that_panics_in_one_renewal_is_asked_again() {
    let store = Flaky::new();
    let guard = lock(
        &store,
        LockOptions::default().with_ttl(Duration::from_secs(2)),
    )
    .try_acquire()
    .unwrap();
    store.extends.fail_next(&[Fault::Panic]);
    eventually("renewed after the panic", || store.extends.count() > 2);
    assert!(guard.is_valid());
}

#[test]
fn the_threads_start_with_the_first_guard_and_end_with_the_store() {
    // In a process of its own, so that no other test's threads are counted.
    if std::env::var_os("DLOCK_COUNT_THREADS").is_none() {
        let me = std::env::current_exe().unwrap();
        let name = "the_threads_start_with_the_first_guard_and_end_with_the_store";
        let mut child = std::process::Command::new(me);
        let output = child
            .args(["--exact", name])
            .env("DLOCK_COUNT_THREADS", "1")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        return;
    }
    let before = threads();
    let store = Store::from(MemoryDatastore::new());
    let lock = Lock::new(&store, "job");
    assert_eq!(threads(), before, "a store without guards has no threads");
    let guard = lock.try_acquire().unwrap();
    let _other = Lock::new(&store, "other").try_acquire().unwrap();
    assert_eq!(threads(), before + 2, "two threads a store, not a guard");
    drop((guard, _other, lock, store));
    eventually("the threads ended", || threads() == before);
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn ten_thousand_leases_are_renewed_in_batches_and_none_is_lost() {
    let store = Store::from(MemoryDatastore::new());
    let options = LockOptions::default().with_ttl(Duration::from_secs(3));
    let guards: Vec<_> = (0..10_000)
        .map(|number| Lock::with_options(&store, format!("job-{number}"), options.clone()).unwrap())
        .map(|lock| lock.try_acquire().unwrap())
        .collect();
    thread::sleep(Duration::from_secs(4));
    assert_eq!(guards.iter().filter(|guard| !guard.is_valid()).count(), 0);
}

#[test]
fn bad_names_and_options_are_refused_when_the_lock_is_made_or_acquired() {
    let store = Store::from(MemoryDatastore::new());
    let error = Lock::with_options(&store, "", LockOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "the lock's id is empty; give it a name");
    assert!(matches!(
        Lock::new(&store, "").try_acquire(),
        Err(AcquireError::Invalid(_))
    ));
    for ttl in [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_micros(999),
        Duration::MAX,
    ] {
        let options = LockOptions::default().with_ttl(ttl);
        assert!(
            Lock::with_options(&store, "job", options).is_err(),
            "{ttl:?}"
        );
    }
}
