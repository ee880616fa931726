//! A store that suspends at each call, and executors that a test drives by hand.

#![allow(unreachable_pub, reason = "the whole binary uses it")]
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use dlock_core::aio::{AsyncDatastore, Lock, Store};
use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Clock, DatastoreError, Extension, Inspect, Lease,
    LockEvent, MemoryDatastore, ReleaseOutcome, Signal, Watch,
};
use tokio::sync::watch;

/// The most that a test waits for something. On a machine with too much to do even what takes a
/// second of a processor takes long.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longer than a call takes here.
pub const LONG: Duration = Duration::from_secs(30);
/// Long enough that a machine that stalls for some seconds renews in time.
pub const TTL: Duration = Duration::from_secs(6);

/// How the calls of a store go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// They suspend before they act and before they answer.
    Suspend,
    /// They act and never answer.
    Hang,
    /// They act, and answer when tokio says that 30 ms have passed.
    Timer,
    /// They act when tokio says that 30 ms have passed.
    Late,
    /// They act and panic.
    Panic,
    /// They act while the test lets the store be [open](Odd::open).
    Closed,
    /// They act, and answer while the test lets the store be open.
    Unanswered,
}

/// A store in memory whose calls go as the test says.
#[derive(Clone)]
pub struct Odd {
    pub memory: MemoryDatastore,
    pub how: How,
    pub is_polled_by_caller: bool,
    pub call_timeout: Duration,
    pub calls: Arc<AtomicUsize>,
    pub extends: Arc<AtomicUsize>,
    /// Claims and watches: what a waiter calls.
    pub waits: Arc<AtomicUsize>,
    /// Off, all calls are ready at once.
    pub on: Arc<AtomicBool>,
    /// Whether the calls of a store that the test opens and closes go on.
    gate: watch::Sender<bool>,
}

impl Odd {
    pub fn new(how: How) -> Self {
        Self::on(MemoryDatastore::new(), how)
    }

    pub fn on(memory: MemoryDatastore, how: How) -> Self {
        Odd {
            memory,
            how,
            is_polled_by_caller: false,
            // Nothing here waits for the end of a call unless the test sets it.
            call_timeout: LONG,
            calls: Arc::default(),
            extends: Arc::default(),
            waits: Arc::default(),
            on: Arc::new(AtomicBool::new(true)),
            gate: watch::Sender::new(false),
        }
    }

    pub fn polled_by_caller(mut self, yes: bool) -> Self {
        self.is_polled_by_caller = yes;
        self
    }

    pub fn switch(&self, on: bool) {
        self.on.store(on, Ordering::SeqCst);
    }

    /// Lets all calls go on, those under way and those to come.
    pub fn open(&self) {
        self.gate.send_replace(true);
    }

    /// Holds up the calls to come.
    pub fn close(&self) {
        self.gate.send_replace(false);
    }

    /// Suspends until the test opens the store.
    async fn wait_until_open(&self) {
        let mut gate = self.gate.subscribe();
        gate.wait_for(|open| *open).await.unwrap();
    }

    async fn before(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if !self.on.load(Ordering::SeqCst) {
            return;
        }
        match self.how {
            How::Suspend => suspend().await,
            How::Late => tokio::time::sleep(Duration::from_millis(30)).await,
            How::Closed => self.wait_until_open().await,
            How::Hang | How::Timer | How::Panic | How::Unanswered => {}
        }
    }

    async fn after(&self) {
        if !self.on.load(Ordering::SeqCst) {
            return;
        }
        match self.how {
            How::Suspend => suspend().await,
            How::Hang => std::future::pending().await,
            How::Timer => tokio::time::sleep(Duration::from_millis(30)).await,
            How::Panic => panic!("the store panics"),
            How::Unanswered => self.wait_until_open().await,
            How::Late | How::Closed => {}
        }
    }
}

