//! Leases on a clock that a test moves.

use std::time::Duration;

use dlock_core::{
    Clock, FakeClock, Lock, LockGuard, LockOptions, MemoryDatastore, OptionsError, Store,
};

const HOUR: Duration = Duration::from_secs(3600);

fn hold(fake: &FakeClock) -> LockGuard {
    let memory = MemoryDatastore::with_clock(fake.clock());
    let store = Store::new(memory);
    Lock::new(&store, "job").try_acquire().unwrap()
}

#[test]
fn three_hundred_and_sixty_steps_of_ten_seconds_keep_a_default_lock() {
    let fake = FakeClock::new();
    let guard = hold(&fake);
    for step in 0..360 {
        fake.advance(Duration::from_secs(10));
        assert!(guard.is_valid(), "after step {step}");
    }
}

#[test]
fn one_long_step_keeps_a_default_lock_too() {
    let fake = FakeClock::new();
    let guard = hold(&fake);
    fake.advance(HOUR);
    assert!(guard.is_valid());
    guard.release().unwrap();
}

#[test]
fn a_lock_that_is_not_renewed_is_lost_in_one_step() {
    let fake = FakeClock::new();
    let memory = MemoryDatastore::with_clock(fake.clock());
    let store = Store::new(memory);
    let options = LockOptions::builder().renew(false);
    let lock = Lock::with_options(&store, "job", options).unwrap();
    let guard = lock.try_acquire().unwrap();
    fake.advance(HOUR);
    assert!(!guard.is_valid());
}

#[test]
fn a_clock_for_the_store_that_is_not_its_datastores_is_an_error() {
    let fake = FakeClock::new();
    fake.advance(HOUR);
    let memory = MemoryDatastore::with_clock(fake.clock());
    let other = FakeClock::new().clock();
    for (memory, clock) in [
        (memory, other.clone()),
        (MemoryDatastore::new(), other),
        (MemoryDatastore::with_clock(fake.clock()), Clock::BOOTTIME),
    ] {
        let error = Store::builder(memory).clock(clock).unwrap_err();
        assert_eq!(error, OptionsError::Clocks);
    }
    let same = Store::builder(MemoryDatastore::with_clock(fake.clock())).clock(fake.clock());
    let same = same.unwrap().build();
    assert_eq!(same.clock().now(), fake.clock().now());
}
