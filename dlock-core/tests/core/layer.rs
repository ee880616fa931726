//! A layer in front of a store sees each call, and changes none that it does not name.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Clock, Datastore, DatastoreError, ErrorKind, Extension,
    FakeClock, FencingToken, HeldBy, Inspect, Layer, Layered, Lease, Lock, LockGuard,
    MemoryDatastore, ReleaseOutcome, Signal, Watch,
};

const TTL: Duration = Duration::from_secs(7);

/// A store whose answers are like no default, and that notes the calls to it.
struct Telltale {
    calls: Arc<Mutex<Vec<&'static str>>>,
    clock: Clock,
}

fn error() -> DatastoreError {
    DatastoreError::maybe_executed(ErrorKind::Refused, "as always")
}

impl Telltale {
    fn note(&self, call: &'static str) {
        self.calls.lock().unwrap().push(call);
    }
}

#[deny(clippy::missing_trait_methods)]
impl Datastore for Telltale {
    fn acquire(&self, _: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
        self.note("acquire");
        Ok(AcquireOutcome::granted(ttl * 2, FencingToken::new(3)))
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.note("extend");
        Ok(lease.extended(ttl * 3))
    }

    fn release(&self, _: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        self.note("release");
        Err(error())
    }

    fn characteristics(&self) -> Characteristics {
        Characteristics::default().with_max_key(99)
    }

    fn own_clock(&self) -> Option<&Clock> {
        Some(&self.clock)
    }

    fn abandon(&self, _: &Claim) -> Result<(), DatastoreError> {
        self.note("abandon");
        Err(error())
    }

    fn watch(&self, _: &Claim, _: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.note("watch");
        Ok(Some(Watch::new(|| ())))
    }

    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        self.note("extend_many");
        leases.iter().map(|_| Err(error())).collect()
    }

    fn confirm(&self, _: &Lease) -> Result<Extension, DatastoreError> {
        self.note("confirm");
        Ok(Extension::Lost)
    }

    fn confirm_many(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
        self.note("confirm_many");
        leases.iter().map(|_| Ok(Extension::Lost)).collect()
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }
}

impl Inspect for Telltale {
    fn holder(&self, _: &str) -> Result<Option<HeldBy>, DatastoreError> {
        self.note("holder");
        Ok(None)
    }

    fn break_lease(&self, _: &str, _: FencingToken) -> Result<ReleaseOutcome, DatastoreError> {
        Err(error())
    }
}

struct Nothing;

impl Layer for Nothing {}

#[test]
fn a_layer_that_names_no_call_passes_each_one_on_once() {
    let (calls, clock) = (Arc::default(), FakeClock::new().clock());
    let notified = Arc::clone(&calls);
    let store = Layered::new(Layered::new(Telltale { calls, clock }, Nothing), Nothing);
    let clock = store.store().store().own_clock().unwrap();
    let claim = Claim::new("k", clock, TTL).unwrap();

    let Ok(AcquireOutcome::Granted(grant)) = store.acquire(&claim, TTL) else {
        panic!("not granted");
    };
    assert_eq!(
        (grant.ttl, grant.fence),
        (TTL * 2, Some(FencingToken::new(3)))
    );
    let lease = Lease::new(claim.clone(), grant).for_call(1, claim.not_after());
    let Ok(Extension::Extended(grant)) = store.extend(&lease, TTL) else {
        panic!("not extended");
    };
    assert_eq!(grant.ttl, TTL * 3);
    assert!(store.release(&lease).is_err());
    assert!(store.abandon(&claim).is_err());
    assert!(store.watch(&claim, &Signal::new()).unwrap().is_some());
    let answers = store.extend_many(&[(lease.clone(), TTL), (lease.clone(), TTL)]);
    assert!(answers.len() == 2 && answers.iter().all(Result::is_err));
    assert!(matches!(store.confirm(&lease), Ok(Extension::Lost)));
    let answers = store.confirm_many(&[lease.clone(), lease]);
    assert!(matches!(
        answers[..],
        [Ok(Extension::Lost), Ok(Extension::Lost)]
    ));
    assert!(store.inspect().unwrap().holder("k").unwrap().is_none());

    assert_eq!(store.characteristics().max_key, 99);
    assert!(store.own_clock().is_some());
    let expected = [
        "acquire",
        "extend",
        "release",
        "abandon",
        "watch",
        "extend_many",
        "confirm",
        "confirm_many",
        "holder",
    ];
    assert_eq!(*notified.lock().unwrap(), expected);
}

