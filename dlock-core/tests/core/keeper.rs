//! The threads that renew leases survive faults of users and stores.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::support::{Fault, Flaky, eventually};
use dlock_core::{
    Characteristics, Datastore, DatastoreError, Extension, FakeClock, Inspect as _, Layer, Layered,
    Lease, Lock, LockEvent, LockOptions, MemoryDatastore, ReleaseOutcome, Store,
};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(thread::panicking(), "intended by the test");
    }
}

/// Takes a while to be dropped.
struct Slow(Duration);

impl Drop for Slow {
    fn drop(&mut self) {
        thread::sleep(self.0);
    }
}

#[test]
fn a_callback_that_owns_another_guard_does_not_lock_up_the_store() {
    let (done, finished) = mpsc::channel();
    thread::spawn(move || {
        let (sender, renewed) = mpsc::channel();
        let sender = Mutex::new(sender);
        let observer = move |event: &LockEvent<'_>| {
            if let LockEvent::Renewed {
                key: "dlock:outer", ..
            } = event
            {
                let _ = sender.lock().unwrap().send(());
                thread::sleep(MILLI * 50); // widens the window
            }
        };
        let store = Store::builder(MemoryDatastore::new())
            .observer(observer)
            .build();
        let options = LockOptions::builder().ttl(SECOND * 6);
        let lock = |id: &str| Lock::with_options(&store, id, options.clone()).unwrap();
        let outer = lock("outer").try_acquire().unwrap();
        let inner = lock("inner").try_acquire().unwrap();
        let slow = Slow(MILLI * 150); // widens the window
        outer.on_lost(move || drop((slow, inner)));
        renewed.recv().unwrap();
        let _ = outer.release();
        done.send(()).unwrap();
    });
    finished
        .recv_timeout(SECOND * 30)
        .expect("the release ends");
}

#[test]
fn a_callback_whose_captures_panic_or_block_when_dropped_ends_no_other_lease() {
    let flaky = Flaky::new();
    let store = Store::from(flaky.clone());
    let options = LockOptions::builder().ttl(SECOND * 6);
    let lock = |id: &str| Lock::with_options(&store, id, options.clone()).unwrap();
    let broken = lock("broken").try_acquire().unwrap();
    let other = lock("other").try_acquire().unwrap();
    let (bomb, slow) = (Bomb, Slow(SECOND * 12));
    broken.on_at_risk(move || drop(bomb));
    broken.on_at_risk(move || drop(slow));
    let fence = broken.fencing_token().unwrap();
    assert_eq!(
        flaky.memory.break_lease(broken.key(), fence).unwrap(),
        ReleaseOutcome::Released
    );
    eventually("lost", || !broken.is_valid());
    let before = flaky.extends.count();
    eventually("the other is renewed", || {
        flaky.extends.count() > before + 3
    });
    assert!(other.is_valid());
    std::mem::forget(broken);
}

#[test]
fn a_callback_whose_captures_panic_when_dropped_does_not_keep_the_lock() {
    let store = Flaky::new();
    let guard = Lock::new(store.clone(), "job").try_acquire().unwrap();
    let bomb = Bomb;
    guard.on_lost(move || drop(bomb));
    drop(guard);
    assert!(store.is_free("dlock:job"));
}

/// Makes a store take half a millisecond for an extend of many, and five for a confirmation.
#[derive(Clone)]
struct Distant {
    confirm_after: Option<Duration>,
    ttl_min: Duration,
    confirms: Arc<AtomicUsize>,
}

impl Distant {
    fn new(confirm_after: Option<Duration>) -> Self {
        Distant {
            confirm_after,
            ttl_min: MILLI * 10,
            confirms: Arc::default(),
        }
    }

    fn store(&self) -> Store {
        Store::new(Layered::new(MemoryDatastore::new(), self.clone()))
    }
}

impl Layer for Distant {
    fn extend_many(
        &self,
        store: &dyn Datastore,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        thread::sleep(MILLI / 2);
        leases
            .iter()
            .map(|(lease, ttl)| store.extend(lease, *ttl))
            .collect()
    }

    fn confirm_many(
        &self,
        _: &dyn Datastore,
        leases: &[Lease],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let confirmed = leases.iter().map(|lease| {
            thread::sleep(MILLI * 5);
            self.confirms.fetch_add(1, Ordering::SeqCst);
            Ok(Extension::Extended(lease.grant().clone()))
        });
        confirmed.collect()
    }

