//! Runtimes that end, and calls that are made outside of any.

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use dlock_core::aio::{AsyncDatastore, Lock, Store, Unblock, is_polled_by_drop};
use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Datastore, DatastoreError, Extension, FencingToken,
    Layer, Layered, Lease, MemoryDatastore, ReleaseOutcome, Signal, Watch,
};

use super::support::{
    Events, How, LONG, Odd, On, block_on, eventually, nothing_is_left, poll_boxed, suspend,
};

/// A runtime ends with a holder, a waiter, and acquisitions at each stage in its tasks.
#[test]
fn a_runtime_that_shuts_down_leaves_nothing_behind() {
    for (how, by_caller) in [
        (How::Suspend, true),
        (How::Suspend, false),
        (How::Timer, false),
    ] {
        for on in [On::CurrentThread, On::MultiThread] {
            for polls in 0..8 {
                let odd = Odd::new(how).polled_by_caller(by_caller);
                let events = Events::default();
                let store = Store::builder(odd.clone())
                    .observer(events.observer())
                    .build();
                let runtime = on.runtime().unwrap();
                let held = Arc::new(AtomicUsize::new(0));
                for _ in 0..3 {
                    let (lock, held) = (Lock::new(&store, "job"), Arc::clone(&held));
                    runtime.spawn(async move {
                        let _guard = lock.acquire().await.unwrap();
                        held.fetch_add(1, Ordering::SeqCst);
                        std::future::pending::<()>().await;
                    });
                }
                runtime.block_on(async {
                    for _ in 0..polls {
                        suspend().await;
                    }
                });
                if polls == 7 {
                    runtime.block_on(async {
                        while held.load(Ordering::SeqCst) == 0 {
                            tokio::task::yield_now().await;
                        }
                    });
                }
                // Without a wait for blocking tasks; the tasks are dropped all the same.
                runtime.shutdown_background();
                let at = format!("{how:?} by the caller {by_caller}, {on:?}, {polls}");
                eventually(&at, || Arc::strong_count(&held) == 1);
                nothing_is_left(&at, &odd, &store, &events);
            }
        }
    }
}

/// A store the end of whose watches blocks until the test lets it go on.
#[derive(Clone, Default)]
struct SlowLeave {
    is_open: Arc<(Mutex<bool>, Condvar)>,
    watches: Arc<AtomicUsize>,
}

impl SlowLeave {
    fn opens(&self, is_open: bool) {
        *self.is_open.0.lock().unwrap() = is_open;
        self.is_open.1.notify_all();
    }
}

impl Layer for SlowLeave {
    /// The next acquire of the lock waits for half of it.
    fn characteristics(&self, store: &dyn Datastore) -> Characteristics {
        store.characteristics().with_call_timeout(LONG)
    }

    fn watch(
        &self,
        store: &dyn Datastore,
        claim: &Claim,
        signal: &Signal,
    ) -> Result<Option<Watch>, DatastoreError> {
        let gate = Arc::clone(&self.is_open);
        let watch = store.watch(claim, signal)?;
        self.watches.fetch_add(1, Ordering::SeqCst);
        Ok(watch.map(|watch| {
            Watch::leaving(move |leaving| {
                let (open, changed) = &*gate;
                let open = open.lock().unwrap();
                drop(changed.wait_while(open, |open| !*open).unwrap());
                watch.end(leaving);
            })
        }))
    }
}

#[test]
fn settled_and_the_next_acquire_wait_for_a_place_in_a_queue_to_be_left() {
    let (slow, memory) = (SlowLeave::default(), MemoryDatastore::new());
    let layered = Layered::new(memory.clone(), slow.clone());
    let store = Store::new(Unblock::new(layered));
    let lock = Lock::new(&store, "job");
    let guard = dlock_core::Lock::new(memory.clone(), "job");
    for watches in 1..8 {
        slow.opens(false);
        let guard = guard.try_acquire().unwrap();
        let mut waiter = Box::pin(lock.acquire_within(LONG));
        eventually("it watches", || {
            assert!(poll_boxed(&mut waiter, 1).is_none());
            slow.watches.load(Ordering::SeqCst) == watches
        });
        drop(waiter);
        let mut settled = Box::pin(store.settled());
        guard.release().unwrap();
        let mut next = Box::pin(lock.try_acquire());
        for _ in 0..20 {
            assert!(poll_boxed(&mut settled, 1).is_none());
            assert!(poll_boxed(&mut next, 1).is_none());
            thread::sleep(Duration::from_millis(1));
        }
        slow.opens(true);
        block_on(settled);
        // The place is left, so the lock was not handed to it.
        block_on(block_on(next).unwrap().release()).unwrap();
    }
}

/// Notes for each release whether it is notified that its guard is dropped.
struct NotesDrops(Arc<Mutex<Vec<bool>>>);

impl AsyncDatastore for NotesDrops {
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        assert!(!is_polled_by_drop());
        let fence = FencingToken::new(claim.clock().now().as_nanos());
        Ok(AcquireOutcome::granted(ttl, fence))
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        Ok(lease.extended(ttl))
    }

    async fn release(&self, _: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        self.0.lock().unwrap().push(is_polled_by_drop());
        suspend().await;
        self.0.lock().unwrap().push(is_polled_by_drop());
        Ok(ReleaseOutcome::Released)
    }

    fn is_polled_by_caller(&self) -> bool {
        true
    }
}

