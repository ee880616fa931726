//! Code of the user that panics: observers, subscribers of spans, wakers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use dlock_core::{
    AcquireError, Cancel, Inspect, Lock, LockEvent, MemoryDatastore, Observer, OnceOutcome,
    Operation, Store, StoreCall, Wait, aio,
};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

const LONG: Duration = Duration::from_secs(30);
/// Long enough to wait although each panic on the way is reported.
const SOON: Duration = Duration::from_secs(2);
const DAY: Duration = Duration::from_secs(86_400);

/// Writes down the kind of each event and call, and panics.
#[derive(Clone, Default)]
struct Panics(Arc<Mutex<Vec<String>>>);

impl Panics {
    fn saw(&self, what: &str) -> ! {
        self.0.lock().unwrap().push(what.to_owned());
        panic!("the observer panics at {what}");
    }

    fn has(&self, what: &str) -> bool {
        self.0.lock().unwrap().iter().any(|one| one == what)
    }
}

fn kind(event: &LockEvent<'_>) -> String {
    let text = format!("{event:?}");
    text.split(' ').next().unwrap_or_default().to_owned()
}

impl Observer for Panics {
    fn on(&self, event: &LockEvent<'_>) {
        self.saw(&kind(event));
    }

    fn on_call(&self, call: &StoreCall<'_>) {
        self.saw(call.operation.name());
    }
}

/// What an observer receives in [`blocking`] and [`in_async_code`].
const EVENTS: [&str; 7] = [
    "Acquired",
    "Refused",
    "Waiting",
    "WaitEnded",
    "NotAcquired",
    "Released",
    "AlreadyDone",
];
const CALLS: [Operation; 4] = [
    Operation::Acquire,
    Operation::Watch,
    Operation::Extend,
    Operation::Release,
];

fn holder(memory: &MemoryDatastore) -> bool {
    Inspect::holder(memory, "dlock:job").unwrap().is_some()
}

/// Acquires, waits, releases and runs a job: nothing may panic, and nothing may stay held.
fn blocking(store: Store, memory: &MemoryDatastore) {
    let lock = Lock::new(store, "job");
    let guard = lock.try_acquire().unwrap();
    assert!(guard.is_valid() && holder(memory));
    assert!(lock.acquire_within(SOON).unwrap_err().is_held());
    guard.release().unwrap();
    assert!(!holder(memory));
    for is_done in [false, true] {
        let outcome = lock.once("monday", DAY, |_| Ok::<_, ()>(())).unwrap();
        assert_eq!(outcome != Ok(OnceOutcome::Ran(())), is_done);
    }
    drop(lock.try_acquire().unwrap());
    assert!(!holder(memory));
}

async fn in_async_code(store: aio::Store, memory: &MemoryDatastore) {
    let lock = aio::Lock::new(&store, "job");
    let guard = lock.try_acquire().await.unwrap();
    assert!(guard.is_valid() && holder(memory));
    assert!(lock.acquire_within(SOON).await.unwrap_err().is_held());
    guard.release().await.unwrap();
    assert!(!holder(memory));
    for is_done in [false, true] {
        let outcome = lock.once("monday", DAY, async |_| Ok::<_, ()>(()));
        assert_eq!(outcome.await.unwrap() != Ok(OnceOutcome::Ran(())), is_done);
    }
    drop(lock.try_acquire().await.unwrap());
    store.settled().await;
    assert!(!holder(memory));
}

fn received_all(panics: &Panics, after: &Panics) {
    let calls = CALLS.map(Operation::name);
    for what in EVENTS.iter().chain(&calls) {
        assert!(panics.has(what), "{what}: {panics:?}", panics = panics.0);
    }
    assert_eq!(*panics.0.lock().unwrap(), *after.0.lock().unwrap());
}

