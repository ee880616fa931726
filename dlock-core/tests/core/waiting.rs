//! The promises of a wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Flaky, eventually};
use dlock_core::{
    AcquireError, AcquireOutcome, Cancel, Characteristics, Claim, Datastore, DatastoreError,
    ErrorKind, Extension, FakeClock, Layer, Layered, Lease, Lock, LockOptions, LockOptionsBuilder,
    MemoryDatastore, ReleaseOutcome, Signal, Store, Wait, Watch,
};

fn lock(store: &Flaky, options: LockOptionsBuilder) -> Lock {
    Lock::with_options(store.clone(), "job", options).unwrap()
}

#[test]
fn a_waiter_is_woken_by_the_release() {
    let store = Flaky::new();
    let guard = lock(&store, LockOptions::builder()).try_acquire().unwrap();
    let waiter = thread::spawn({
        let lock = lock(&store, LockOptions::builder());
        move || {
            lock.acquire_within(Duration::from_secs(60))
                .map(|guard| guard.fencing_token())
        }
    });
    eventually("waiting", || store.acquires.count() >= 3);
    let first = guard.fencing_token();
    guard.release().unwrap();
    let second = waiter.join().unwrap().unwrap();
    assert!(second > first);
    assert!(
        store.acquires.count() <= 5,
        "woken, not polled: {}",
        store.acquires.count()
    );
}

#[test]
fn a_wait_ends_with_its_deadline_and_says_who_held_the_lock() {
    let store = Flaky::new();
    let _guard = lock(&store, LockOptions::builder()).try_acquire().unwrap();
    let error = lock(&store, LockOptions::builder())
        .acquire_within(Duration::from_secs(1))
        .unwrap_err();
    assert!(error.is_held(), "{error}");
}

#[test]
fn a_cancelled_wait_ends_at_once() {
    let store = Flaky::new();
    let _guard = lock(&store, LockOptions::builder()).try_acquire().unwrap();
    let cancel = Cancel::new();
    let waiter = thread::spawn({
        let (lock, wait) = (
            lock(&store, LockOptions::builder()),
            Wait::forever().cancelled_by(&cancel),
        );
        move || lock.acquire_with(&wait).map(drop)
    });
    eventually("waiting", || store.acquires.count() >= 3);
    cancel.cancel();
    assert!(matches!(
        waiter.join().unwrap(),
        Err(AcquireError::Cancelled)
    ));
    let wait = Wait::forever().cancelled_by(&cancel);
    assert!(matches!(
        lock(&store, LockOptions::builder()).acquire_with(&wait),
        Err(AcquireError::Cancelled)
    ));
}

#[test]
fn a_cancel_that_came_before_the_wait_ends_it_at_once() {
    let store = Flaky::new();
    let _guard = lock(&store, LockOptions::builder()).try_acquire().unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let wait = Wait::forever().cancelled_by(&cancel);
    assert!(matches!(
        lock(&store, LockOptions::builder()).acquire_with(&wait),
        Err(AcquireError::Cancelled)
    ));
}

#[test]
fn waiters_are_served_in_the_order_they_came_and_a_newcomer_does_not_jump_the_queue() {
    // Its clock stands still, so no waiter is too late for its turn.
    let store = Flaky::over(MemoryDatastore::with_clock(FakeClock::new().clock()));
    let guard = lock(&store, LockOptions::builder()).try_acquire().unwrap();
    let (sender, order) = mpsc::channel();
    let waiters: Vec<_> = (0..10)
        .map(|number| {
            let (lock, sender) = (lock(&store, LockOptions::builder()), sender.clone());
            let waiting = store.acquires.count();
            let waiter = thread::spawn(move || {
                let guard = lock.acquire_within(Duration::from_secs(60)).unwrap();
                sender.send(number).unwrap();
                guard.release().unwrap();
            });
            eventually("queued", || store.acquires.count() >= waiting + 2);
            waiter
        })
        .collect();
    guard.release().unwrap();
    // A caller that tries now is behind ten waiters: it is refused, or served when they are all
    // done.
    let tried = lock(&store, LockOptions::builder()).try_acquire();
    assert!(tried.is_err() || order.iter().take(10).count() == 10);
    waiters
        .into_iter()
        .for_each(|waiter| waiter.join().unwrap());
    drop((sender, tried));
    let order: Vec<i32> = order.iter().collect();
    assert!(
        order.is_empty() || order == (0..10).collect::<Vec<_>>(),
        "{order:?}"
    );
}

/// Makes a store take as long to watch as it may.
struct SlowWatch;

impl Layer for SlowWatch {
    fn watch(
        &self,
        _: &dyn Datastore,
        claim: &Claim,
        _: &Signal,
    ) -> Result<Option<Watch>, DatastoreError> {
        thread::sleep(claim.time_left());
        Err(DatastoreError::not_executed(ErrorKind::Timeout, "slow"))
    }

    fn characteristics(&self, _: &dyn Datastore) -> Characteristics {
        Characteristics::default().with_call_timeout(Duration::from_secs(60))
    }
}

#[test]
fn a_wait_ends_at_its_deadline_even_if_the_watch_hangs() {
    let store = Store::new(Layered::new(MemoryDatastore::new(), SlowWatch));
    let lock = Lock::new(&store, "job");
    let _guard = lock.try_acquire().unwrap();
    let start = Instant::now();
    assert!(
        lock.acquire_within(Duration::from_secs(1))
            .unwrap_err()
            .is_held()
    );
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
}

/// A store whose keys are always held, with a remaining time of zero.
#[derive(Clone, Default)]
struct HeldForNoTime(Arc<AtomicUsize>);

impl Datastore for HeldForNoTime {
    fn acquire(&self, _: &Claim, _: Duration) -> Result<AcquireOutcome, DatastoreError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(AcquireOutcome::held(Duration::ZERO))
    }

    fn extend(&self, _: &Lease, _: Duration) -> Result<Extension, DatastoreError> {
        Ok(Extension::Lost)
    }

    fn release(&self, _: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        Ok(ReleaseOutcome::NotHeld)
    }
}

#[test]
fn a_store_that_refuses_with_no_time_left_is_polled_with_pauses() {
    let store = HeldForNoTime::default();
    let waited = Lock::new(store.clone(), "job").acquire_within(Duration::from_secs(2));
    assert!(waited.unwrap_err().is_held());
    let claims = store.0.load(Ordering::SeqCst);
    assert!(claims < 100, "{claims} claims in two seconds");
}

#[test]
fn a_cancelled_caller_does_not_acquire_a_free_lock() {
    let store = Flaky::new();
    let lock = Lock::new(store.clone(), "job");
    let cancel = Cancel::new();
    cancel.cancel();
    for wait in [Wait::none(), Wait::forever()] {
        let error = lock.acquire_with(&wait.cancelled_by(&cancel)).unwrap_err();
        assert!(matches!(error, AcquireError::Cancelled), "{error}");
    }
    assert_eq!(store.acquires.count(), 0, "nothing was claimed");
    drop(lock.try_acquire().unwrap());
}
