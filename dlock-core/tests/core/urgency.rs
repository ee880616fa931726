//! The most urgent lease is renewed first, however many others wait.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dlock_core::{
    Characteristics, Datastore, DatastoreError, ErrorKind, Extension, FakeClock, Layer, Layered,
    Lease, Lock, LockGuard, LockOptions, MemoryDatastore, Store, Time,
};

const MICRO: Duration = Duration::from_micros(1);
const SECOND: Duration = Duration::from_secs(1);

/// Makes calls for held leases take time of a fake clock.
#[derive(Clone)]
struct Costly {
    fake: FakeClock,
    cost: Duration,
    batch: usize,
    confirm_after: Option<Duration>,
    extends: Arc<AtomicUsize>,
    confirmed: Arc<Mutex<Vec<String>>>,
    /// Until this time, calls for long leases hang until their own end.
    hangs_until: Arc<Mutex<Time>>,
}

impl Costly {
    fn new(cost: Duration) -> Self {
        let fake = FakeClock::new();
        Costly {
            fake,
            cost,
            batch: 1,
            confirm_after: None,
            extends: Arc::default(),
            confirmed: Arc::default(),
            hangs_until: Arc::new(Mutex::new(Time::ZERO)),
        }
    }

    fn store(&self) -> Store {
        let memory = MemoryDatastore::with_clock(self.fake.clock());
        Store::new(Layered::new(memory, self.clone()))
    }

    fn hangs_for(&self, lease: &Lease) -> bool {
        lease.key().contains("long") && lease.clock().now() < *self.hangs_until.lock().unwrap()
    }
}

impl Layer for Costly {
    fn extend(
        &self,
        store: &dyn Datastore,
        lease: &Lease,
        ttl: Duration,
    ) -> Result<Extension, DatastoreError> {
        if self.hangs_for(lease) {
            self.fake.advance(lease.time_left());
            return Err(DatastoreError::maybe_executed(ErrorKind::Timeout, "hangs"));
        }
        let answer = store.extend(lease, ttl);
        self.fake.advance(self.cost);
        self.extends.fetch_add(1, Ordering::SeqCst);
        answer
    }

    fn confirm_many(
        &self,
        _: &dyn Datastore,
        leases: &[Lease],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let confirmed = leases.iter().map(|lease| {
            self.fake.advance(self.cost);
            self.confirmed.lock().unwrap().push(lease.key().to_owned());
            Ok(Extension::Extended(lease.grant().clone()))
        });
        confirmed.collect()
    }

    fn extend_many(
        &self,
        store: &dyn Datastore,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let extended = leases
            .iter()
            .map(|(lease, ttl)| self.extend(store, lease, *ttl));
        extended.collect()
    }

    fn characteristics(&self, _: &dyn Datastore) -> Characteristics {
        let characteristics = Characteristics::default().with_batch(self.batch);
        match self.confirm_after {
            Some(after) => characteristics.with_confirm_after(after),
            None => characteristics,
        }
    }
}

fn hold(store: &Store, id: &str, ttl: Duration) -> LockGuard {
    let options = LockOptions::builder().ttl(ttl);
    let lock = Lock::with_options(store, id, options).unwrap();
    lock.try_acquire().unwrap()
}

fn hold_many(store: &Store, count: usize, ttl: Duration) -> Vec<LockGuard> {
    let hold = |number| hold(store, &format!("long-{number}"), ttl);
    (0..count).map(hold).collect()
}

/// All long leases are due at the same time, and renewing them takes most of the ten seconds until
/// they are due again. So thousands are queued whenever the short lease is due.
#[test]
fn a_lease_of_a_second_lives_beside_fifty_thousand_long_ones() {
    let costly = Costly::new(MICRO * 150);
    let store = costly.store();
    let long = hold_many(&store, 50_000, SECOND * 30);
    let short = hold(&store, "short", SECOND);
    costly.fake.advance(SECOND * 20);
    assert!(short.is_valid(), "the short lease");
    let lost = long.iter().filter(|guard| !guard.is_valid()).count();
    assert_eq!(lost, 0, "of the long ones");
    let extends = costly.extends.load(Ordering::SeqCst);
    assert!(extends >= 50_000 + 20, "{extends}");
    // Do not release them, which would take one round trip each.
    long.into_iter().for_each(std::mem::forget);
}

#[test]
fn renewals_that_hang_leave_a_shorter_lease_its_time() {
    let costly = Costly::new(MICRO);
    let store = costly.store();
    let long = hold_many(&store, 20, SECOND * 30);
    let short = hold(&store, "short", SECOND);
    let until = costly.fake.clock().now().saturating_add(SECOND * 13);
    *costly.hangs_until.lock().unwrap() = until;
    costly.fake.advance(SECOND * 40);
    assert!(short.is_valid());
    assert!(long.iter().all(LockGuard::is_valid));
}

#[test]
fn the_confirmation_of_the_lease_that_ends_soonest_comes_first() {
    let costly = Costly {
        confirm_after: Some(SECOND / 5),
        ..Costly::new(MICRO * 100)
    };
    let store = costly.store();
    let _long = hold_many(&store, 1000, SECOND * 30);
    let _short = hold(&store, "short", SECOND * 2);
    costly.fake.advance(SECOND / 2);
    let confirmed = costly.confirmed.lock().unwrap();
    let place = confirmed.iter().position(|key| key.contains("short"));
    // All are due at once: some may be under way before the last is in the queue.
    assert!(place.is_some_and(|place| place < 500), "{place:?}");
    assert_eq!(confirmed.len(), 1001);
}
