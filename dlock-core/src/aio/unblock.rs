//! A blocking store for async locks.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::datastore::AsyncDatastore;
use super::future::Boxed;
use super::inspect::{AsyncInspect, not_inspectable};
use super::threads::{Kind, Threads};
use crate::ProcessId;
use crate::contract::characteristics::Characteristics;
use crate::contract::claim::Claim;
use crate::contract::datastore::{Datastore, Watch};
use crate::contract::error::{DatastoreError, ErrorKind};
use crate::contract::finding::Finding;
use crate::contract::grant::FencingToken;
use crate::contract::inspect::{HeldPage, Inspect, PageMark};
use crate::contract::lease::Lease;
use crate::contract::outcome::{AcquireOutcome, Extension, HeldBy, ReleaseOutcome};
use crate::store::PerProcess;
use crate::time::clock::Clock;
use crate::time::instant::Time;
use crate::time::signal::Signal;

/// A blocking [`Datastore`] as an [`AsyncDatastore`]: its calls run on threads of their own, at
/// most sixteen for each `Unblock`. They start with the calls and end when there are none.
///
/// A wait for a lock takes up no thread. When all threads are busy, releases and renewals go before
/// claims; a call that finds no thread before its end is not made.
///
/// A call that has begun runs to its end, also if its future is dropped.
///
/// ```
/// use dlock_core::MemoryDatastore; // or FileDatastore from its crate
/// use dlock_core::aio::{Lock, Unblock};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), dlock_core::AcquireError> {
/// let store = Unblock::new(MemoryDatastore::new());
/// let rows = Lock::new(store, "hourly-import").locked(async |_guard| 42).await?;
/// # assert_eq!(rows, 42);
/// # Ok(())
/// # }
/// ```
pub struct Unblock<D> {
    inner: Arc<Inner<D>>,
}

struct Inner<D> {
    store: D,
    threads: PerProcess<Threads>,
}

impl<D: Datastore + 'static> Unblock<D> {
    /// The store as an async one. Starts no thread yet.
    pub fn new(store: D) -> Self {
        let threads = PerProcess::new(Threads::new());
        Unblock {
            inner: Arc::new(Inner { store, threads }),
        }
    }

    /// The blocking store.
    pub fn get_ref(&self) -> &D {
        &self.inner.store
    }

    /// Runs a call on a thread.
    async fn call<T: Send + 'static>(
        &self,
        kind: Kind,
        clock: &Clock,
        not_after: Time,
        call: impl FnOnce(&D) -> Result<T, DatastoreError> + Send + 'static,
    ) -> Result<T, DatastoreError> {
        let (sender, answer) = oneshot::channel();
        let (inner, clock) = (Arc::clone(&self.inner), clock.clone());
        let job = move || {
            if sender.is_closed() {
                // The caller has given the call up, and takes it for one that may have been made.
                return;
            }
            let answer = if clock.now() < not_after {
                catch_unwind(AssertUnwindSafe(|| call(&inner.store)))
            } else {
                Ok(Err(late()))
            };
            let _ = sender.send(answer);
        };
        let started = self.inner.threads().run(kind, job);
        started.map_err(|error| DatastoreError::not_executed(ErrorKind::Refused, error))?;
        match answer.await {
            Ok(answer) => answer.unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => Err(late().with_execution(true)),
        }
    }

    /// The same for a batch.
    async fn call_many<L: Clone + Send + 'static>(
        &self,
        leases: &[L],
        of: impl Fn(&L) -> &Lease,
        call: impl FnOnce(&D, &[L]) -> Vec<Result<Extension, DatastoreError>> + Send + 'static,
    ) -> Vec<Result<Extension, DatastoreError>> {
        let Some(first) = leases.first().map(&of) else {
            return Vec::new();
        };
        let ends = leases.iter().map(|lease| of(lease).not_after());
        let not_after = ends.max().unwrap_or(first.not_after());
        let args = leases.to_vec();
        let call = move |store: &D| Ok(call(store, &args));
        let answers = self
            .call(Kind::Urgent, first.clock(), not_after, call)
            .await;
        answers.unwrap_or_else(|error| leases.iter().map(|_| Err(error.clone())).collect())
    }
}

