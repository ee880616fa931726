//! A blocking store for async locks, and the other way round.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dlock_core::aio::{
    AsyncDatastore, AsyncInspect, Block, DynAsyncDatastore, Lock, Store, Unblock,
};
use dlock_core::{
    AcquireError, AcquireOutcome, Characteristics, Claim, Datastore, DatastoreError, ErrorKind,
    Extension, FencingToken, Layer, Layered, LockOptions, MemoryDatastore, ReleaseError,
    ReleaseOutcome, Signal, Watch,
};

use super::support::{How, LONG, Odd, On, TTL, block_on, eventually, poll_boxed, poll_times};

/// A blocking store that can be closed: then its calls wait, and are counted.
#[derive(Clone)]
struct Gate {
    memory: MemoryDatastore,
    closed: Arc<AtomicBool>,
    inside: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    order: Arc<Mutex<Vec<&'static str>>>,
    call_timeout: Duration,
}

impl Gate {
    fn new(call_timeout: Duration) -> Self {
        Gate {
            memory: MemoryDatastore::new(),
            closed: Arc::default(),
            inside: Arc::default(),
            most: Arc::default(),
            order: Arc::default(),
            call_timeout,
        }
    }

    fn pass(&self, what: &'static str) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        eventually("the gate opens", || !self.closed.load(Ordering::SeqCst));
        self.order.lock().unwrap().push(what);
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }

    fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::SeqCst);
    }

    fn inside(&self) -> usize {
        self.inside.load(Ordering::SeqCst)
    }
}

impl Datastore for Gate {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
        self.pass("acquire");
        Datastore::acquire(&self.memory, claim, ttl)
    }

    fn extend(
        &self,
        lease: &dlock_core::Lease,
        ttl: Duration,
    ) -> Result<Extension, DatastoreError> {
        Datastore::extend(&self.memory, lease, ttl)
    }

    fn release(&self, lease: &dlock_core::Lease) -> Result<ReleaseOutcome, DatastoreError> {
        self.pass("release");
        Datastore::release(&self.memory, lease)
    }

    fn characteristics(&self) -> Characteristics {
        let memory = Datastore::characteristics(&self.memory);
        memory.with_call_timeout(self.call_timeout)
    }

    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        Datastore::watch(&self.memory, claim, signal)
    }
}

#[test]
fn a_blocking_store_serves_async_locks_which_wait_without_a_thread() {
    let gate = Gate::new(Duration::from_secs(20));
    let store = Store::new(Unblock::new(gate.clone()));
    let lock = Lock::new(&store, "job");
    let runtime = On::CurrentThread.runtime().unwrap();
    runtime.block_on(async {
        let holder = lock.acquire().await.unwrap();
        let waiter = || {
            let acquire = lock.acquire();
            tokio::spawn(async { acquire.await.map(drop) })
        };
        let waiters: Vec<_> = (0..200).map(|_| waiter()).collect();
        tokio::task::yield_now().await;
        holder.release().await.unwrap();
        for (number, waiter) in waiters.into_iter().enumerate() {
            if number % 2 == 0 {
                waiter.abort();
            } else {
                super::support::in_time(waiter).await.unwrap().unwrap();
            }
        }
    });
    // With the tasks that were aborted and not yet dropped.
    drop(runtime);
    assert!(gate.most.load(Ordering::SeqCst) <= 16);
    block_on(store.settled());
    eventually("all have left", || gate.memory.is_empty());
}

#[test]
fn at_most_sixteen_threads_block_and_releases_go_before_claims() {
    let gate = Gate::new(Duration::from_secs(20));
    let unblock = Unblock::new(gate.clone());
    assert!(!unblock.get_ref().closed.load(Ordering::SeqCst));
    let store = Store::new(unblock);
    let lock = |number| Lock::new(&store, format!("job {number}"));
    let guards: Vec<_> = (0..200)
        .map(|n| block_on(lock(n).try_acquire()).unwrap())
        .collect();
    gate.order.lock().unwrap().clear();
    gate.close(true);
    let mut claims: Vec<_> = (200..300)
        .map(|n| Box::pin(lock(n).try_acquire()))
        .collect();
    for claim in &mut claims {
        assert!(poll_boxed(claim, 1).is_none());
    }
    eventually("claims have their threads", || gate.inside() == 12);
    drop(guards);
    eventually("releases have the rest", || gate.inside() == 16);
    thread::sleep(Duration::from_millis(20));
    gate.close(false);
    for claim in claims {
        drop(block_on(claim).unwrap());
    }
    block_on(store.settled());
    assert_eq!(gate.most.load(Ordering::SeqCst), 16);
    let order = gate.order.lock().unwrap();
    let releases = order.iter().take(200).filter(|what| **what == "release");
    assert!(
        releases.count() > 100,
        "they did not wait behind the claims"
    );
}

