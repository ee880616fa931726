//! The contract between core and an async store.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::inspect::AsyncInspect;
use crate::contract::characteristics::Characteristics;
use crate::contract::claim::Claim;
use crate::contract::datastore::Watch;
use crate::contract::error::DatastoreError;
use crate::contract::lease::Lease;
use crate::contract::outcome::{AcquireOutcome, Extension, ReleaseOutcome};
use crate::time::clock::Clock;
use crate::time::signal::Signal;

/// A place that keeps locks, reached by async calls.
///
/// The laws of [`Datastore`](crate::Datastore) hold for the method of the same name here, word by
/// word. Write plain `async fn`s; their futures must be `Send`. A store that implements one of the
/// two traits has the other by a bridge: [`Unblock`](super::Unblock) makes a blocking store async,
/// [`Block`](super::Block) an async one blocking. `dlock-testkit` tests the laws through `Block`.
///
/// What an async store needs to know beyond the laws:
///
/// - **Calls run on a thread of dlock**, each as a task of its own on a current-thread runtime of
///   this store, not on the runtime of the caller: so a runtime that is busy, paused or shutting
///   down cannot leave a call half done. A store whose futures may be polled anywhere says so by
///   [`is_polled_by_caller`](Self::is_polled_by_caller), and saves the way to that thread.
/// - **The release of a dropped guard is polled once in the drop**, see
///   [`is_polled_by_drop`](super::is_polled_by_drop). The rest goes on in the background, which
///   ends with the program.
/// - **A future may be dropped before it is ready**, when its call is past its end. The store must
///   not answer a later call with the reply to this one.
/// - **Blocking in a call blocks the renewals of this store**: they run on the same thread.
/// - **[`Watch`]es are dropped in async code**: ending one must not block. If its end goes on after
///   that, make it by [`Watch::leaving`]: then [`Store::settled`](super::Store::settled) waits for
///   it.
pub trait AsyncDatastore: Send + Sync {
    /// Claims `claim.key()` for `claim.owner()` for `ttl`, see
    /// [`Datastore::acquire`](crate::Datastore::acquire).
    ///
    /// # Errors
    ///
    /// Whatever the store fails with.
    fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> impl Future<Output = Result<AcquireOutcome, DatastoreError>> + Send;

    /// Gives the lease `ttl` from now, instead of what it had left, see
    /// [`Datastore::extend`](crate::Datastore::extend).
    ///
    /// # Errors
    ///
    /// Whatever the store fails with.
    fn extend(
        &self,
        lease: &Lease,
        ttl: Duration,
    ) -> impl Future<Output = Result<Extension, DatastoreError>> + Send;

    /// Frees the key, see [`Datastore::release`](crate::Datastore::release).
    ///
    /// # Errors
    ///
    /// Whatever the store fails with.
    fn release(
        &self,
        lease: &Lease,
    ) -> impl Future<Output = Result<ReleaseOutcome, DatastoreError>> + Send;

    /// What the store can and cannot do. Asked once, when a [`Store`](super::Store) is made of it.
    fn characteristics(&self) -> Characteristics {
        Characteristics::default()
    }

    /// The clock of this process on which the datastore counts leases, if it has one, see
    /// [`Datastore::own_clock`](crate::Datastore::own_clock).
    fn own_clock(&self) -> Option<&Clock> {
        None
    }

    /// Whether the futures of this store may be polled anywhere: on any runtime of tokio, one that
    /// is entered and not driven, one that shuts down, or outside of them all.
    ///
    /// Such a future must not panic for want of a runtime, and must get its answer, or an error by
    /// the end of its call, even if the runtime on which it was first polled is gone.
    fn is_polled_by_caller(&self) -> bool {
        false
    }

    /// Whether each call ends by its `not_after` and then wakes the task that polls it, whatever
    /// the server and all executors do. Then core sets no alarm of its own to end the call.
    ///
    /// A timer of the runtime that polls the call is not enough: that runtime may be blocked,
    /// paused or gone. For a store whose calls run on a thread of dlock this changes nothing.
    fn ends_its_calls(&self) -> bool {
        false
    }