/// Suspends once.
pub async fn suspend() {
    let mut suspended = false;
    poll_fn(|context| {
        if std::mem::replace(&mut suspended, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl AsyncDatastore for Odd {
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        self.waits.fetch_add(1, Ordering::SeqCst);
        self.before().await;
        let answer = dlock_core::Datastore::acquire(&self.memory, claim, ttl);
        self.after().await;
        answer
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.before().await;
        let answer = dlock_core::Datastore::extend(&self.memory, lease, ttl);
        self.extends.fetch_add(1, Ordering::SeqCst);
        self.after().await;
        answer
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        self.before().await;
        let answer = dlock_core::Datastore::release(&self.memory, lease);
        self.after().await;
        answer
    }

    fn characteristics(&self) -> Characteristics {
        let memory = dlock_core::Datastore::characteristics(&self.memory);
        memory.with_call_timeout(self.call_timeout)
    }

    fn own_clock(&self) -> Option<&Clock> {
        dlock_core::Datastore::own_clock(&self.memory)
    }

    fn is_polled_by_caller(&self) -> bool {
        self.is_polled_by_caller
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.before().await;
        let answer = dlock_core::Datastore::abandon(&self.memory, claim);
        self.after().await;
        answer
    }

    async fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.waits.fetch_add(1, Ordering::SeqCst);
        self.before().await;
        let answer = dlock_core::Datastore::watch(&self.memory, claim, signal);
        self.after().await;
        answer
    }
}

/// Who holds the key of the lock `job`.
pub fn is_held(memory: &MemoryDatastore) -> bool {
    Inspect::holder(memory, "dlock:job").unwrap().is_some()
}

/// Wakes the thread that drives a future by hand.
#[derive(Default)]
struct ByHand {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Wake for ByHand {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl ByHand {
    fn wait(&self) {
        let woken = self.woken.lock().unwrap();
        let (mut woken, wait) = self
            .changed
            .wait_timeout_while(woken, PATIENCE, |woken| !*woken)
            .unwrap();
        assert!(!wait.timed_out(), "nobody woke the future");
        *woken = false;
    }
}

/// Polls a future that many times, each time after it was woken; `None` if it was not ready then.
/// Outside of any runtime unless the caller entered one.
pub fn poll_times<T>(future: impl Future<Output = T>, times: usize) -> Option<T> {
    poll_boxed(&mut Box::pin(future), times)
}

pub fn poll_boxed<T>(future: &mut Pin<Box<impl Future<Output = T>>>, times: usize) -> Option<T> {
    let by_hand = Arc::new(ByHand::default());
    let waker = Waker::from(Arc::clone(&by_hand));
    for time in 0..times {
        if time > 0 {
            by_hand.wait();
        }
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        if let Poll::Ready(done) = polled {
            return Some(done);
        }
    }
    None
}

/// A future that a test polls, and that says whether it wants to be polled again.
pub struct Stepped<F> {
    future: Pin<Box<F>>,
    by_hand: Arc<ByHand>,
}

impl<F: Future> Stepped<F> {
    pub fn new(future: F) -> Self {
        Stepped {
            future: Box::pin(future),
            by_hand: Arc::default(),
        }
    }

    pub fn poll(&mut self) -> Option<F::Output> {
        *self.by_hand.woken.lock().unwrap() = false;
        let waker = Waker::from(Arc::clone(&self.by_hand));
        match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    pub fn is_woken(&self) -> bool {
        *self.by_hand.woken.lock().unwrap()
    }
}

/// Drives a future to its end, without a runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    poll_times(future, usize::MAX).unwrap()
}

/// Waits for something that another thread does.
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What must hold when all is over: nothing goes on, the key is free, and the next acquire works at
/// once. Each acquired lock was released.
pub fn nothing_is_left(at: &str, odd: &Odd, store: &Store, events: &Events) {
    block_on(store.settled());
    assert!(!is_held(&odd.memory), "{at}: held with no owner");
    let guard = block_on(Lock::new(store, "job").try_acquire());
    let guard = guard.unwrap_or_else(|error| panic!("{at}: the next acquire: {error}"));
    block_on(guard.release()).unwrap();
    let (acquired, ended) = events.counts();
    assert_eq!(acquired, ended, "{at}: guards that were reported");
}

/// How many guards an observer was notified of.
#[derive(Clone, Default)]
pub struct Events {
    acquired: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Events {
    pub fn observer(&self) -> impl Fn(&LockEvent<'_>) + Send + Sync + 'static {
        let events = self.clone();
        move |event| match event {
            LockEvent::Acquired { .. } => {
                events.acquired.fetch_add(1, Ordering::SeqCst);
            }
            LockEvent::Released { .. } | LockEvent::ReleaseFailed { .. } => {
                events.ended.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
    }

    /// The locks that were acquired, and those that ended.
    pub fn counts(&self) -> (usize, usize) {
        let count = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (count(&self.acquired), count(&self.ended))
    }
}

/// The kinds of runtime, and none.
#[derive(Debug, Clone, Copy)]
pub enum On {
    NoRuntime,
    CurrentThread,
    MultiThread,
}

impl On {
    pub const ALL: [On; 3] = [On::NoRuntime, On::CurrentThread, On::MultiThread];

    /// Runs a test there.
    pub fn run<T>(self, test: impl FnOnce() -> T) -> T {
        match self.runtime() {
            Some(runtime) => runtime.block_on(async { test() }),
            None => test(),
        }
    }

    pub fn runtime(self) -> Option<tokio::runtime::Runtime> {
        use tokio::runtime::Builder;
        let mut builder = match self {
            On::NoRuntime => return None,
            On::CurrentThread => Builder::new_current_thread(),
            On::MultiThread => Builder::new_multi_thread(),
        };
        Some(builder.worker_threads(2).enable_all().build().unwrap())
    }
}

/// Runs `future` on a runtime, within a time that nothing takes here.
pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    let future = pin!(future);
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it hangs")
}
