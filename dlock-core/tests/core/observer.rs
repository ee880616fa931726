//! Which events an observer receives, and that they can be counted against each other.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Fault, Flaky};
use dlock_core::{
    Cancel, Lock, LockEvent, MemoryDatastore, Observer, Operation, Store, StoreCall, Wait,
};

const SOON: Duration = Duration::from_secs(4);

/// Writes down the kind of each event, and each call.
#[derive(Clone, Default)]
struct Kinds(Arc<Mutex<Vec<&'static str>>>);

impl Kinds {
    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Kinds {
    fn on(&self, event: &LockEvent<'_>) {
        let kind = match event {
            LockEvent::Acquired { .. } => "acquired",
            LockEvent::NotAcquired { .. } => "not acquired",
            LockEvent::Refused { .. } => "refused",
            LockEvent::Waiting { .. } => "waiting",
            LockEvent::WaitEnded { .. } => "wait ended",
            LockEvent::Released { .. } => "released",
            LockEvent::AlreadyDone { .. } => "already done",
            _ => return,
        };
        self.0.lock().unwrap().push(kind);
    }
}

fn observed() -> (Kinds, Store) {
    let kinds = Kinds::default();
    let store = Store::builder(MemoryDatastore::new()).observer(kinds.clone());
    (kinds, store.build())
}

#[test]
fn each_acquire_ends_with_one_event() {
    let (kinds, store) = observed();
    let lock = Lock::new(&store, "import");
    let guard = lock.try_acquire().unwrap();
    assert_eq!(kinds.take(), ["acquired"]);
    lock.try_acquire().unwrap_err();
    assert_eq!(kinds.take(), ["refused", "not acquired"]);
    guard.release().unwrap();
    assert_eq!(kinds.take(), ["released"]);
    let cancel = Cancel::new();
    cancel.cancel();
    lock.acquire_with(&Wait::forever().cancelled_by(&cancel))
        .unwrap_err();
    assert_eq!(kinds.take(), ["not acquired"]);
}

#[test]
fn a_wait_is_reported_once_and_so_is_its_end() {
    let (kinds, store) = observed();
    let lock = Lock::new(&store, "import");
    let guard = lock.try_acquire().unwrap();
    kinds.take();
    lock.acquire_within(SOON).unwrap_err();
    let events = kinds.take();
    let count = |kind| events.iter().filter(|event| **event == kind).count();
    assert_eq!(
        (count("waiting"), count("wait ended")),
        (1, 1),
        "{events:?}"
    );
    assert!(count("refused") >= 2, "{events:?}");
    assert_eq!(events.last(), Some(&"not acquired"));

    std::thread::scope(|scope| {
        let waits = scope.spawn(|| lock.acquire_within(Duration::from_secs(20)).map(drop));
        while !kinds.0.lock().unwrap().contains(&"waiting") {
            std::thread::sleep(Duration::from_millis(1));
        }
        guard.release().unwrap();
        waits.join().unwrap().unwrap();
    });
    let events = kinds.take();
    let at = |kind| events.iter().position(|event| *event == kind).unwrap();
    assert!(at("waiting") < at("wait ended"), "{events:?}");
    assert!(at("wait ended") < at("acquired"), "{events:?}");
}

#[test]
fn a_job_that_was_done_is_one_lock_acquired_and_one_mark_not() {
    let (kinds, store) = observed();
    let lock = Lock::new(&store, "import");
    let once = || lock.once("monday", Duration::from_secs(9), |_| Ok::<_, ()>(()));
    once().unwrap().unwrap();
    assert_eq!(
        kinds.take(),
        ["acquired", "acquired", "released", "released"]
    );
    once().unwrap().unwrap();
    assert_eq!(
        kinds.take(),
        [
            "acquired",
            "refused",
            "not acquired",
            "released",
            "already done"
        ]
    );
}

/// An operation and the error that it failed with.
type Call = (Operation, Option<String>);

#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>);

impl Observer for Calls {
    fn on(&self, _: &LockEvent<'_>) {}

    fn on_call(&self, call: &StoreCall<'_>) {
        let error = call.error.map(ToString::to_string);
        self.0.lock().unwrap().push((call.operation, error));
    }
}

#[test]
fn each_call_to_the_store_is_reported_with_its_error() {
    let (calls, kinds) = (Calls::default(), Kinds::default());
    let flaky = Flaky::new();
    let store = Store::builder(flaky.layered())
        .observer(calls.clone())
        .observer(kinds.clone())
        .build();
    let lock = Lock::new(&store, "import");
    lock.try_acquire().unwrap().release().unwrap();
    let reported = std::mem::take(&mut *calls.0.lock().unwrap());
    assert_eq!(
        reported,
        [(Operation::Acquire, None), (Operation::Release, None)]
    );
    assert_eq!(kinds.take(), ["acquired", "released"], "both observers");

    flaky.acquires.fail_always(Some(Fault::Refuse));
    lock.try_acquire().unwrap_err();
    let reported = calls.0.lock().unwrap();
    assert!(
        matches!(&reported[0], (Operation::Acquire, Some(error)) if error.contains("reached")),
        "{reported:?}"
    );
}
