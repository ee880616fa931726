//! A lock by its name.

use std::process;
use std::sync::Arc;
use std::time::Duration;

use crate::drive::{self, Request};
use crate::holder::Phase;
use crate::options::OptionsError;
use crate::terms::Terms;
use crate::{AcquireError, Datastore, Holder, LockEvent, LockGuard, LockOptions, Store, Wait, key};

/// A lock: a name in a store. Making one does no I/O and holds nothing; [`try_acquire`](Self::try_acquire) and its siblings do.
///
/// Not re-entrant: a second acquire by the same process is refused, and the refusal says "held by this process". There is no
/// `is_locked`: the answer would be stale when it is read. Who needs to know tries to acquire.
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
    id: String,
    key: Arc<str>,
    options: LockOptions,
    /// Why nothing can be acquired: shown by the first acquire, since [`Lock::new`] has no error.
    invalid: Option<OptionsError>,
}

impl Lock {
    /// The lock `id` in `store`, with [default options](LockOptions::default).
    ///
    /// An empty id, or a store that cannot keep the default 30 s, shows as [`AcquireError::Invalid`] when the lock is to be acquired.
    pub fn new(store: impl Into<Store>, id: impl Into<String>) -> Self {
        Self::unchecked(store.into(), id.into(), LockOptions::default())
    }

    /// The lock `id` in `store`, with options.
    ///
    /// ```
    /// use dlock_core::{Lock, LockOptions, MemoryDatastore};
    /// use std::time::Duration;
    ///
    /// let options = LockOptions::default().with_ttl(Duration::from_secs(60)).with_key_prefix("billing");
    /// let lock = Lock::with_options(MemoryDatastore::new(), "payout", options)?;
    /// assert_eq!(lock.key(), "billing:payout");
    /// # Ok::<(), dlock_core::OptionsError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// An empty id, options that contradict each other, or that this store cannot keep.
    pub fn with_options(
        store: impl Into<Store>,
        id: impl Into<String>,
        options: LockOptions,
    ) -> Result<Self, OptionsError> {
        let lock = Self::unchecked(store.into(), id.into(), options);
        match lock.invalid {
            Some(error) => Err(error),
            None => Ok(lock),
        }
    }

    fn unchecked(store: Store, id: String, options: LockOptions) -> Self {
        let characteristics = store.characteristics();
        let invalid = match id.is_empty() {
            true => Some(OptionsError::Empty {
                what: "the lock's id",
            }),
            false => options.validate_for(characteristics).err(),
        };
        let key = key::lock_key(&options.key_prefix, &id, characteristics.max_key).into();
        Lock {
            store,
            id,
            key,
            options,
            invalid,
        }
    }

    /// The id that the lock was made with.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The key in the store: `prefix:id`. Characters that some store cannot take are percent-encoded, and a name that is too long
    /// is shortened with a hash.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The options.
    pub fn options(&self) -> &LockOptions {
        &self.options
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The datastore inside the store.
    pub fn datastore(&self) -> &dyn Datastore {
        &*self.store
    }

    /// Tries once.
    ///
    /// # Errors
    ///
    /// [`AcquireError::Held`] if somebody else holds the lock; the other kinds if the store cannot tell.
    pub fn try_acquire(&self) -> Result<LockGuard, AcquireError> {
        self.acquire_with(&Wait::none())
    }

    /// Waits until the lock is free.
    ///
    /// # Errors
    ///
    /// When the store fails in a way that waiting does not mend. A store that cannot be reached is waited for.
    pub fn acquire(&self) -> Result<LockGuard, AcquireError> {
        self.acquire_with(&Wait::forever())
    }

    /// Waits at most `timeout`; zero is [`try_acquire`](Self::try_acquire).
    ///
    /// # Errors
    ///
    /// [`AcquireError::Held`] if somebody else held the lock until the end; [`AcquireError::Datastore`] if the store could not be reached
    /// at the end.
    pub fn acquire_within(&self, timeout: Duration) -> Result<LockGuard, AcquireError> {
        self.acquire_with(&Wait::within(timeout))
    }

    /// Waits as `wait` says.
    ///
    /// # Errors
    ///
    /// As the other forms, and [`AcquireError::Cancelled`].
    pub fn acquire_with(&self, wait: &Wait) -> Result<LockGuard, AcquireError> {
        let call_timeout = self.store.characteristics().call_timeout;
        self.acquire_until(wait, wait.deadline(self.store.clock().now(), call_timeout))
    }

    pub(crate) fn acquire_until(
        &self,
        wait: &Wait,
        deadline: crate::Time,
    ) -> Result<LockGuard, AcquireError> {
        if let Some(error) = &self.invalid {
            return Err(error.clone().into());
        }
        let terms = Terms::new(&self.options, self.store.characteristics());
        let pid = process::id();
        let request = Request {
            pid,
            key: &self.key,
            ttl: terms.first_ttl(),
            holder: self.holder(pid, Phase::Running).into(),
            retry: self.options.retry,
            until_done: false,
        };
        let won = drive::acquire(&self.store, &request, wait, deadline)?;
        let guard = LockGuard::keep(&self.store, won, terms)?;
        self.store.tell(&LockEvent::Acquired {
            key: &self.key,
            fence: guard.fencing_token(),
        });
        Ok(guard)
    }

    /// Tries once, runs `f`, releases: on return, on `Err`, on panic.
    ///
    /// What `f` returns is returned as it is: for a closure that can fail write `lock.locked(|_| import())??`. A release that
    /// fails does not change it but is told to the store's [`Observer`](crate::Observer).
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire); `f` was not called then.
    pub fn locked<R>(&self, f: impl FnOnce(&LockGuard) -> R) -> Result<R, AcquireError> {
        self.locked_with(&Wait::none(), f)
    }

    /// As [`locked`](Self::locked), waiting at most `timeout` for the lock.
    ///
    /// # Errors
    ///
    /// As [`acquire_within`](Self::acquire_within); `f` was not called then.
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
    /// As [`acquire_with`](Self::acquire_with); `f` was not called then.
    pub fn locked_with<R>(
        &self,
        wait: &Wait,
        f: impl FnOnce(&LockGuard) -> R,
    ) -> Result<R, AcquireError> {
        let guard = self.acquire_with(wait)?;
        Ok(f(&guard))
    }

    pub(crate) fn holder(&self, pid: u32, phase: Phase) -> String {
        Holder::text_of_this_process(pid, self.options.label.as_deref(), phase)
    }
}