#[test]
fn a_store_learns_that_it_is_polled_by_a_drop_and_at_no_other_time() {
    let notes = Arc::<Mutex<Vec<bool>>>::default();
    let store = Store::new(NotesDrops(Arc::clone(&notes)));
    let lock = Lock::new(&store, "job");
    block_on(block_on(lock.try_acquire()).unwrap().release()).unwrap();
    assert_eq!(*notes.lock().unwrap(), [false, false]);
    drop(block_on(lock.try_acquire()).unwrap());
    assert!(!is_polled_by_drop());
    block_on(store.settled());
    assert_eq!(*notes.lock().unwrap(), [false, false, true, false]);
}

/// The store needs tokio's timer, which only dlock's own runtime has here.
#[test]
fn a_store_that_needs_a_runtime_has_one_in_every_executor() {
    let odd = Odd::new(How::Timer);
    let store = Store::new(odd.clone());
    let lock = Lock::new(&store, "job");
    block_on(block_on(lock.acquire()).unwrap().release()).unwrap();
    // A runtime that is entered, and that nobody drives, changes nothing.
    let runtime = On::CurrentThread.runtime().unwrap();
    let _entered = runtime.enter();
    block_on(block_on(lock.acquire()).unwrap().release()).unwrap();
}

/// An acquire that began on one runtime goes on when that is gone: its call is under way until
/// another executor has polled it, and wakes that one.
#[test]
fn an_acquire_goes_on_in_another_executor() {
    for by_caller in [true, false] {
        for how in [How::Closed, How::Unanswered] {
            let odd = Odd::new(how).polled_by_caller(by_caller);
            let lock = Lock::new(Store::new(odd.clone()), "job");
            let mut acquire = Box::pin(lock.acquire());
            let runtime = On::CurrentThread.runtime().unwrap();
            runtime.block_on(async { assert!(poll_boxed(&mut acquire, 1).is_none()) });
            drop(runtime);
            let mut polled = false;
            let acquired = block_on(poll_fn(|context| {
                let is_first = !std::mem::replace(&mut polled, true);
                let acquired = acquire.as_mut().poll(context);
                if is_first {
                    assert!(acquired.is_pending());
                    odd.open();
                }
                acquired
            }));
            drop(acquired.unwrap());
        }
    }
}

#[tokio::test]
async fn a_store_is_settled_when_all_that_was_dropped_is_done() {
    let odd = Odd::new(How::Late);
    let store = Store::new(odd.clone());
    store.settled().await; // nothing was begun
    let mut guards = Vec::new();
    for number in 0..20 {
        guards.push(
            Lock::new(&store, format!("job {number}"))
                .try_acquire()
                .await
                .unwrap(),
        );
    }
    drop(guards);
    store.settled().await;
    assert!(odd.memory.is_empty());
}

/// A store whose calls are ready at once is released by the time the drop returns.
#[test]
fn a_dropped_guard_sends_its_release() {
    let memory = MemoryDatastore::new();
    drop(block_on(Lock::new(memory.clone(), "job").try_acquire()).unwrap());
    assert!(memory.is_empty());
}

/// The datastore ends with its last handle and its last guard.
#[test]
fn a_guard_keeps_its_store_in_use_and_nothing_else_does() {
    let odd = Odd::new(How::Suspend);
    let calls = Arc::downgrade(&odd.calls);
    let store = Store::new(odd);
    let guard = block_on(Lock::new(&store, "job").try_acquire()).unwrap();
    drop(store);
    assert!(
        calls.upgrade().is_some(),
        "the guard keeps the store in use"
    );
    drop(guard);
    eventually("the datastore is dropped", || calls.upgrade().is_none());
}

/// In a process of its own, whose threads ask for a stack that is not to be had at first.
#[cfg(target_os = "linux")]
#[test]
fn where_no_thread_is_to_be_had_nothing_is_claimed_and_the_next_acquire_tries_again() {
    const STACK: u64 = 1 << 30;
    const ALONE: &str = "DLOCK_TEST_ALONE";
    let name = "where_no_thread_is_to_be_had_nothing_is_claimed_and_the_next_acquire_tries_again";
    if std::env::var_os(ALONE).is_none() {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let (_, module) = module_path!().split_once("::").unwrap();
        let output = child
            .args(["--exact", &format!("{module}::{name}")])
            .env("RUST_MIN_STACK", STACK.to_string())
            .env(ALONE, "1")
            .output()
            .unwrap();
        let notified = String::from_utf8_lossy(&output.stdout);
        let well = output.status.success() && notified.contains("1 passed");
        assert!(well, "{notified}");
        return;
    }
    let odd = Odd::new(How::Suspend);
    let lock = Lock::new(Store::new(odd.clone()), "job");
    let before = set_most_memory(used_memory() + STACK / 2);
    let refused = block_on(lock.try_acquire()).unwrap_err();
    let dlock_core::AcquireError::Datastore(error) = refused else {
        panic!("{refused}");
    };
    assert_eq!(error.kind(), dlock_core::ErrorKind::Refused, "{error}");
    assert!(!error.may_have_executed());
    assert_eq!(odd.calls.load(Ordering::SeqCst), 0);

    set_most_memory(before);
    drop(block_on(lock.try_acquire()).unwrap());
}

/// The address space of this process.
#[cfg(target_os = "linux")]
fn used_memory() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

/// Sets how large the address space of this process may grow. Returns what was set before.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "there is no safe way in the standard library")]
fn set_most_memory(most: u64) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` outlives both calls, which only read and write it.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_AS, &raw mut limit), 0);
        let before = std::mem::replace(&mut limit.rlim_cur, most);
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &raw const limit), 0);
        before
    }
}