#[test]
fn a_call_that_finds_no_thread_before_its_end_is_not_made() {
    let gate = Gate::new(Duration::from_millis(300));
    let store = Store::new(Unblock::new(gate.clone()));
    gate.close(true);
    let lock = |number| Lock::new(&store, format!("job {number}"));
    let mut claims: Vec<_> = (0..40).map(|n| Box::pin(lock(n).try_acquire())).collect();
    for claim in &mut claims {
        assert!(poll_boxed(claim, 1).is_none());
    }
    for claim in claims {
        let ended = block_on(claim).unwrap_err();
        assert!(!ended.is_held(), "{ended}");
    }
    assert_eq!(gate.most.load(Ordering::SeqCst) - gate.inside(), 0);
    gate.close(false);
    eventually("the calls end", || gate.inside() == 0);
    block_on(store.settled());
    let made = gate
        .order
        .lock()
        .unwrap()
        .iter()
        .filter(|what| **what == "acquire")
        .count();
    assert!(made < 40, "{made} calls were made, some after their end");
}

#[test]
fn a_panic_of_a_blocking_store_is_the_callers() {
    struct Panics;
    impl Datastore for Panics {
        fn acquire(&self, _: &Claim, _: Duration) -> Result<AcquireOutcome, DatastoreError> {
            panic!("the store panics")
        }
        fn extend(&self, _: &dlock_core::Lease, _: Duration) -> Result<Extension, DatastoreError> {
            Ok(Extension::Lost)
        }
        fn release(&self, _: &dlock_core::Lease) -> Result<ReleaseOutcome, DatastoreError> {
            Ok(ReleaseOutcome::NotHeld)
        }
        fn characteristics(&self) -> Characteristics {
            Characteristics::default().with_call_timeout(LONG)
        }
    }
    let lock = Lock::new(Unblock::new(Panics), "job");
    let acquire = thread::spawn(move || block_on(lock.try_acquire()).map(drop));
    let panic = acquire.join().unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"the store panics"));
}

#[test]
fn an_async_store_serves_blocking_locks_on_both_kinds_of_runtime() {
    for how in [How::Suspend, How::Timer] {
        let multi = On::MultiThread.runtime().unwrap();
        let current = On::CurrentThread.runtime().unwrap();
        let handles = [multi.handle().clone(), current.handle().clone()];
        let stop = Arc::new(tokio::sync::Notify::new());
        let stopped = Arc::clone(&stop);
        let driver = thread::spawn(move || current.block_on(stopped.notified()));
        for handle in handles {
            let odd = Odd::new(how);
            let store = dlock_core::Store::new(Block::new(odd.clone(), handle));
            let options = LockOptions::builder().ttl(TTL);
            let lock = dlock_core::Lock::with_options(&store, "job", options).unwrap();
            let guard = lock.try_acquire().unwrap();
            assert!(lock.try_acquire().unwrap_err().is_held());
            let waiter = thread::spawn({
                let lock = lock.clone();
                move || lock.acquire().unwrap().release()
            });
            // When it is due it has two thirds of its time left.
            let is_renewed = || odd.extends.load(Ordering::SeqCst) > 0;
            eventually("it is renewed", || {
                is_renewed() && guard.remaining() > TTL * 3 / 4
            });
            assert!(guard.is_valid());
            guard.release().unwrap();
            waiter.join().unwrap().unwrap();
            assert!(odd.memory.is_empty());
        }
        stop.notify_one();
        driver.join().unwrap();
    }
}

