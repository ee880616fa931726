//! A lock by its name.

use std::time::Duration;

use crate::ProcessId;
use crate::acquire_error::AcquireError;
use crate::contract::datastore::Datastore;
use crate::engine::lease_policy::LeasePolicy;
use crate::guard::LockGuard;
use crate::named::Named;
use crate::options::{LockOptions, LockOptionsBuilder, OptionsError};
use crate::store::Store;
use crate::time::wait::Wait;

/// A lock: a name in a store. Creating the value does no I/O and takes no lock;
/// [`try_acquire`](Self::try_acquire) and its siblings do.
///
/// - Not re-entrant: a second acquire by the same process is refused, and the error says "held by
///   this process".
/// - A process that is killed by SIGTERM runs no destructors: its locks stay taken until their
///   leases end, 30 s by default.
/// - There is no `is_locked`: the answer would be stale by the time it is read. To know, try to
///   acquire.
///
/// ```
/// use dlock_core::{AcquireError, Lock, MemoryDatastore};
/// use std::time::Duration;
///
/// let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
///
/// // Try once, run, release, also on panic.
/// let rows = lock.locked(|_guard| 42)?;
/// assert_eq!(rows, 42);
///
/// // A closure that can fail keeps its own error.
/// let rows = lock.locked_within(Duration::from_secs(30), |guard| {
///     println!("fencing token: {:?}", guard.fencing_token());
///     "42".parse::<u32>()
/// })??;
///
/// // Or hold a guard.
/// match lock.try_acquire() {
///     Ok(guard) => guard.release()?,
///     Err(AcquireError::Held(held)) => eprintln!("skipped: {held}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Lock {
    pub(crate) store: Store,
    pub(crate) named: Named,
}

impl Lock {
    /// The lock `id` in `store`, with [default options](LockOptions::default).
    ///
    /// # Panics
    ///
    /// If the id is empty: all locks without a name would be one. For an id that comes from outside
    /// use [`with_options`](Self::with_options), which returns an error.
    #[track_caller]
    pub fn new(store: impl Into<Store>, id: impl Into<String>) -> Self {
        let store = store.into();
        let named = Named::new(id, store.characteristics());
        Lock { store, named }
    }

    /// The lock `id` in `store`, with options: built ones, or a builder.
    ///
    /// ```
    /// use dlock_core::{Lock, LockOptions, MemoryDatastore};
    /// use std::time::Duration;
    ///
    /// let options = LockOptions::builder().key_prefix("billing").ttl(Duration::from_secs(60));
    /// let lock = Lock::with_options(MemoryDatastore::new(), "payout", options)?;
    /// assert_eq!(lock.key(), "billing:payout");
    /// # Ok::<(), dlock_core::OptionsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the id is empty, the options contradict each other, or this store cannot keep them.
    pub fn with_options(
        store: impl Into<Store>,
        id: impl Into<String>,
        options: impl Into<LockOptionsBuilder>,
    ) -> Result<Self, OptionsError> {
        let store = store.into();
        let named = Named::with_options(id, options, store.characteristics())?;
        Ok(Lock { store, named })
    }

    /// The id that the lock was made with.
    pub fn id(&self) -> &str {
        &self.named.id
    }

    /// The key in the store: `prefix:id`. Characters that some stores cannot take are
    /// percent-encoded, and a name that is too long is shortened with a hash.
    pub fn key(&self) -> &str {
        &self.named.key
    }

    /// The options, with a [`ttl`](LockOptions::ttl) that the store can keep.
    pub fn options(&self) -> &LockOptions {
        &self.named.options
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The datastore inside the store.
    pub fn datastore(&self) -> &dyn Datastore {
        self.store.datastore()
    }

    /// Tries once.
    ///
    /// # Errors
    ///
    /// [`AcquireError::Held`] if somebody else holds the lock; another variant if the store cannot
    /// answer.
    pub fn try_acquire(&self) -> Result<LockGuard, AcquireError> {
        self.acquire_with(&Wait::none())
    }

    /// Waits until the lock is free.
    ///
    /// # Errors
    ///
    /// Only permanent failures; an unreachable store is retried until it comes back.
    pub fn acquire(&self) -> Result<LockGuard, AcquireError> {
        self.acquire_with(&Wait::forever())
    }

    /// Waits at most `timeout`; zero is [`try_acquire`](Self::try_acquire).
    ///
    /// # Errors
    ///
    /// [`AcquireError::Held`] if somebody else still holds the lock after `timeout`;
    /// [`AcquireError::Datastore`] if the store cannot be reached by then.
    pub fn acquire_within(&self, timeout: Duration) -> Result<LockGuard, AcquireError> {
        self.acquire_with(&Wait::within(timeout))
    }

    /// Waits as `wait` says.
    ///
    /// # Errors
    ///
    /// The same as the other forms, and [`AcquireError::Cancelled`].
    pub fn acquire_with(&self, wait: &Wait) -> Result<LockGuard, AcquireError> {
        let call_timeout = self.store.characteristics().call_timeout;
        self.acquire_until(wait, wait.deadline(self.store.clock().now(), call_timeout))
    }

    pub(crate) fn acquire_until(
        &self,
        wait: &Wait,
        deadline: crate::time::instant::Time,
    ) -> Result<LockGuard, AcquireError> {
        let policy = LeasePolicy::new(&self.named.options, self.store.characteristics());
        let request = self.named.request(ProcessId::current(), &policy);
        LockGuard::acquire(&self.store, &request, wait, deadline, policy)
    }

    /// Tries once to acquire, runs `f`, and releases: when `f` returns and when it panics.
    ///
    /// The value of `f` is returned unchanged, so a closure that can fail is written
    /// `lock.locked(|_| import())??`. A failed release does not change that value; the store's
    /// [`Observer`](crate::Observer) receives the error.
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire). If it fails, `f` was not called.
    pub fn locked<R>(&self, f: impl FnOnce(&LockGuard) -> R) -> Result<R, AcquireError> {
        self.locked_with(&Wait::none(), f)
    }

    /// As [`locked`](Self::locked), waiting at most `timeout` for the lock.
    ///
    /// # Errors
    ///
    /// As [`acquire_within`](Self::acquire_within). If it fails, `f` was not called.
    pub fn locked_within<R>(
        &self,
        timeout: Duration,
        f: impl FnOnce(&LockGuard) -> R,
    ) -> Result<R, AcquireError> {
        self.locked_with(&Wait::within(timeout), f)
    }

    /// As [`locked`](Self::locked), waiting as `wait` says.
    ///
    /// # Errors
    ///
    /// As [`acquire_with`](Self::acquire_with). If it fails, `f` was not called.
    pub fn locked_with<R>(
        &self,
        wait: &Wait,
        f: impl FnOnce(&LockGuard) -> R,
    ) -> Result<R, AcquireError> {
        let guard = self.acquire_with(wait)?;
        Ok(f(&guard))
    }
}
