//! The runtime on which async locks are under test, and how the suite calls them.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use dlock_core::aio::{Block, Boxed, DynAsyncDatastore, Lock, LockGuard, Unblock};
use dlock_core::{AcquireError, Datastore, OnceOutcome, ReleaseError, Wait};
use tokio::runtime;

/// Where and how the suite uses async locks.
#[derive(Clone)]
pub(crate) struct Executor {
    pub(crate) runtime: runtime::Handle,
    pub(crate) calls: Arc<dyn __AsyncCalls>,
}

/// An async store under test, and where its locks are used.
#[derive(Clone)]
pub(crate) struct AsyncHandle {
    pub(crate) store: Arc<dyn DynAsyncDatastore>,
    pub(crate) executor: Executor,
}

impl AsyncHandle {
    /// The blocking calls of the store, each a task of the runtime.
    pub(crate) fn blocking(&self) -> impl Datastore + use<> {
        Block::new(Arc::clone(&self.store), self.executor.runtime.clone())
    }

    /// A blocking store for async locks on the same runtime.
    pub(crate) fn over(self, datastore: Arc<dyn Datastore>) -> Self {
        AsyncHandle {
            store: Arc::new(Unblock::new(datastore)),
            ..self
        }
    }
}

/// The calls of the async form that the suite makes. By default they are the real ones; a test of
/// the suite breaks one of them.
#[doc(hidden)]
#[allow(missing_docs)]
pub trait __AsyncCalls: Send + Sync {
    fn acquire(&self, lock: &Lock, wait: &Wait) -> Acquired {
        Box::pin(lock.acquire_with(wait))
    }

    fn release(&self, guard: LockGuard) -> Released {
        Box::pin(guard.release())
    }

    fn drop_guard(&self, guard: LockGuard) {
        drop(guard);
    }

    fn lost<'a>(&self, guard: &'a LockGuard) -> Boxed<'a, ()> {
        Box::pin(guard.lost())
    }

    /// Runs a job under the lock; `None` if the lease was lost.
    fn locked_or_cancel<'a>(&self, lock: &'a Lock, job: Job<'a>) -> LockedOrCancel<'a> {
        Box::pin(lock.locked_or_cancel(async move |_| {
            let _ = job.await;
        }))
    }

    fn locked<'a>(&self, lock: &'a Lock, job: Job<'a>) -> Locked<'a> {
        Box::pin(lock.locked(async move |_| {
            let _ = job.await;
        }))
    }

    fn once<'a>(&self, lock: &'a Lock, keep: Duration, job: Job<'a>) -> Once<'a> {
        Box::pin(lock.once("job", keep, async move |_| job.await))
    }
}

/// A job of a case.
pub(crate) type Job<'a> = Boxed<'a, Result<(), &'static str>>;
type Acquired = Boxed<'static, Result<LockGuard, AcquireError>>;
type Released = Boxed<'static, Result<(), ReleaseError>>;
type Locked<'a> = Boxed<'a, Result<(), AcquireError>>;
type LockedOrCancel<'a> = Boxed<'a, Result<Option<()>, AcquireError>>;
pub(crate) type Once<'a> = Boxed<'a, Result<Result<OnceOutcome<()>, &'static str>, AcquireError>>;

/// The real calls.
pub(crate) struct Real;

impl __AsyncCalls for Real {}

impl Executor {
    /// Acquires in a task of the runtime, and waits for it.
    pub(crate) fn acquire(&self, lock: &Lock, wait: &Wait) -> Result<LockGuard, AcquireError> {
        let task = self.runtime.spawn(self.calls.acquire(lock, wait));
        match self.wait_for(task) {
            Ok(acquired) => acquired,
            Err(error) => resume_unwind(error.into_panic()),
        }
    }

    /// Releases on this thread: a forked child has no other.
    pub(crate) fn release(&self, guard: LockGuard) -> Result<(), ReleaseError> {
        self.wait_for(self.calls.release(guard))
    }

    /// Polls a future on this thread, in the context of the runtime, until it is ready.
    pub(crate) fn wait_for<T>(&self, future: impl Future<Output = T>) -> T {
        let _context = self.runtime.enter();
        let waker = Waker::from(Arc::new(Unparked(thread::current())));
        let mut future = pin!(future);
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(value) => return value,
                Poll::Pending => thread::park(),
            }
        }
    }
}

/// Wakes a thread.
struct Unparked(Thread);

impl Wake for Unparked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
