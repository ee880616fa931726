//! The promises of `min_hold` and `max_hold`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::{Fault, Flaky, LATE, eventually};
use dlock_core::{
    AcquireError, FakeClock, Lock, LockGuard, LockOptions, LockOptionsBuilder, MemoryDatastore,
    ReleaseError, Store,
};

const KEY: &str = "dlock:job";
/// Long enough that a machine that stalls for some seconds renews in time.
const TTL: Duration = Duration::from_secs(6);

fn short() -> LockOptionsBuilder {
    LockOptions::builder().ttl(TTL)
}

fn lock(store: &Flaky, options: LockOptionsBuilder) -> Lock {
    Lock::with_options(store.clone(), "job", options).unwrap()
}

/// A lease that has ended on the holder's clock, while the store, whose clock stands still, still
/// has it.
fn lost_but_kept(options: LockOptionsBuilder) -> (Flaky, LockGuard) {
    let store = Flaky::over(MemoryDatastore::with_clock(FakeClock::new().clock()));
    let options = options.ttl(Duration::from_secs(1)).renew(false);
    let guard = lock(&store, options).try_acquire().unwrap();
    eventually("lost", || !guard.is_valid());
    (store, guard)
}

#[test]
fn min_hold_keeps_the_key_after_an_early_release_without_blocking() {
    let fake = FakeClock::new();
    let flaky = Flaky::over(MemoryDatastore::with_clock(fake.clock()));
    let store = Store::builder(flaky.layered())
        .clock(fake.clock())
        .unwrap()
        .build();
    let options = LockOptions::builder().min_hold(Duration::from_secs(300));
    let lock = Lock::with_options(&store, "job", options).unwrap();
    lock.locked(|_| fake.advance(Duration::from_secs(5)))
        .unwrap();
    assert_eq!(flaky.extends.count(), 1, "one owner-checked extend");
    let Err(AcquireError::Held(held)) = lock.try_acquire() else {
        panic!("released too early")
    };
    assert_eq!(held.expires_in(), Some(Duration::from_secs(295)));
    fake.advance(Duration::from_secs(295));
    let guard = lock.try_acquire().expect("free when min_hold is over");
    // After `min_hold` nothing is kept.
    fake.advance(Duration::from_secs(20));
    eventually("renewed", || guard.remaining() > Duration::from_secs(15));
    drop(guard);
}

#[test]
fn min_hold_holds_after_an_error_and_a_panic_too() {
    let flaky = Flaky::new();
    let options = LockOptions::builder().min_hold(Duration::from_secs(300));
    for id in ["error", "panic"] {
        let lock = Lock::with_options(flaky.clone(), id, options.clone()).unwrap();
        let _ = catch_unwind(AssertUnwindSafe(|| {
            lock.locked(|_| {
                if id == "panic" {
                    panic!("intended by the test")
                } else {
                    Err::<(), _>(())
                }
            })
        }));
        assert!(lock.try_acquire().unwrap_err().is_held(), "{id}");
    }
}

#[test]
fn min_hold_keeps_nothing_of_a_lost_lease() {
    let (store, guard) = lost_but_kept(LockOptions::builder().min_hold(Duration::from_secs(10)));
    assert!(matches!(guard.release(), Err(ReleaseError::Lost)));
    assert!(store.is_free(KEY) && store.extends.count() == 0);
}

#[test]
fn a_late_copy_of_a_claim_does_not_outlast_min_hold() {
    for min_hold in [LATE / 2, LATE * 3] {
        let store = Flaky::new();
        store.acquires.fail_next(&[Fault::ArriveLate]);
        let options = LockOptions::builder().min_hold(min_hold);
        lock(&store, options)
            .try_acquire()
            .unwrap()
            .release()
            .unwrap();
        thread::sleep(LATE);
        eventually(
            "free when min_hold is over, long before the 30 s of a lease",
            || store.is_free(KEY),
        );
    }
}

#[test]
fn max_hold_ends_a_lock_whose_guard_was_forgotten() {
    let store = Flaky::new();
    let options = short().max_hold(TTL * 2);
    std::mem::forget(lock(&store, options).try_acquire().unwrap());
    eventually("renewed although forgotten", || store.extends.count() > 1);
    let guard = lock(&store, short())
        .acquire_within(Duration::from_secs(60))
        .expect("free in the end");
    assert!(guard.is_valid());
}

#[test]
fn max_hold_ends_the_lock_and_the_holder_is_notified() {
    let store = Flaky::new();
    let guard = lock(&store, short().max_hold(TTL * 2))
        .try_acquire()
        .unwrap();
    let (sender, lost) = mpsc::channel();
    guard.on_lost(move || sender.send(()).unwrap());
    lost.recv_timeout(Duration::from_secs(20))
        .expect("notified of the end");
    assert!(!guard.is_valid());
    eventually("free in the store too", || store.is_free(KEY));
}