/// Nobody drives the runtime, or it is gone: the call ends all the same, and says so.
#[test]
fn a_runtime_that_does_nothing_is_an_error_and_not_a_hang() {
    let odd = Odd::new(How::Suspend);
    for gone in [false, true] {
        let runtime = On::CurrentThread.runtime().unwrap();
        let mut odd = odd.clone();
        odd.call_timeout = Duration::from_secs(2);
        let lock = dlock_core::Lock::new(Block::new(odd, runtime.handle().clone()), "job");
        let runtime = (!gone).then_some(runtime);
        let ended = lock.try_acquire();
        let Err(AcquireError::Datastore(error)) = ended else {
            panic!("{ended:?}");
        };
        let kind = if gone {
            ErrorKind::Refused
        } else {
            ErrorKind::Timeout
        };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.may_have_executed());
        drop(runtime);
    }
}

#[test]
fn a_panic_of_an_async_store_is_the_blocking_callers() {
    let runtime = On::MultiThread.runtime().unwrap();
    let store = Block::new(Odd::new(How::Panic), runtime.handle().clone());
    let lock = dlock_core::Lock::new(store, "job");
    let acquire = thread::spawn(move || lock.try_acquire().map(drop));
    assert!(acquire.join().is_err());
}

/// Both bridges in a row, and a store behind a box.
#[test]
fn bridges_and_boxes_change_nothing() {
    let runtime = On::MultiThread.runtime().unwrap();
    let memory = MemoryDatastore::new();
    let blocking = Block::new(memory.clone(), runtime.handle().clone());
    let boxed: Box<dyn DynAsyncDatastore> = Box::new(Unblock::new(blocking));
    let characteristics = Datastore::characteristics(&memory);
    assert_eq!(AsyncDatastore::characteristics(&boxed), characteristics);
    assert!(AsyncDatastore::is_polled_by_caller(&boxed));
    assert!(boxed.dyn_own_clock().is_some());
    let lock = Lock::new(boxed, "job");
    let guard = block_on(lock.acquire()).unwrap();
    assert!(poll_times(lock.acquire(), 1).is_none());
    let mut waiter = Box::pin(lock.acquire());
    assert!(poll_boxed(&mut waiter, 1).is_none());
    block_on(guard.release()).unwrap();
    let guard = block_on(waiter).unwrap();
    let released: Result<(), ReleaseError> = block_on(guard.release());
    released.unwrap();
}

/// A store that operators cannot look into.
struct Hidden;

impl Layer for Hidden {
    fn inspect<'a>(&'a self, _: &'a dyn Datastore) -> Option<&'a dyn dlock_core::Inspect> {
        None
    }
}

#[test]
fn operators_look_into_an_async_store_and_through_both_bridges() {
    let memory = MemoryDatastore::new();
    let runtime = On::MultiThread.runtime().unwrap();
    let blocking = |store| Block::new(store, runtime.handle().clone());
    let boxed: Box<dyn DynAsyncDatastore> = Box::new(memory.clone());
    let store = Arc::new(Unblock::new(blocking(boxed)));
    let through: &dyn DynAsyncDatastore = &store;
    let direct = AsyncDatastore::inspect(&memory).unwrap();
    let through = through.dyn_inspect().unwrap();

    let lock = dlock_core::Lock::new(memory.clone(), "job");
    let looks: [&dyn AsyncInspect; 2] = [direct, through];
    for inspect in looks {
        let holder = || block_on(inspect.holder(lock.key())).unwrap();
        assert!(holder().is_none());
        let guard = lock.try_acquire().unwrap();
        let fence = guard.fencing_token().unwrap();
        assert_eq!(holder().unwrap().fence(), Some(fence));
        assert!(block_on(inspect.holder("dlock:other")).unwrap().is_none());
        // By default a store does not check itself.
        assert!(block_on(inspect.findings()).unwrap().is_empty());

        let broken = |fence| block_on(inspect.break_lease(lock.key(), fence)).unwrap();
        let other = FencingToken::new(fence.get() + 1);
        assert_eq!(broken(other), ReleaseOutcome::NotHeld);
        assert!(holder().is_some());
        assert_eq!(broken(fence), ReleaseOutcome::Released);
        assert!(holder().is_none());
        assert!(matches!(guard.release(), Err(ReleaseError::Lost)));
    }

    let hidden = Unblock::new(Layered::new(memory, Hidden));
    assert!(AsyncDatastore::inspect(&hidden).is_none());
    assert!(Datastore::inspect(&Block::new(hidden, runtime.handle().clone())).is_none());
    let async_only = Odd::new(How::Suspend);
    assert!(AsyncDatastore::inspect(&async_only).is_none());
}
