//! Notifications about a lock that is lost or at risk.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::support::{Fault, Flaky, eventually};
use dlock_core::{
    FakeClock, Inspect as _, Lock, LockEvent, LockGuard, LockOptions, LockOptionsBuilder,
    MemoryDatastore, ReleaseError, ReleaseOutcome, Store,
};

const KEY: &str = "dlock:job";
/// Long enough that a machine that stalls for some seconds renews in time.
const TTL: Duration = Duration::from_secs(6);

fn short() -> LockOptionsBuilder {
    LockOptions::builder().ttl(TTL)
}

/// A lease that is at risk for longer than a machine stalls: a look that comes after its end finds
/// the loss alone.
fn long_at_risk() -> LockOptionsBuilder {
    LockOptions::builder().ttl(TTL * 2).grace(TTL)
}

fn lock(store: &Flaky, options: LockOptionsBuilder) -> Lock {
    Lock::with_options(store.clone(), "job", options).unwrap()
}

fn counter() -> (Arc<AtomicUsize>, impl Fn() -> usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let read = Arc::clone(&count);
    (count, move || read.load(Ordering::SeqCst))
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

fn break_lock(flaky: &Flaky, guard: &LockGuard) {
    let fence = guard.fencing_token().unwrap();
    assert_eq!(
        flaky.memory.break_lease(guard.key(), fence).unwrap(),
        ReleaseOutcome::Released
    );
}

#[test]
fn a_lock_that_somebody_else_took_is_lost_and_its_release_leaves_the_other_alone() {
    let store = Flaky::new();
    let options = short().renew(false);
    let first = lock(&store, options.clone()).try_acquire().unwrap();
    let second = lock(&store, LockOptions::builder())
        .acquire_within(Duration::from_secs(20))
        .unwrap();
    assert!(!first.is_valid());
    assert!(second.fencing_token() > first.fencing_token());
    assert!(matches!(first.release(), Err(ReleaseError::Lost)));
    assert!(second.is_valid() && !store.is_free(KEY));
}

#[test]
fn a_release_that_was_not_sent_at_first_does_not_hide_the_loss() {
    let store = Flaky::new();
    let guard = lock(&store, LockOptions::builder()).try_acquire().unwrap();
    break_lock(&store, &guard);
    store.releases.fail_next(&[Fault::Refuse]);
    assert!(matches!(guard.release(), Err(ReleaseError::Lost)));
}

#[test]
fn each_callback_for_a_loss_is_called_once_even_a_late_one_but_not_after_a_release() {
    let store = Flaky::new();
    let guard = lock(&store, short()).try_acquire().unwrap();
    let (notified, times) = counter();
    let notify = |notified: &Arc<AtomicUsize>| {
        let notified = Arc::clone(notified);
        move || {
            notified.fetch_add(1, Ordering::SeqCst);
        }
    };
    guard.on_lost(notify(&notified));
    store.extends.fail_always(Some(Fault::Refuse));
    eventually("notified of the loss", || times() == 1);
    assert!(!guard.is_valid());
    guard.on_lost(notify(&notified));
    eventually("notified late", || times() == 2);
    drop(guard);

    store.extends.fail_always(None);
    let (notified, times_after_release) = counter();
    let guard = lock(&store, short().renew(false))
        .acquire_within(Duration::from_secs(20))
        .unwrap();
    guard.on_lost(notify(&notified));
    guard.release().unwrap();
    thread::sleep(TTL + TTL / 6);
    assert_eq!((times(), times_after_release()), (2, 0));
}

#[test]
fn a_loss_that_a_check_detects_is_reported_too() {
    let fake = FakeClock::new();
    let memory = MemoryDatastore::with_clock(fake.clock());
    let store = Store::new(memory);
    let lock = Lock::with_options(&store, "job", short().renew(false)).unwrap();
    let guard = lock.try_acquire().unwrap();
    let (sender, notified) = mpsc::channel();
    guard.on_lost(move || sender.send(()).unwrap());
    // The timing thread must wake up before it notices the end; the check is faster.
    fake.advance(TTL);
    assert!(!guard.is_valid());
    notified
        .recv_timeout(Duration::from_secs(20))
        .expect("notified of the loss");
}

#[test]
fn a_loss_is_reported_when_the_clock_stands_at_the_end_of_the_lease() {
    let fake = FakeClock::new();
    let memory = MemoryDatastore::with_clock(fake.clock());
    let store = Store::new(memory);
    let lock = Lock::with_options(&store, "job", short().renew(false)).unwrap();
    let guard = lock.try_acquire().unwrap();
    let (sender, notified) = mpsc::channel();
    let at_risk = sender.clone();
    guard.on_at_risk(move || at_risk.send("at risk").unwrap());
    guard.on_lost(move || sender.send("lost").unwrap());
    let instant = Duration::from_nanos(1);
    for (passes, expected) in [(guard.remaining() - instant, "at risk"), (instant, "lost")] {
        fake.advance(passes);
        let notified = notified.recv_timeout(Duration::from_secs(20));
        assert_eq!(notified, Ok(expected), "without a look");
    }
}

#[test]
fn the_observer_receives_every_event_of_a_lock() {
    let notified = Arc::new(Mutex::new(Vec::new()));
    let flaky = Flaky::new();
    let observer = {
        let notified = Arc::clone(&notified);
        move |event: &LockEvent<'_>| {
            let event = match event {
                LockEvent::Acquired { key, .. } => format!("acquired {key}"),
                LockEvent::Refused { key, .. } => format!("refused {key}"),
                LockEvent::RenewalFailed { key, .. } => format!("renewal failed {key}"),
                LockEvent::AtRisk { key, .. } => format!("at risk {key}"),
                LockEvent::Lost { key, .. } => format!("lost {key}"),
                LockEvent::Released { key, .. } => format!("released {key}"),
                LockEvent::ReleaseFailed { key, .. } => format!("release failed {key}"),
                _ => return,
            };
            notified.lock().unwrap().push(event);
        }
    };
    let store = Store::builder(flaky.layered()).observer(observer).build();
    let lock = |id: &str, options| Lock::with_options(&store, id, options).unwrap();
    let plain = lock("plain", LockOptions::builder());
    let guard = plain.try_acquire().unwrap();
    assert!(plain.try_acquire().is_err());
    guard.release().unwrap();
    flaky.releases.fail_next(&[Fault::Refuse, Fault::Refuse]);
    assert!(plain.try_acquire().unwrap().release().is_err());
    assert_eq!(
        std::mem::take(&mut *notified.lock().unwrap()),
        [
            "acquired dlock:plain",
            "refused dlock:plain",
            "released dlock:plain",
            "acquired dlock:plain",
            "release failed dlock:plain",
        ]
    );

    flaky.extends.fail_always(Some(Fault::Refuse));
    let _guard = lock("lost", long_at_risk()).try_acquire().unwrap();
    for event in ["renewal failed", "at risk", "lost"] {
        let event = format!("{event} dlock:lost");
        eventually(&event, || notified.lock().unwrap().contains(&event));
    }
}