    fn characteristics(&self, _: &dyn Datastore) -> Characteristics {
        let most = Duration::from_secs(86_400);
        let characteristics = Characteristics::default()
            // More than a machine stalls, for those who acquire.
            .with_call_timeout(SECOND * 60)
            .with_batch(256)
            .with_ttl(self.ttl_min, most);
        match self.confirm_after {
            Some(after) => characteristics.with_confirm_after(after),
            None => characteristics,
        }
    }
}

#[test]
fn confirmations_do_not_starve_renewals() {
    let store = Distant::new(Some(MILLI * 50)).store();
    let options = LockOptions::builder().ttl(SECOND * 9);
    let lock =
        |number| Lock::with_options(&store, format!("job-{number}"), options.clone()).unwrap();
    // The confirmations alone take longer than a lease.
    let guards: Vec<_> = (0..2_000)
        .map(|number| lock(number).try_acquire().unwrap())
        .collect();
    thread::sleep(SECOND * 12);
    let lost = guards.iter().filter(|guard| !guard.is_valid()).count();
    assert_eq!(lost, 0);
}

#[test]
fn a_lease_that_max_hold_shortens_to_the_minimum_is_confirmed_too() {
    let distant = Distant {
        ttl_min: SECOND * 5,
        ..Distant::new(Some(MILLI * 50))
    };
    let options = LockOptions::builder().max_hold(SECOND * 5);
    let guard = Lock::with_options(distant.store(), "job", options)
        .unwrap()
        .try_acquire()
        .unwrap();
    eventually("confirmed", || distant.confirms.load(Ordering::SeqCst) > 0);
    drop(guard);
}

#[test]
fn a_short_max_hold_is_not_at_risk_from_the_start() {
    let options = LockOptions::builder().max_hold(SECOND * 20);
    let lock = Lock::with_options(Flaky::new(), "job", options).unwrap();
    let guard = lock.try_acquire().unwrap();
    let (sender, notified) = mpsc::channel();
    guard.on_at_risk(move || sender.send(()).unwrap());
    assert!(
        notified.recv_timeout(SECOND).is_err(),
        "{:?} left",
        guard.remaining()
    );
}

#[test]
fn a_lease_until_the_end_of_time_causes_no_endless_loop() {
    let fake = FakeClock::new();
    let memory = MemoryDatastore::with_clock(fake.clock());
    let store = Store::new(memory);
    let guard = Lock::new(&store, "job").try_acquire().unwrap();
    let (sender, notified) = mpsc::channel();
    guard.on_lost(move || sender.send(()).unwrap());
    fake.advance(Duration::MAX);
    notified
        .recv_timeout(SECOND * 20)
        .expect("notified of the loss");
    let (sender, dropped) = mpsc::channel();
    thread::spawn(move || {
        drop(guard);
        sender.send(()).unwrap();
    });
    dropped.recv_timeout(SECOND * 20).expect("dropped");
}

#[test]
fn a_check_that_races_with_a_failed_renewal_does_not_delay_the_next_renewal() {
    let store = Flaky {
        call_timeout: MILLI * 1500,
        ..Flaky::new()
    };
    let options = LockOptions::builder().ttl(SECOND * 12).grace(SECOND * 6);
    let guard = Lock::with_options(store.clone(), "job", options)
        .unwrap()
        .try_acquire()
        .unwrap();
    // The first renewal is under way when the lease becomes at risk, and fails.
    store.extends.delay(MILLI * 1950);
    store.extends.fail_next(&[Fault::Refuse]);
    eventually("a renewal", || store.extends.count() > 0);
    store.extends.delay(Duration::ZERO);
    eventually("another", || store.extends.count() > 2);
    assert!(guard.is_valid());
}

#[test]
fn a_renewed_lease_counts_from_before_the_renewal_was_sent() {
    let store = Flaky {
        call_timeout: SECOND * 20,
        ..Flaky::new()
    };
    store.extends.delay(SECOND);
    let (sender, notified) = mpsc::channel();
    let notify = move |event: &LockEvent<'_>| {
        if let LockEvent::Renewed { remaining, .. } = event {
            let _ = sender.send(*remaining);
        }
    };
    let store = Store::builder(store.layered()).observer(notify).build();
    let options = LockOptions::builder().ttl(SECOND * 24);
    let guard = Lock::with_options(&store, "job", options)
        .unwrap()
        .try_acquire()
        .unwrap();
    let left = notified.recv_timeout(SECOND * 60).expect("renewed");
    assert!(
        left < SECOND * 23,
        "{left:?}: the second that the renewal took is gone"
    );
    drop(guard);
}