    /// Makes sure that a claim which may have been carried out holds nothing, see
    /// [`Datastore::abandon`](crate::Datastore::abandon). The default claims for the shortest time
    /// and releases what it is granted.
    ///
    /// # Errors
    ///
    /// Whatever the store fails with; then the key may stay held until the claim's time to live is
    /// over.
    fn abandon(&self, claim: &Claim) -> impl Future<Output = Result<(), DatastoreError>> + Send {
        async move {
            let ttl = self.characteristics().ttl_min;
            match self.acquire(claim, ttl).await? {
                AcquireOutcome::Granted(grant) => {
                    let lease = Lease::new(claim.clone(), grant);
                    self.release(&lease).await.map(|_: ReleaseOutcome| ())
                }
                AcquireOutcome::Held(_) => Ok(()),
            }
        }
    }

    /// Asks to have `signal` notified when it is worth to claim again, see
    /// [`Datastore::watch`](crate::Datastore::watch); `None` if the store cannot. Dropping the
    /// [`Watch`] ends the interest and must not block.
    ///
    /// # Errors
    ///
    /// Whatever the store fails with; the waiter polls then.
    fn watch(
        &self,
        claim: &Claim,
        signal: &Signal,
    ) -> impl Future<Output = Result<Option<Watch>, DatastoreError>> + Send {
        let _ = (claim, signal);
        async { Ok(None) }
    }

    /// Extends many leases of possibly many keys; the answers are in the order of the leases.
    ///
    /// # Errors
    ///
    /// Each answer has its own.
    fn extend_many(
        &self,
        leases: &[(Lease, Duration)],
    ) -> impl Future<Output = Vec<Result<Extension, DatastoreError>>> + Send {
        async move {
            let mut answers = Vec::with_capacity(leases.len());
            for (lease, ttl) in leases {
                answers.push(self.extend(lease, *ttl).await);
            }
            answers
        }
    }

    /// Reads back how long the store really keeps the lease, see
    /// [`Datastore::confirm`](crate::Datastore::confirm).
    ///
    /// # Errors
    ///
    /// Whatever the store fails with.
    fn confirm(
        &self,
        lease: &Lease,
    ) -> impl Future<Output = Result<Extension, DatastoreError>> + Send {
        async { Ok(Extension::Extended(lease.grant().clone())) }
    }

    /// Reads back many leases of possibly many keys; the answers are in the order of the leases.
    ///
    /// # Errors
    ///
    /// Each answer has its own.
    fn confirm_many(
        &self,
        leases: &[Lease],
    ) -> impl Future<Output = Vec<Result<Extension, DatastoreError>>> + Send {
        async move {
            let mut answers = Vec::with_capacity(leases.len());
            for lease in leases {
                answers.push(self.confirm(lease).await);
            }
            answers
        }
    }

    /// The store's view for operators; `None` if it has none.
    fn inspect(&self) -> Option<&dyn AsyncInspect> {
        None
    }
}

/// Passes every method on. The lint sees to it that a new method with a default is not forgotten.
macro_rules! forward {
    ($($type:ty),+) => {$(
        #[deny(clippy::missing_trait_methods)]
        impl<D: AsyncDatastore + ?Sized> AsyncDatastore for $type {
            async fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
                (**self).acquire(claim, ttl).await
            }
            async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
                (**self).extend(lease, ttl).await
            }
            async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
                (**self).release(lease).await
            }
            fn characteristics(&self) -> Characteristics {
                (**self).characteristics()
            }
            fn own_clock(&self) -> Option<&Clock> {
                (**self).own_clock()
            }
            fn is_polled_by_caller(&self) -> bool {
                (**self).is_polled_by_caller()
            }
            fn ends_its_calls(&self) -> bool {
                (**self).ends_its_calls()
            }
            async fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
                (**self).abandon(claim).await
            }
            async fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
                (**self).watch(claim, signal).await
            }
            async fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
                (**self).extend_many(leases).await
            }
            async fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
                (**self).confirm(lease).await
            }
            async fn confirm_many(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
                (**self).confirm_many(leases).await
            }
            fn inspect(&self) -> Option<&dyn AsyncInspect> {
                (**self).inspect()
            }
        }
    )+};
}

forward!(&D, Box<D>, Arc<D>);
