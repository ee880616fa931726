//! An async store for blocking locks.

use std::fmt;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::runtime::Handle;

use super::datastore::AsyncDatastore;
use super::inspect::not_inspectable;
use crate::contract::characteristics::Characteristics;
use crate::contract::claim::Claim;
use crate::contract::datastore::{Datastore, Watch};
use crate::contract::error::{DatastoreError, ErrorKind};
use crate::contract::finding::Finding;
use crate::contract::grant::FencingToken;
use crate::contract::inspect::{HeldPage, Inspect, PageMark};
use crate::contract::lease::Lease;
use crate::contract::outcome::{AcquireOutcome, Extension, HeldBy, ReleaseOutcome};
use crate::time::clock::Clock;
use crate::time::instant::Time;
use crate::time::signal::Signal;

/// How long after its end a call that has not ended by itself is given up.
const OVERTIME: Duration = Duration::from_millis(200);

/// An [`AsyncDatastore`] as a blocking [`Datastore`]: each call is a task of the runtime that you
/// give, and its caller waits for it.
///
/// Not for async code: the thread that calls blocks, and if it is the one that drives the runtime
/// the call fails at its end, with an error of kind [`Timeout`](ErrorKind::Timeout).
///
/// ```
/// use dlock_core::aio::Block;
/// use dlock_core::{Lock, MemoryDatastore};
///
/// let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
/// let store = Block::new(MemoryDatastore::new(), runtime.handle().clone());
/// let rows = Lock::new(store, "hourly-import").locked(|_guard| 42)?;
/// # assert_eq!(rows, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Block<D> {
    store: Arc<D>,
    runtime: Handle,
}

impl<D: AsyncDatastore + 'static> Block<D> {
    /// The store as a blocking one, on this runtime, which must be driven by another thread than
    /// the callers'.
    pub fn new(store: D, runtime: Handle) -> Self {
        let store = Arc::new(store);
        Block { store, runtime }
    }

    /// The async store.
    pub fn get_ref(&self) -> &D {
        &self.store
    }

    /// Runs a call on the runtime, and waits for it until a little after `not_after`.
    fn call<T: Send + 'static>(
        &self,
        clock: &Clock,
        not_after: Time,
        call: impl Future<Output = Result<T, DatastoreError>> + Send + 'static,
    ) -> Result<T, DatastoreError> {
        let wake = Signal::new();
        let waker = Waker::from(Arc::new(Notified(wake.clone())));
        let mut task = pin!(self.runtime.spawn(call));
        let end = not_after.saturating_add(OVERTIME);
        loop {
            let polled = task.as_mut().poll(&mut Context::from_waker(&waker));
            match polled {
                Poll::Ready(Ok(answer)) => return answer,
                Poll::Ready(Err(error)) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    Err(error) => {
                        return Err(DatastoreError::maybe_executed(ErrorKind::Refused, error));
                    }
                },
                Poll::Pending => {}
            }
            if clock.now() >= end {
                task.abort();
                let text = "the runtime did not end the call; is it driven by another thread?";
                return Err(DatastoreError::maybe_executed(ErrorKind::Timeout, text));
            }
            clock.sleep_until_realtime(&wake, end);
        }
    }

    /// The same for a batch.
    fn call_many<F>(
        &self,
        mut leases: impl ExactSizeIterator<Item = Lease>,
        call: F,
    ) -> Vec<Result<Extension, DatastoreError>>
    where
        F: Future<Output = Vec<Result<Extension, DatastoreError>>> + Send + 'static,
    {
        let count = leases.len();
        let Some(first) = leases.next() else {
            return Vec::new();
        };
        let ends = leases.map(|lease| lease.not_after());
        let not_after = ends.fold(first.not_after(), Time::max);
        let answers = self.call(first.clock(), not_after, async { Ok(call.await) });
        answers.unwrap_or_else(|error| vec![Err(error); count])
    }

    /// Runs a call of an operator.
    fn look<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, DatastoreError>> + Send + 'static,
    ) -> Result<T, DatastoreError> {
        let clock = self.store.own_clock().unwrap_or(&Clock::BOOTTIME);
        let call_timeout = self.store.characteristics().call_timeout;
        self.call(clock, clock.now().saturating_add(call_timeout), call)
    }
}

