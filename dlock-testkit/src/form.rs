//! The two forms of a lock, blocking and async, behind one set of names: the text of a case drives
//! both.
//!
//! In the async form an acquire is a task of the runtime under test, and a release is polled by the
//! thread of the case. Both are waited for.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{
    AcquireError, Datastore, FencingToken, Layer, Layered, LockEvent, LockOptionsBuilder,
    OnceOutcome, OptionsError, ReleaseError, Wait,
};

#[cfg(feature = "tokio")]
use crate::executor::{AsyncHandle, Executor};

/// A handle of the store under test. Calls on it block, in both forms.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) datastore: Arc<dyn Datastore>,
    /// The same store for async locks, if they are under test.
    #[cfg(feature = "tokio")]
    pub(crate) asynchronous: Option<AsyncHandle>,
}

impl Handle {
    pub(crate) fn blocking(datastore: Arc<dyn Datastore>) -> Self {
        Handle {
            datastore,
            #[cfg(feature = "tokio")]
            asynchronous: None,
        }
    }

    /// An async store.
    #[cfg(feature = "tokio")]
    pub(crate) fn asynchronous(asynchronous: AsyncHandle) -> Self {
        Handle {
            datastore: Arc::new(asynchronous.blocking()),
            asynchronous: Some(asynchronous),
        }
    }

    /// This store behind a layer, in the same form.
    pub(crate) fn behind(self, layer: impl Layer + 'static) -> Self {
        let datastore: Arc<dyn Datastore> = Arc::new(Layered::new(self.datastore, layer));
        Handle {
            #[cfg(feature = "tokio")]
            asynchronous: self
                .asynchronous
                .map(|asynchronous| asynchronous.over(Arc::clone(&datastore))),
            datastore,
        }
    }
}

impl Deref for Handle {
    type Target = dyn Datastore;

    fn deref(&self) -> &Self::Target {
        &*self.datastore
    }
}

/// A store in use.
#[derive(Clone)]
pub(crate) enum Store {
    Blocking(dlock_core::Store),
    #[cfg(feature = "tokio")]
    Async(dlock_core::aio::Store, Executor),
}

impl Store {
    pub(crate) fn new(handle: Handle) -> Self {
        Self::observed(handle, |_| {})
    }

    pub(crate) fn observed(
        handle: Handle,
        observer: impl Fn(&LockEvent<'_>) + Send + Sync + 'static,
    ) -> Self {
        #[cfg(feature = "tokio")]
        if let Some(AsyncHandle { store, executor }) = handle.asynchronous {
            let store = dlock_core::aio::Store::builder(store).observer(observer);
            return Store::Async(store.build(), executor);
        }
        let store = dlock_core::Store::builder(handle.datastore).observer(observer);
        Store::Blocking(store.build())
    }
}

/// A lock.
#[derive(Clone)]
pub(crate) enum Lock {
    Blocking(dlock_core::Lock),
    #[cfg(feature = "tokio")]
    Async(dlock_core::aio::Lock, Executor),
}

impl Lock {
    pub(crate) fn with_options(
        store: &Store,
        id: &str,
        options: LockOptionsBuilder,
    ) -> Result<Self, OptionsError> {
        Ok(match store {
            Store::Blocking(store) => {
                Lock::Blocking(dlock_core::Lock::with_options(store, id, options)?)
            }
            #[cfg(feature = "tokio")]
            Store::Async(store, executor) => {
                let lock = dlock_core::aio::Lock::with_options(store, id, options)?;
                Lock::Async(lock, executor.clone())
            }
        })
    }

    pub(crate) fn key(&self) -> &str {
        match self {
            Lock::Blocking(lock) => lock.key(),
            #[cfg(feature = "tokio")]
            Lock::Async(lock, _) => lock.key(),
        }
    }

    pub(crate) fn try_acquire(&self) -> Result<LockGuard, AcquireError> {
        self.acquire_with(&Wait::none())
    }

