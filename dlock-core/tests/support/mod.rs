//! A memory store that can be told to fail, and to count.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{
    Attempt, Characteristics, Claim, Datastore, DatastoreError, ErrorKind, Extension, Inspect,
    Lease, MemoryDatastore, Released, Signal, Time, Watch,
};

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is refused: nothing is done.
    Refuse,
    /// It is done, and the answer is lost.
    LoseReply,
    /// It is not done, and that is not known.
    LoseRequest,
    /// The connection breaks, and the request is carried out a little later. Claims only.
    ArriveLate,
    /// The store's code panics.
    Panic,
    /// Nothing goes wrong.
    Pass,
}

/// Calls of one kind: how many there were, and what goes wrong with the next.
#[derive(Default)]
pub struct Calls {
    count: AtomicUsize,
    faults: Mutex<VecDeque<Fault>>,
    always: Mutex<Option<Fault>>,
    delay: Mutex<Duration>,
    reply_delay: Mutex<Duration>,
}

impl Calls {
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub fn fail_next(&self, faults: &[Fault]) {
        self.faults.lock().unwrap().extend(faults);
    }

    pub fn fail_always(&self, fault: Option<Fault>) {
        *self.always.lock().unwrap() = fault;
    }

    /// Each call takes this much longer.
    pub fn delay(&self, by: Duration) {
        *self.delay.lock().unwrap() = by;
    }

    /// The answer to each call takes this much longer.
    pub fn delay_replies(&self, by: Duration) {
        *self.reply_delay.lock().unwrap() = by;
    }

    fn run<T>(
        &self,
        call: impl FnOnce() -> Result<T, DatastoreError>,
    ) -> Result<T, DatastoreError> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let delay = *self.delay.lock().unwrap();
        thread::sleep(delay);
        let always = *self.always.lock().unwrap();
        let next = self.faults.lock().unwrap().pop_front();
        match next.or(always).unwrap_or(Fault::Pass) {
            Fault::Pass => {
                let answer = call();
                let delay = *self.reply_delay.lock().unwrap();
                thread::sleep(delay);
                answer
            }
            Fault::Refuse => Err(DatastoreError::not_executed(
                ErrorKind::Unreachable,
                "refused",
            )),
            Fault::LoseReply => {
                let _lost = call();
                Err(DatastoreError::maybe_executed(
                    ErrorKind::Timeout,
                    "the reply was lost",
                ))
            }
            Fault::LoseRequest | Fault::ArriveLate => Err(DatastoreError::maybe_executed(
                ErrorKind::Timeout,
                "no reply",
            )),
            Fault::Panic => panic!("the store panics, as the test wants"),
        }
    }
}

/// How late a late request is; well before the end of its call.
pub const LATE: Duration = Duration::from_millis(100);

/// Clones are the same store.
#[derive(Clone)]
pub struct Flaky {
    pub memory: MemoryDatastore,
    pub acquires: Arc<Calls>,
    pub extends: Arc<Calls>,
    pub releases: Arc<Calls>,
    pub call_timeout: Duration,
    pub abandons: Arc<Calls>,
    /// Whether the store says that it refuses late calls.
    pub refuses_late_calls: bool,
    /// Whether an extend that reaches the store after its end is carried out all the same.
    pub executes_late: bool,
}

impl Flaky {
    pub fn new() -> Self {
        Self::over(MemoryDatastore::new())
    }

    pub fn over(memory: MemoryDatastore) -> Self {
        Flaky {
            memory,
            acquires: Arc::default(),
            extends: Arc::default(),
            releases: Arc::default(),
            call_timeout: Duration::from_millis(500),
            abandons: Arc::default(),
            refuses_late_calls: true,
            executes_late: false,
        }
    }

    pub fn is_free(&self, key: &str) -> bool {
        self.memory.holder(key).unwrap().is_none()
    }
}

impl Datastore for Flaky {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError> {
        if self.acquires.faults.lock().unwrap().front() == Some(&Fault::ArriveLate) {
            let (memory, claim) = (self.memory.clone(), claim.clone());
            thread::spawn(move || {
                thread::sleep(LATE);
                let _late = memory.acquire(&claim, ttl);
            });
        }
        self.acquires.run(|| self.memory.acquire(claim, ttl))
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        let not_after = if self.executes_late {
            Time::MAX
        } else {
            lease.not_after()
        };
        self.extends.run(|| {
            self.memory
                .extend(&lease.for_call(lease.sequence(), not_after), ttl)
        })
    }

    fn release(&self, lease: &Lease) -> Result<Released, DatastoreError> {
        self.releases.run(|| self.memory.release(lease))
    }

    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.abandons.run(|| self.memory.abandon(claim))
    }

    fn characteristics(&self) -> Characteristics {
        let mut characteristics = self
            .memory
            .characteristics()
            .with_call_timeout(self.call_timeout);
        characteristics.refuses_late_calls = self.refuses_late_calls;
        characteristics
    }

    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.memory.watch(claim, signal)
    }
}

/// Waits until `done`, for a generous time.
#[track_caller]
pub fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "not within 20 s: {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}
