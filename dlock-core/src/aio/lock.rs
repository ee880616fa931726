//! An async lock by its name.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::boxed::DynAsyncDatastore;
use super::continued::{Continued, OnDrop};
use super::guard::LockGuard;
use super::store::Store;
use crate::ProcessId;
use crate::acquire_error::AcquireError;
use crate::engine::acquire;
use crate::engine::hold::{Caller, Holding};
use crate::engine::lease_policy::LeasePolicy;
use crate::engine::run_once::Guard;
use crate::named::Named;
use crate::options::{LockOptions, LockOptionsBuilder, OptionsError};
use crate::time::instant::Time;
use crate::time::wait::{Cancel, Wait};
use crate::trace::AcquireSpan;

/// A lock for async code: a name in a store. Making one does no I/O and holds nothing;
/// [`try_acquire`](Self::try_acquire) and its siblings do. Clones are the same lock.
///
/// Names, options, errors and meaning are those of the [blocking form](crate::Lock); the two forms
/// exclude each other on one store. What is different: a wait costs no thread, and **each future
/// may be dropped at any time**, by `select!`, a timeout, or a runtime that shuts down. What it had
/// begun goes on in the background, on a thread of dlock, until nothing is left of it: no key is
/// held, no place in a queue is kept. The next acquire of the lock in this store waits for that, at
/// most for the time of one call.
///
/// Nothing happens before a future is polled. No runtime of tokio is needed: the futures work in
/// every executor. In a forked child an inherited future fails, with an error of kind
/// [`Unsupported`](crate::ErrorKind::Unsupported): the child acquires anew.
///
/// ```
/// use dlock_core::aio::Lock;
/// use dlock_core::{AcquireError, MemoryDatastore};
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
///
/// // Try once, run, release.
/// let rows = lock.locked(async |_guard| 42).await?;
/// assert_eq!(rows, 42);
///
/// // A closure that can fail keeps its own error.
/// let rows = lock.locked_within(Duration::from_secs(30), async |guard| {
///     println!("fencing token: {:?}", guard.fencing_token());
///     "42".parse::<u32>()
/// });
/// assert_eq!(rows.await??, 42);
///
/// // Or hold a guard.
/// match lock.try_acquire().await {
///     Ok(guard) => guard.release().await?,
///     Err(AcquireError::Held(held)) => eprintln!("skipped: {held}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Lock(Arc<InStore>);