    pub(crate) fn acquire_within(&self, timeout: Duration) -> Result<LockGuard, AcquireError> {
        self.acquire_with(&Wait::within(timeout))
    }

    pub(crate) fn acquire_with(&self, wait: &Wait) -> Result<LockGuard, AcquireError> {
        let inner = match self {
            Lock::Blocking(lock) => Inner::Blocking(lock.acquire_with(wait)?),
            #[cfg(feature = "tokio")]
            Lock::Async(lock, executor) => {
                let guard = executor.acquire(lock, wait)?;
                Inner::Async(guard, lock.store().clone(), executor.clone())
            }
        };
        Ok(LockGuard(Some(inner)))
    }

    pub(crate) fn once<T, E>(
        &self,
        job: &str,
        keep: Duration,
        f: impl FnOnce(&dyn Guarded) -> Result<T, E>,
    ) -> Result<Result<OnceOutcome<T>, E>, AcquireError> {
        self.once_with(&Wait::none(), job, keep, f)
    }

    pub(crate) fn once_with<T, E>(
        &self,
        wait: &Wait,
        job: &str,
        keep: Duration,
        f: impl FnOnce(&dyn Guarded) -> Result<T, E>,
    ) -> Result<Result<OnceOutcome<T>, E>, AcquireError> {
        match self {
            Lock::Blocking(lock) => lock.once_with(wait, job, keep, |guard| f(guard)),
            #[cfg(feature = "tokio")]
            Lock::Async(lock, executor) => {
                executor.wait_for(lock.once_with(wait, job, keep, async |guard| f(guard)))
            }
        }
    }
}

/// What a job may ask of the guard that it runs under.
pub(crate) trait Guarded {
    fn is_valid(&self) -> bool;
}

impl Guarded for dlock_core::LockGuard {
    fn is_valid(&self) -> bool {
        self.is_valid()
    }
}

#[cfg(feature = "tokio")]
impl Guarded for dlock_core::aio::LockGuard {
    fn is_valid(&self) -> bool {
        self.is_valid()
    }
}

/// Holds a lock. Dropping it returns when the release is over, in both forms.
pub(crate) struct LockGuard(Option<Inner>);

enum Inner {
    Blocking(dlock_core::LockGuard),
    #[cfg(feature = "tokio")]
    Async(dlock_core::aio::LockGuard, dlock_core::aio::Store, Executor),
}

impl LockGuard {
    pub(crate) fn fencing_token(&self) -> Option<FencingToken> {
        match self.inner() {
            Inner::Blocking(guard) => guard.fencing_token(),
            #[cfg(feature = "tokio")]
            Inner::Async(guard, ..) => guard.fencing_token(),
        }
    }

    pub(crate) fn is_valid(&self) -> bool {
        match self.inner() {
            Inner::Blocking(guard) => guard.is_valid(),
            #[cfg(feature = "tokio")]
            Inner::Async(guard, ..) => guard.is_valid(),
        }
    }

    pub(crate) fn on_lost(&self, callback: impl FnOnce() + Send + 'static) {
        match self.inner() {
            Inner::Blocking(guard) => guard.on_lost(callback),
            #[cfg(feature = "tokio")]
            Inner::Async(guard, ..) => guard.on_lost(callback),
        }
    }

    pub(crate) fn release(mut self) -> Result<(), ReleaseError> {
        match self.0.take() {
            Some(Inner::Blocking(guard)) => guard.release(),
            #[cfg(feature = "tokio")]
            Some(Inner::Async(guard, _, executor)) => executor.release(guard),
            None => Ok(()),
        }
    }

    fn inner(&self) -> &Inner {
        self.0
            .as_ref()
            .expect("it is there until the guard is released")
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        match self.0.take() {
            Some(Inner::Blocking(guard)) => drop(guard),
            #[cfg(feature = "tokio")]
            Some(Inner::Async(guard, store, executor)) => {
                executor.calls.drop_guard(guard);
                executor.wait_for(store.settled());
            }
            None => {}
        }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockGuard")
    }
}