/// Notifies a signal.
struct Notified(Signal);

impl Wake for Notified {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

#[deny(clippy::missing_trait_methods)]
impl<D: AsyncDatastore + 'static> Datastore for Block<D> {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
        let (store, arg) = (Arc::clone(&self.store), claim.clone());
        let call = async move { store.acquire(&arg, ttl).await };
        self.call(claim.clock(), claim.not_after(), call)
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        let (store, arg) = (Arc::clone(&self.store), lease.clone());
        let call = async move { store.extend(&arg, ttl).await };
        self.call(lease.clock(), lease.not_after(), call)
    }

    fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let (store, arg) = (Arc::clone(&self.store), lease.clone());
        let call = async move { store.release(&arg).await };
        self.call(lease.clock(), lease.not_after(), call)
    }

    fn characteristics(&self) -> Characteristics {
        self.store.characteristics()
    }

    fn own_clock(&self) -> Option<&Clock> {
        self.store.own_clock()
    }

    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        let (store, arg) = (Arc::clone(&self.store), claim.clone());
        let call = async move { store.abandon(&arg).await };
        self.call(claim.clock(), claim.not_after(), call)
    }

    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        let (store, arg, signal) = (Arc::clone(&self.store), claim.clone(), signal.clone());
        let call = async move { store.watch(&arg, &signal).await };
        self.call(claim.clock(), claim.not_after(), call)
    }

    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        let (store, args) = (Arc::clone(&self.store), leases.to_vec());
        let call = async move { store.extend_many(&args).await };
        self.call_many(leases.iter().map(|(lease, _)| lease.clone()), call)
    }

    fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        let (store, arg) = (Arc::clone(&self.store), lease.clone());
        let call = async move { store.confirm(&arg).await };
        self.call(lease.clock(), lease.not_after(), call)
    }

    fn confirm_many(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
        let (store, args) = (Arc::clone(&self.store), leases.to_vec());
        let call = async move { store.confirm_many(&args).await };
        self.call_many(leases.iter().cloned(), call)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        self.store.inspect()?;
        Some(self)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<D: AsyncDatastore + 'static> Inspect for Block<D> {
    fn holder(&self, key: &str) -> Result<Option<HeldBy>, DatastoreError> {
        let (store, key) = (Arc::clone(&self.store), key.to_owned());
        self.look(async move {
            let inspect = store.inspect().ok_or_else(not_inspectable)?;
            inspect.holder(&key).await
        })
    }

    fn break_lease(
        &self,
        key: &str,
        fence: FencingToken,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        let (store, key) = (Arc::clone(&self.store), key.to_owned());
        self.look(async move {
            let inspect = store.inspect().ok_or_else(not_inspectable)?;
            inspect.break_lease(&key, fence).await
        })
    }

    fn waiting(&self, key: &str) -> Result<usize, DatastoreError> {
        let (store, key) = (Arc::clone(&self.store), key.to_owned());
        self.look(async move {
            let inspect = store.inspect().ok_or_else(not_inspectable)?;
            inspect.waiting(&key).await
        })
    }

    fn held(&self, prefix: &str, after: Option<&PageMark>) -> Result<HeldPage, DatastoreError> {
        let (store, prefix, after) = (Arc::clone(&self.store), prefix.to_owned(), after.cloned());
        self.look(async move {
            let inspect = store.inspect().ok_or_else(not_inspectable)?;
            inspect.held(&prefix, after.as_ref()).await
        })
    }

    fn findings(&self) -> Result<Vec<Finding>, DatastoreError> {
        let store = Arc::clone(&self.store);
        self.look(async move {
            let inspect = store.inspect().ok_or_else(not_inspectable)?;
            inspect.findings().await
        })
    }
}

impl<D> fmt::Debug for Block<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").finish_non_exhaustive()
    }
}
