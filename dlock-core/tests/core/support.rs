//! A store in memory that counts its calls and can be made to fail.
#![allow(unreachable_pub, reason = "the whole binary uses it")]

use std::collections::VecDeque;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Clock, Datastore, DatastoreError, ErrorKind, Extension,
    Inspect, Layer, Layered, Lease, MemoryDatastore, ReleaseOutcome, Store, Time,
};

/// The fault of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection is refused, so nothing is done.
    Refuse,
    /// The call is carried out, but the answer is lost.
    LoseReply,
    /// The call is not carried out, but the caller cannot know that.
    LoseRequest,
    /// The connection breaks, and the request is carried out a little later. For claims only.
    ArriveLate,
    /// The store's code panics.
    Panic,
    /// No fault.
    Pass,
}

/// The calls of one kind: their number, and the faults of the next ones.
#[derive(Default)]
pub(crate) struct Calls {
    count: AtomicUsize,
    faults: Mutex<VecDeque<Fault>>,
    always: Mutex<Option<Fault>>,
    delay: Mutex<Duration>,
    reply_delay: Mutex<Duration>,
}

impl Calls {
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub(crate) fn fail_next(&self, faults: &[Fault]) {
        self.faults.lock().unwrap().extend(faults);
    }

    pub(crate) fn fail_always(&self, fault: Option<Fault>) {
        *self.always.lock().unwrap() = fault;
    }

    /// Makes each call take this much longer.
    pub(crate) fn delay(&self, by: Duration) {
        *self.delay.lock().unwrap() = by;
    }

    /// Makes the answer to each call take this much longer.
    pub(crate) fn delay_replies(&self, by: Duration) {
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
            Fault::Panic => panic!("the store panics, as intended by the test"),
        }
    }
}

/// How late a late request arrives: well before the end of its call.
pub(crate) const LATE: Duration = Duration::from_millis(100);

/// Clones are the same store.
#[derive(Clone)]
pub(crate) struct Flaky {
    pub(crate) memory: MemoryDatastore,
    pub(crate) acquires: Arc<Calls>,
    pub(crate) extends: Arc<Calls>,
    pub(crate) releases: Arc<Calls>,
    pub(crate) call_timeout: Duration,
    pub(crate) abandons: Arc<Calls>,
    /// Whether the store declares that it refuses late calls.
    pub(crate) refuses_late_calls: bool,
    /// Whether an extend is carried out even if it reaches the store too late.
    pub(crate) executes_late: bool,
}

impl Flaky {
    pub(crate) fn new() -> Self {
        Self::over(MemoryDatastore::new())
    }

    pub(crate) fn over(memory: MemoryDatastore) -> Self {
        Flaky {
            memory,
            acquires: Arc::default(),
            extends: Arc::default(),
            releases: Arc::default(),
            // Longer than a busy machine stalls.
            call_timeout: Duration::from_secs(4),
            abandons: Arc::default(),
            refuses_late_calls: true,
            executes_late: false,
        }
    }

    /// The store in memory, with its faults.
    pub(crate) fn layered(&self) -> Layered<MemoryDatastore, Flaky> {
        Layered::new(self.memory.clone(), self.clone())
    }

    pub(crate) fn is_free(&self, key: &str) -> bool {
        self.memory.holder(key).unwrap().is_none()
    }
}

impl Layer for Flaky {
    fn acquire(
        &self,
        store: &dyn Datastore,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        if self.acquires.faults.lock().unwrap().front() == Some(&Fault::ArriveLate) {
            let (memory, claim) = (self.memory.clone(), claim.clone());
            thread::spawn(move || {
                thread::sleep(LATE);
                let _late = memory.acquire(&claim, ttl);
            });
        }
        self.acquires.run(|| store.acquire(claim, ttl))
    }

    fn extend(
        &self,
        store: &dyn Datastore,
        lease: &Lease,
        ttl: Duration,
    ) -> Result<Extension, DatastoreError> {
        let not_after = if self.executes_late {
            Time::MAX
        } else {
            lease.not_after()
        };
        self.extends
            .run(|| store.extend(&lease.for_call(lease.sequence(), not_after), ttl))
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

    fn release(
        &self,
        store: &dyn Datastore,
        lease: &Lease,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        self.releases.run(|| store.release(lease))
    }

    fn abandon(&self, store: &dyn Datastore, claim: &Claim) -> Result<(), DatastoreError> {
        self.abandons.run(|| store.abandon(claim))
    }

    /// Hidden: some tests give the store and its datastore clocks that differ.
    fn own_clock<'a>(&'a self, _: &'a dyn Datastore) -> Option<&'a Clock> {
        None
    }

    fn characteristics(&self, store: &dyn Datastore) -> Characteristics {
        let mut characteristics = store.characteristics().with_call_timeout(self.call_timeout);
        characteristics.refuses_late_calls = self.refuses_late_calls;
        characteristics
    }
}

impl From<Flaky> for Store {
    fn from(flaky: Flaky) -> Self {
        Store::new(flaky.layered())
    }
}

/// Waits until `done` returns `true`, for a generous time.
#[track_caller]
pub(crate) fn eventually(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "not within two minutes: {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// Set in the process of a test that runs alone.
const ALONE: &str = "DLOCK_TEST_ALONE";

/// Runs a test once more, in a process of its own, where no other test has threads or files.
/// Returns whether this is that process; the test does nothing elsewhere.
pub(crate) fn is_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", test]).env(ALONE, "1").output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    false
}

/// The seconds after which the system ends a child that hangs, so that its test fails.
#[cfg(all(target_os = "linux", feature = "tokio"))]
const CHILD_LIMIT: u32 = 60;

/// Runs `child` in a forked process. Returns whether it returned true. For a test that
/// [is alone](is_alone), and panics elsewhere.
///
/// Rust's standard library holds a lock while a thread starts and while one ends. In a child that
/// is forked meanwhile, this lock is never released, and no thread gets beyond its start. So no
/// other test may run in this process, and this waits until all its other threads sleep.
#[cfg(all(target_os = "linux", feature = "tokio"))]
#[allow(unsafe_code)]
pub(crate) fn in_child(child: impl FnOnce() -> bool) -> bool {
    assert!(
        std::env::var_os(ALONE).is_some(),
        "a test that forks runs alone"
    );
    // SAFETY: it only returns a number.
    let this_thread = unsafe { libc::gettid() }.to_string();
    let is_busy = |task: &std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
        task.file_name() != *this_thread && state.is_some_and(|state| !state.starts_with('S'))
    };
    let tasks = || std::fs::read_dir("/proc/self/task").unwrap();
    while tasks().any(|task| task.is_ok_and(|task| is_busy(&task))) {
        thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: the child runs `child` and leaves by `_exit`, without unwinding into the parent's
    // test harness. The C library makes the allocator usable in the child of a process with
    // threads.
    unsafe {
        let pid = libc::fork();
        assert!(pid >= 0, "fork");
        if pid == 0 {
            libc::alarm(CHILD_LIMIT);
            let kept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            libc::_exit(i32::from(!matches!(kept, Ok(true))));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        assert!(
            !libc::WIFSIGNALED(status),
            "the child hung, or was killed: {status}"
        );
        libc::WEXITSTATUS(status) == 0
    }
}