/// A name in a store.
pub(super) struct InStore {
    pub(super) store: Store,
    pub(super) named: Named,
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
        Lock(Arc::new(InStore { store, named }))
    }

    /// The lock `id` in `store`, with options: built ones, or a builder.
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
        Ok(Lock(Arc::new(InStore { store, named })))
    }

    /// The id that the lock was made with.
    pub fn id(&self) -> &str {
        &self.0.named.id
    }

    /// The key in the store: `prefix:id`. Characters that some store cannot take are
    /// percent-encoded, and a name that is too long is shortened with a hash.
    pub fn key(&self) -> &str {
        &self.0.named.key
    }

    /// The key of the mark that says that `job` was done, see [`once`](Self::once). Operators look
    /// at it, and free it so that the job runs again, by [`AsyncInspect`](super::AsyncInspect).
    pub fn once_key(&self, job: &str) -> String {
        let InStore { store, named } = &*self.0;
        named.once_key(job, store.characteristics())
    }

    /// The options.
    pub fn options(&self) -> &LockOptions {
        &self.0.named.options
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The datastore inside the store.
    pub fn datastore(&self) -> &dyn DynAsyncDatastore {
        self.0.store.datastore()
    }

    /// Tries once.
    ///
    /// # Errors
    ///
    /// [`AcquireError::Held`] if somebody else holds the lock; another variant if the store cannot
    /// answer.
    pub fn try_acquire(&self) -> Acquire {
        self.acquire_with(&Wait::none())
    }

    /// Waits until the lock is free.
    ///
    /// The future is `Unpin` and borrows nothing: a `select!` in a loop can poll `&mut acquire` and
    /// keep its place in the queue.
    ///
    /// # Errors
    ///
    /// When the store fails in a way that waiting does not mend. A store that cannot be reached is
    /// waited for.
    pub fn acquire(&self) -> Acquire {
        self.acquire_with(&Wait::forever())
    }

    /// Waits at most `timeout`, from the first poll on; zero is [`try_acquire`](Self::try_acquire).
    ///
    /// Unlike a timeout around [`acquire`](Self::acquire), its error names the holder.
    ///
    /// # Errors
    ///
    /// [`AcquireError::Held`] if somebody else held the lock until the end;
    /// [`AcquireError::Datastore`] if the store could not be reached at the end.
    pub fn acquire_within(&self, timeout: Duration) -> Acquire {
        self.acquire_with(&Wait::within(timeout))
    }

    /// Waits as `wait` says, from the first poll on.
    ///
    /// # Errors
    ///
    /// As the other forms, and [`AcquireError::Cancelled`].
    pub fn acquire_with(&self, wait: &Wait) -> Acquire {
        let dropped = Cancel::new();
        let wait = wait.clone().ended_by_drop(&dropped);
        let flow = acquired(Arc::clone(&self.0), wait);
        let on_drop = OnDrop::Cancel {
            dropped,
            begun: false,
        };
        Acquire(Continued::new(
            &self.0.store,
            &self.0.named.key,
            on_drop,
            flow,
        ))
    }

    /// Tries once, runs `f`, releases: on return, on `Err`, on panic, and when the future is
    /// dropped.
    ///
    /// What `f` returns is returned as it is: for a closure that can fail write
    /// `lock.locked(async |_| import().await).await??`. A release that fails does not change it but
    /// is reported to the store's [`Observer`](crate::Observer).
    ///
    /// `f` goes on when the lease is lost. Where that must not be see
    /// [`locked_or_cancel`](Self::locked_or_cancel). Which closures compile says
    /// [`closures`](super::closures).
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire); `f` was not called then.
    pub async fn locked<R>(&self, f: impl AsyncFnOnce(&LockGuard) -> R) -> Result<R, AcquireError> {
        under(self.try_acquire(), f).await
    }

    /// As [`locked`](Self::locked), waiting at most `timeout` for the lock.
    ///
    /// # Errors
    ///
    /// As [`acquire_within`](Self::acquire_within); `f` was not called then.
    pub async fn locked_within<R>(
        &self,
        timeout: Duration,
        f: impl AsyncFnOnce(&LockGuard) -> R,
    ) -> Result<R, AcquireError> {
        under(self.acquire_within(timeout), f).await
    }

    /// As [`locked`](Self::locked), waiting as `wait` says.
    ///
    /// # Errors
    ///
    /// As [`acquire_with`](Self::acquire_with); `f` was not called then.
    pub async fn locked_with<R>(
        &self,
        wait: &Wait,
        f: impl AsyncFnOnce(&LockGuard) -> R,
    ) -> Result<R, AcquireError> {
        under(self.acquire_with(wait), f).await
    }

    /// As [`locked`](Self::locked), and drops the future of `f` where it stands when the lease is
    /// lost; then the answer is `None`.
    ///
    /// ```
    /// # use dlock_core::{MemoryDatastore, aio::Lock};
    /// # async fn import() -> u32 { 42 }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let lock = Lock::new(MemoryDatastore::new(), "hourly-import");
    /// match lock.locked_or_cancel(async |_guard| import().await).await? {
    ///     Some(rows) => println!("imported {rows} rows"),
    ///     None => eprintln!("lost the lock, stopped the import"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`try_acquire`](Self::try_acquire); `f` was not called then.
    pub async fn locked_or_cancel<R>(
        &self,
        f: impl AsyncFnOnce(&LockGuard) -> R,
    ) -> Result<Option<R>, AcquireError> {
        under(self.try_acquire(), async |guard| until_lost(guard, f).await).await
    }

    /// As [`locked_or_cancel`](Self::locked_or_cancel), waiting for the lock as `wait` says.
    ///
    /// # Errors
    ///
    /// As [`acquire_with`](Self::acquire_with); `f` was not called then.
    pub async fn locked_or_cancel_with<R>(
        &self,
        wait: &Wait,
        f: impl AsyncFnOnce(&LockGuard) -> R,
    ) -> Result<Option<R>, AcquireError> {
        let acquire = self.acquire_with(wait);
        under(acquire, async |guard| until_lost(guard, f).await).await
    }

    pub(super) fn in_store(&self) -> &Arc<InStore> {
        &self.0
    }
}