/// Answers each call itself.
struct Everything(Clock);

fn own() -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Invalid, "the layer's own")
}

#[deny(clippy::missing_trait_methods)]
impl Layer for Everything {
    fn acquire(
        &self,
        _: &dyn Datastore,
        _: &Claim,
        _: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        Err(own())
    }

    fn extend(
        &self,
        _: &dyn Datastore,
        _: &Lease,
        _: Duration,
    ) -> Result<Extension, DatastoreError> {
        Err(own())
    }

    fn release(&self, _: &dyn Datastore, _: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        Err(own())
    }

    fn characteristics(&self, _: &dyn Datastore) -> Characteristics {
        Characteristics::default().with_max_key(111)
    }

    fn own_clock<'a>(&'a self, _: &'a dyn Datastore) -> Option<&'a Clock> {
        Some(&self.0)
    }

    fn abandon(&self, _: &dyn Datastore, _: &Claim) -> Result<(), DatastoreError> {
        Err(own())
    }

    fn watch(
        &self,
        _: &dyn Datastore,
        _: &Claim,
        _: &Signal,
    ) -> Result<Option<Watch>, DatastoreError> {
        Err(own())
    }

    fn extend_many(
        &self,
        _: &dyn Datastore,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        leases.iter().map(|_| Err(own())).collect()
    }

    fn confirm(&self, _: &dyn Datastore, _: &Lease) -> Result<Extension, DatastoreError> {
        Err(own())
    }

    fn confirm_many(
        &self,
        _: &dyn Datastore,
        leases: &[Lease],
    ) -> Vec<Result<Extension, DatastoreError>> {
        leases.iter().map(|_| Err(own())).collect()
    }

    fn inspect<'a>(&'a self, _: &'a dyn Datastore) -> Option<&'a dyn Inspect> {
        None
    }
}

#[test]
fn each_call_goes_through_the_layer() {
    let (calls, clock) = (Arc::default(), FakeClock::new().clock());
    let notified = Arc::clone(&calls);
    let fake = FakeClock::new();
    fake.advance(TTL);
    let own_clock = fake.clock();
    let store = Layered::new(Telltale { calls, clock }, Everything(own_clock.clone()));
    let claim = Claim::new("k", &own_clock, TTL).unwrap();
    let grant = dlock_core::Grant::new(TTL);
    let lease = Lease::new(claim.clone(), grant).for_call(1, claim.not_after());

    fn is_own<T>(answer: Result<T, DatastoreError>) -> bool {
        answer.is_err_and(|error| error.kind() == ErrorKind::Invalid)
    }
    assert!(is_own(store.acquire(&claim, TTL)));
    assert!(is_own(store.extend(&lease, TTL)));
    assert!(is_own(store.release(&lease)));
    assert!(is_own(store.abandon(&claim)));
    assert!(is_own(store.watch(&claim, &Signal::new())));
    assert!(is_own(store.confirm(&lease)));
    let answers = store.extend_many(&[(lease.clone(), TTL)]);
    assert!(answers.len() == 1 && answers.into_iter().all(is_own));
    let answers = store.confirm_many(&[lease]);
    assert!(answers.len() == 1 && answers.into_iter().all(is_own));
    assert!(store.inspect().is_none());
    assert_eq!(store.characteristics().max_key, 111);
    assert_eq!(store.own_clock().unwrap().now(), own_clock.now());
    assert!(notified.lock().unwrap().is_empty());
}

#[test]
fn a_lock_works_through_layers() {
    let store = Layered::new(MemoryDatastore::new(), Nothing);
    let lock = Lock::new(Layered::new(store, Nothing), "job");
    let guard: LockGuard = lock.try_acquire().unwrap();
    assert!(lock.try_acquire().unwrap_err().is_held());
    guard.release().unwrap();
}