/// Between a grant and its guard a panic would leave the key held with no owner.
#[test]
fn an_observer_that_panics_changes_nothing_for_the_lock_and_for_the_next_observer() {
    let (panics, after, memory) = (Panics::default(), Panics::default(), MemoryDatastore::new());
    let store = Store::builder(memory.clone()).observer(panics.clone());
    blocking(store.observer(after.clone()).build(), &memory);
    received_all(&panics, &after);
}

#[tokio::test]
async fn in_async_code_an_observer_that_panics_changes_nothing_either() {
    let (panics, after, memory) = (Panics::default(), Panics::default(), MemoryDatastore::new());
    let store = aio::Store::builder(memory.clone()).observer(panics.clone());
    in_async_code(store.observer(after.clone()).build(), &memory).await;
    received_all(&panics, &after);
}

/// A subscriber of spans that panics at each of its methods in turn.
struct PanicsAt {
    method: &'static str,
    panicked: Arc<AtomicUsize>,
}

impl PanicsAt {
    fn at(&self, method: &str) {
        if method == self.method {
            self.panicked.fetch_add(1, Ordering::SeqCst);
            panic!("the subscriber panics at {method}");
        }
    }
}

impl Subscriber for PanicsAt {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        self.at("new_span");
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {
        self.at("record");
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {
        self.at("enter");
    }

    fn exit(&self, _: &Id) {
        self.at("exit");
    }

    fn try_close(&self, _: Id) -> bool {
        self.at("try_close");
        true
    }
}

#[test]
fn a_subscriber_of_spans_that_panics_changes_nothing_for_the_lock() {
    for method in ["new_span", "record", "enter", "exit", "try_close"] {
        for in_async in [false, true] {
            let panicked = Arc::<AtomicUsize>::default();
            let subscriber = PanicsAt {
                method,
                panicked: Arc::clone(&panicked),
            };
            let memory = MemoryDatastore::new();
            let test = || match in_async {
                false => blocking(Store::new(memory.clone()), &memory),
                true => {
                    let runtime = tokio::runtime::Builder::new_current_thread().build();
                    let test = in_async_code(aio::Store::new(memory.clone()), &memory);
                    runtime.unwrap().block_on(test);
                }
            };
            tracing::subscriber::with_default(subscriber, test);
            assert!(panicked.load(Ordering::SeqCst) > 0, "{method}");
        }
    }
}

/// A waker of an executor that panics.
struct PanickingWaker(AtomicUsize);

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("the waker panics");
    }
}

#[test]
fn a_waker_that_panics_does_not_reach_the_thread_that_releases_or_cancels() {
    let memory = MemoryDatastore::new();
    let store = aio::Store::new(memory.clone());
    let lock = aio::Lock::new(&store, "job");
    let guard = Lock::new(Store::new(memory), "job").try_acquire().unwrap();
    let panicking = Arc::new(PanickingWaker(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&panicking));
    let context = &mut Context::from_waker(&waker);
    let woken = || panicking.0.load(Ordering::SeqCst);

    let cancel = Cancel::new();
    let wait = Wait::forever().cancelled_by(&cancel);
    let mut cancelled = lock.acquire_with(&wait);
    let poll = |future: &mut aio::Acquire, context: &mut Context<'_>| {
        std::pin::Pin::new(future).poll(context)
    };
    assert!(poll(&mut cancelled, context).is_pending());
    let before = woken();
    cancel.cancel();
    assert!(woken() > before);
    let ended = poll(&mut cancelled, context);
    assert!(matches!(ended, Poll::Ready(Err(AcquireError::Cancelled))));

    let mut waiting = lock.acquire();
    assert!(poll(&mut waiting, context).is_pending());
    let before = woken();
    guard.release().unwrap();
    assert!(woken() > before);
    let end = Instant::now() + LONG;
    let granted = loop {
        match poll(&mut waiting, context) {
            Poll::Ready(granted) => break granted,
            Poll::Pending => assert!(Instant::now() < end),
        }
    };
    drop(granted.unwrap());
}