#[test]
fn the_risk_is_reported_before_the_loss() {
    let store = Flaky::new();
    let guard = lock(&store, long_at_risk()).try_acquire().unwrap();
    let (sender, notified) = mpsc::channel();
    let lost = sender.clone();
    guard.on_lost(move || lost.send("lost").unwrap());
    guard.on_at_risk(move || sender.send("at risk").unwrap());
    store.extends.fail_always(Some(Fault::Refuse));
    let order: Vec<_> = notified.iter().collect();
    assert_eq!(order, ["at risk", "lost"]);
}

#[test]
fn a_callback_that_blocks_or_panics_affects_no_other_lease() {
    let flaky = Flaky::new();
    let store = Store::from(flaky.clone());
    let lock = |id: &str| Lock::with_options(&store, id, short()).unwrap();
    let broken = lock("broken").try_acquire().unwrap();
    let other = lock("other").try_acquire().unwrap();
    let (block, blocked) = mpsc::channel::<()>();
    broken.on_lost(move || blocked.recv().unwrap_or_default());
    broken.on_lost(|| panic!("intended by the test"));
    let (sender, notified) = mpsc::channel();
    broken.on_lost(move || sender.send(()).unwrap());
    break_lock(&flaky, &broken);
    notified
        .recv_timeout(Duration::from_secs(20))
        .expect("the third callback is called");
    let before = flaky.extends.count();
    eventually("the other lease is renewed", || {
        flaky.extends.count() > before + 3
    });
    assert!(other.is_valid());
    drop(block);
}

#[test]
fn renewals_that_fail_and_recover_in_time_keep_the_lock() {
    let store = Flaky::new();
    let guard = lock(&store, LockOptions::builder()).try_acquire().unwrap();
    let (notified, times) = counter();
    guard.on_lost(move || {
        notified.fetch_add(1, Ordering::SeqCst);
    });
    store
        .extends
        .fail_next(&[Fault::Refuse, Fault::LoseReply, Fault::LoseRequest]);
    // When the first is due it has two thirds of its 30 s left.
    eventually("renewed after the failures", || {
        store.extends.count() > 3 && guard.remaining() > Duration::from_secs(25)
    });
    assert!(guard.is_valid() && times() == 0);
}

#[test]
fn a_lease_that_a_renewal_revives_after_its_loss_is_released() {
    // The store's clock stands still, so it extends a lease that has ended on the holder's clock.
    let stands_still = FakeClock::new();
    let memory = MemoryDatastore::with_clock(stands_still.clock());
    let store = Flaky {
        executes_late: true,
        ..Flaky::over(memory)
    };
    let guard = lock(&store, short()).try_acquire().unwrap();
    let (sender, lost) = mpsc::channel();
    guard.on_lost(move || sender.send(()).unwrap());
    store.extends.delay(TTL * 2);
    lost.recv_timeout(Duration::from_secs(20))
        .expect("the lease ends while its renewal hangs");
    eventually("released by nobody but the worker", || store.is_free(KEY));
    assert!(!guard.is_valid(), "lost is final");
    assert_eq!(store.releases.count(), 1);
}

#[test]
fn a_lost_lock_is_reported_as_lost_even_when_the_store_cannot_be_reached() {
    let store = Flaky::new();
    let guard = lock(&store, short()).try_acquire().unwrap();
    store.extends.fail_always(Some(Fault::Refuse));
    store.releases.fail_always(Some(Fault::Refuse));
    eventually("lost", || !guard.is_valid());
    assert!(matches!(guard.release(), Err(ReleaseError::Lost)));
}

#[test]
fn a_release_after_the_end_of_the_lease_says_lost_though_the_store_still_had_it() {
    let (store, guard) = lost_but_kept(LockOptions::builder());
    assert!(matches!(guard.release(), Err(ReleaseError::Lost)));
    assert!(store.is_free(KEY));
}