impl<D: Datastore + 'static> Unblock<D> {
    /// Runs a call of an operator.
    async fn look<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Inspect) -> Result<T, DatastoreError> + Send + 'static,
    ) -> Result<T, DatastoreError> {
        let store = &self.inner.store;
        let clock = store.own_clock().unwrap_or(&Clock::BOOTTIME);
        let not_after = clock
            .now()
            .saturating_add(store.characteristics().call_timeout);
        let call = move |store: &D| call(store.inspect().ok_or_else(not_inspectable)?);
        self.call(Kind::Claim, clock, not_after, call).await
    }
}

fn late() -> DatastoreError {
    let text = "no thread for blocking calls was free before the end of the call";
    DatastoreError::not_executed(ErrorKind::Timeout, text)
}

impl<D> Inner<D> {
    /// Those of this process: a forked child has none of its parent's.
    fn threads(&self) -> &Threads {
        self.threads.of(ProcessId::current(), Threads::new)
    }
}

impl<D> Drop for Inner<D> {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.current() {
            threads.stop();
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<D: Datastore + 'static> AsyncDatastore for Unblock<D> {
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        let (arg, not_after) = (claim.clone(), claim.not_after());
        let call = move |store: &D| store.acquire(&arg, ttl);
        self.call(Kind::Claim, claim.clock(), not_after, call).await
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        let (arg, not_after) = (lease.clone(), lease.not_after());
        let call = move |store: &D| store.extend(&arg, ttl);
        self.call(Kind::Urgent, lease.clock(), not_after, call)
            .await
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let (arg, not_after) = (lease.clone(), lease.not_after());
        let call = move |store: &D| store.release(&arg);
        self.call(Kind::Urgent, lease.clock(), not_after, call)
            .await
    }

    fn characteristics(&self) -> Characteristics {
        self.inner.store.characteristics()
    }

    fn own_clock(&self) -> Option<&Clock> {
        self.inner.store.own_clock()
    }

    fn is_polled_by_caller(&self) -> bool {
        true
    }

    /// The blocking call may hang, or find no thread.
    fn ends_its_calls(&self) -> bool {
        false
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        let (arg, not_after) = (claim.clone(), claim.not_after());
        let call = move |store: &D| store.abandon(&arg);
        self.call(Kind::Urgent, claim.clock(), not_after, call)
            .await
    }

    async fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        let (arg, not_after) = (claim.clone(), claim.not_after());
        let (inner, signal) = (Arc::clone(&self.inner), signal.clone());
        let call = move |store: &D| {
            let watch = store.watch(&arg, &signal)?;
            // Ending it may block.
            Ok(watch.map(|watch| {
                Watch::leaving(move |leaving| {
                    // Where no thread is to be had it ends here.
                    let end = || watch.end(leaving);
                    let _ = inner.threads().run(Kind::Urgent, end);
                })
            }))
        };
        self.call(Kind::Claim, claim.clock(), not_after, call).await
    }

    async fn extend_many(
        &self,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        self.call_many(leases, |(lease, _)| lease, D::extend_many)
            .await
    }

    async fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        let (arg, not_after) = (lease.clone(), lease.not_after());
        let call = move |store: &D| store.confirm(&arg);
        self.call(Kind::Urgent, lease.clock(), not_after, call)
            .await
    }

    async fn confirm_many(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
        self.call_many(leases, |lease| lease, D::confirm_many).await
    }

    fn inspect(&self) -> Option<&dyn AsyncInspect> {
        self.inner.store.inspect()?;
        Some(self)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<D: Datastore + 'static> AsyncInspect for Unblock<D> {
    fn holder<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<Option<HeldBy>, DatastoreError>> {
        let key = key.to_owned();
        Box::pin(self.look(move |inspect| inspect.holder(&key)))
    }

    fn break_lease<'a>(
        &'a self,
        key: &'a str,
        fence: FencingToken,
    ) -> Boxed<'a, Result<ReleaseOutcome, DatastoreError>> {
        let key = key.to_owned();
        Box::pin(self.look(move |inspect| inspect.break_lease(&key, fence)))
    }

    fn waiting<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<usize, DatastoreError>> {
        let key = key.to_owned();
        Box::pin(self.look(move |inspect| inspect.waiting(&key)))
    }

    fn held<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a PageMark>,
    ) -> Boxed<'a, Result<HeldPage, DatastoreError>> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        Box::pin(self.look(move |inspect| inspect.held(&prefix, after.as_ref())))
    }

    fn findings<'a>(&'a self) -> Boxed<'a, Result<Vec<Finding>, DatastoreError>> {
        Box::pin(self.look(|inspect| inspect.findings()))
    }
}

impl<D> fmt::Debug for Unblock<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unblock").finish_non_exhaustive()
    }
}