/// Runs `f` under the lock, and releases it.
async fn under<R>(
    acquire: Acquire,
    f: impl AsyncFnOnce(&LockGuard) -> R,
) -> Result<R, AcquireError> {
    let guard = acquire.await?;
    let result = f(&guard).await;
    let _ = guard.end(Caller::Drops).await;
    Ok(result)
}

/// Runs `f` until it ends or the lease is lost.
async fn until_lost<R>(guard: &LockGuard, f: impl AsyncFnOnce(&LockGuard) -> R) -> Option<R> {
    let mut running = pin!(f(guard));
    let mut lost = pin!(guard.lost());
    poll_fn(|context| {
        if lost.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        running.as_mut().poll(context).map(Some)
    })
    .await
}

/// Acquires the lock, unless the future is dropped: then what was won is given back.
#[expect(
    clippy::manual_async_fn,
    reason = "such a future has room for each argument twice"
)]
fn acquired(
    lock: Arc<InStore>,
    wait: Wait,
) -> impl Future<Output = Result<LockGuard, AcquireError>> + Send {
    async move {
        let (store, key) = (&lock.store, &lock.named.key);
        let span = AcquireSpan::new(store.name(), key, store.clock());
        let start = Holding::start(store);
        let acquired = {
            let mut flow = pin!(lock.acquire(&wait, start));
            poll_fn(|context| span.in_scope(|| flow.as_mut().poll(context))).await
        };
        // Named anew: what is used before and after is part of the future meanwhile.
        let (store, key) = (&lock.store, &lock.named.key);
        match acquired {
            Ok(holding) => {
                span.end(Ok(holding.held().fence()));
                Ok(LockGuard::around(store, holding))
            }
            Err(error) => {
                span.end(Err(&error));
                Holding::not_acquired(store, start, key, &error);
                Err(error)
            }
        }
    }
}

impl InStore {
    #[expect(
        clippy::manual_async_fn,
        reason = "such a future has room for each argument twice"
    )]
    fn acquire<'a>(
        &'a self,
        wait: &'a Wait,
        start: Option<Time>,
    ) -> impl Future<Output = Result<Holding, AcquireError>> + Send + 'a {
        async move {
            let deadline = self.begin(wait, &self.named.key).await?;
            let request = self.named.request(ProcessId::current(), &self.policy());
            let won = acquire::acquire(&self.store, &request, wait, deadline).await?;
            let store = &self.store;
            let mut holding = Holding::new(won, self.policy());
            if wait.was_dropped() {
                Box::pin(holding.give_back(store)).await;
                return Err(AcquireError::Cancelled);
            }
            holding.keep(store, start).await?;
            Ok(holding)
        }
    }

    /// Made where it is used, since it would be a part of the future in between.
    fn policy(&self) -> LeasePolicy {
        LeasePolicy::new(&self.named.options, self.store.characteristics())
    }

    /// Starts what the store needs, and waits for what was dropped before and still goes on about
    /// `key`, for one call at most. Returns when the wait ends.
    pub(super) async fn begin(&self, wait: &Wait, key: &str) -> Result<Time, AcquireError> {
        let store = &self.store;
        let background = store.start()?;
        let (clock, call_timeout) = (store.clock(), store.characteristics().call_timeout);
        let now = clock.now();
        let end = wait.deadline(now, call_timeout);
        let pending = background.pending();
        if pending.is_nothing() {
            return Ok(end);
        }
        // At most half of the wait: a short wait must leave time for a claim.
        let most = match wait.waits() {
            true => call_timeout.min(now.until(end) / 2),
            false => call_timeout,
        };
        let most = now.saturating_add(most);
        // In a box: it is rarely needed, and would be a part of the future of each acquire.
        Box::pin(pending.over(key, background.keeper(), wait, most)).await;
        Ok(match wait.waits() {
            true => end,
            false => wait.deadline(clock.now(), call_timeout),
        })
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("store", &self.0.store)
            .field("id", &self.0.named.id)
            .field("key", &self.0.named.key)
            .field("options", &self.0.named.options)
            .finish_non_exhaustive()
    }
}

/// The future of [`Lock::acquire`] and its siblings. It may be dropped at any time: what it had
/// begun is undone in the background.
#[must_use = "nothing happens before it is polled"]
pub struct Acquire(Continued<Result<LockGuard, AcquireError>>);

impl Future for Acquire {
    type Output = Result<LockGuard, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl fmt::Debug for Acquire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquire").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
