//! The contract between core and an async store.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::contract::characteristics::Characteristics;
use crate::contract::claim::Claim;
use crate::contract::datastore::Watch;
use crate::contract::error::{DatastoreError, ErrorKind};
use crate::contract::finding::Finding;
use crate::contract::grant::FencingToken;
use crate::contract::inspect::{HeldPage, PageMark, not_checked, not_counted, not_listed};
use crate::contract::lease::Lease;
use crate::contract::outcome::{AcquireOutcome, Extension, HeldBy, ReleaseOutcome};
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

/// Lets operators look into an async store.
///
/// The contract of [`Inspect`](crate::Inspect) holds for the method of the same name here. A method
/// returns a box with an `async` block, because operators need the trait without the type of the
/// store. Where the store's calls may not be polled anywhere, nor may these.
pub trait AsyncInspect: Send + Sync {
    /// The present holder of `key`, see [`Inspect::holder`](crate::Inspect::holder).
    ///
    /// # Errors
    ///
    /// Any error of the store.
    fn holder<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<Option<HeldBy>, DatastoreError>>;

    /// Takes the lock from the holder that has the fencing token `fence`, and from no other, see
    /// [`Inspect::break_lease`](crate::Inspect::break_lease).
    ///
    /// # Errors
    ///
    /// Any error of the store.
    fn break_lease<'a>(
        &'a self,
        key: &'a str,
        fence: FencingToken,
    ) -> Boxed<'a, Result<ReleaseOutcome, DatastoreError>>;

    /// How many claimants wait for `key`, see [`Inspect::waiting`](crate::Inspect::waiting).
    ///
    /// # Errors
    ///
    /// As there.
    fn waiting<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<usize, DatastoreError>> {
        let _ = key;
        Box::pin(async { Err(not_counted()) })
    }

    /// The keys that start with `prefix` and are held, a page at a time, see
    /// [`Inspect::held`](crate::Inspect::held).
    ///
    /// # Errors
    ///
    /// As there.
    fn held<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a PageMark>,
    ) -> Boxed<'a, Result<HeldPage, DatastoreError>> {
        let _ = (prefix, after);
        Box::pin(async { Err(not_listed()) })
    }

    /// What endangers the locks in the store, see
    /// [`Inspect::findings`](crate::Inspect::findings).
    ///
    /// # Errors
    ///
    /// As there.
    fn findings<'a>(&'a self) -> Boxed<'a, Result<Vec<Finding>, DatastoreError>> {
        Box::pin(async { Err(not_checked()) })
    }
}

/// The error of a bridge whose store was inspectable and is so no more.
pub(super) fn not_inspectable() -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Unsupported, "the store cannot be looked into")
}

/// A future in a box, as [`DynAsyncDatastore`] gives it.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An [`AsyncDatastore`] whose type is not known: `Box<dyn DynAsyncDatastore>` is one.
///
/// Every `AsyncDatastore` is one of these, and `dyn DynAsyncDatastore` is an `AsyncDatastore`
/// again. There is nothing to implement.
pub trait DynAsyncDatastore: Send + Sync {
    /// [`AsyncDatastore::acquire`].
    fn boxed_acquire<'a>(
        &'a self,
        claim: &'a Claim,
        ttl: Duration,
    ) -> Boxed<'a, Result<AcquireOutcome, DatastoreError>>;

    /// [`AsyncDatastore::extend`].
    fn boxed_extend<'a>(
        &'a self,
        lease: &'a Lease,
        ttl: Duration,
    ) -> Boxed<'a, Result<Extension, DatastoreError>>;

    /// [`AsyncDatastore::release`].
    fn boxed_release<'a>(
        &'a self,
        lease: &'a Lease,
    ) -> Boxed<'a, Result<ReleaseOutcome, DatastoreError>>;

    /// [`AsyncDatastore::characteristics`].
    fn dyn_characteristics(&self) -> Characteristics;

    /// [`AsyncDatastore::own_clock`].
    fn dyn_own_clock(&self) -> Option<&Clock>;

    /// [`AsyncDatastore::is_polled_by_caller`].
    fn dyn_is_polled_by_caller(&self) -> bool;

    /// [`AsyncDatastore::ends_its_calls`].
    fn dyn_ends_its_calls(&self) -> bool;

    /// [`AsyncDatastore::abandon`].
    fn boxed_abandon<'a>(&'a self, claim: &'a Claim) -> Boxed<'a, Result<(), DatastoreError>>;

    /// [`AsyncDatastore::watch`].
    fn boxed_watch<'a>(
        &'a self,
        claim: &'a Claim,
        signal: &'a Signal,
    ) -> Boxed<'a, Result<Option<Watch>, DatastoreError>>;

    /// [`AsyncDatastore::extend_many`].
    fn boxed_extend_many<'a>(
        &'a self,
        leases: &'a [(Lease, Duration)],
    ) -> Boxed<'a, Vec<Result<Extension, DatastoreError>>>;

    /// [`AsyncDatastore::confirm`].
    fn boxed_confirm<'a>(
        &'a self,
        lease: &'a Lease,
    ) -> Boxed<'a, Result<Extension, DatastoreError>>;

    /// [`AsyncDatastore::confirm_many`].
    fn boxed_confirm_many<'a>(
        &'a self,
        leases: &'a [Lease],
    ) -> Boxed<'a, Vec<Result<Extension, DatastoreError>>>;

    /// [`AsyncDatastore::inspect`].
    fn dyn_inspect(&self) -> Option<&dyn AsyncInspect>;
}

impl<D: AsyncDatastore> DynAsyncDatastore for D {
    fn boxed_acquire<'a>(
        &'a self,
        claim: &'a Claim,
        ttl: Duration,
    ) -> Boxed<'a, Result<AcquireOutcome, DatastoreError>> {
        Box::pin(self.acquire(claim, ttl))
    }

    fn boxed_extend<'a>(
        &'a self,
        lease: &'a Lease,
        ttl: Duration,
    ) -> Boxed<'a, Result<Extension, DatastoreError>> {
        Box::pin(self.extend(lease, ttl))
    }

    fn boxed_release<'a>(
        &'a self,
        lease: &'a Lease,
    ) -> Boxed<'a, Result<ReleaseOutcome, DatastoreError>> {
        Box::pin(self.release(lease))
    }

    fn dyn_characteristics(&self) -> Characteristics {
        self.characteristics()
    }

    fn dyn_own_clock(&self) -> Option<&Clock> {
        self.own_clock()
    }

    fn dyn_is_polled_by_caller(&self) -> bool {
        self.is_polled_by_caller()
    }

    fn dyn_ends_its_calls(&self) -> bool {
        self.ends_its_calls()
    }

    fn boxed_abandon<'a>(&'a self, claim: &'a Claim) -> Boxed<'a, Result<(), DatastoreError>> {
        Box::pin(self.abandon(claim))
    }

    fn boxed_watch<'a>(
        &'a self,
        claim: &'a Claim,
        signal: &'a Signal,
    ) -> Boxed<'a, Result<Option<Watch>, DatastoreError>> {
        Box::pin(self.watch(claim, signal))
    }

    fn boxed_extend_many<'a>(
        &'a self,
        leases: &'a [(Lease, Duration)],
    ) -> Boxed<'a, Vec<Result<Extension, DatastoreError>>> {
        Box::pin(self.extend_many(leases))
    }

    fn boxed_confirm<'a>(
        &'a self,
        lease: &'a Lease,
    ) -> Boxed<'a, Result<Extension, DatastoreError>> {
        Box::pin(self.confirm(lease))
    }

    fn boxed_confirm_many<'a>(
        &'a self,
        leases: &'a [Lease],
    ) -> Boxed<'a, Vec<Result<Extension, DatastoreError>>> {
        Box::pin(self.confirm_many(leases))
    }

    fn dyn_inspect(&self) -> Option<&dyn AsyncInspect> {
        self.inspect()
    }
}

#[deny(clippy::missing_trait_methods)]
impl AsyncDatastore for dyn DynAsyncDatastore + '_ {
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        self.boxed_acquire(claim, ttl).await
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.boxed_extend(lease, ttl).await
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        self.boxed_release(lease).await
    }

    fn characteristics(&self) -> Characteristics {
        self.dyn_characteristics()
    }

    fn own_clock(&self) -> Option<&Clock> {
        self.dyn_own_clock()
    }

    fn is_polled_by_caller(&self) -> bool {
        self.dyn_is_polled_by_caller()
    }

    fn ends_its_calls(&self) -> bool {
        self.dyn_ends_its_calls()
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.boxed_abandon(claim).await
    }

    async fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.boxed_watch(claim, signal).await
    }

    async fn extend_many(
        &self,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        self.boxed_extend_many(leases).await
    }

    async fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        self.boxed_confirm(lease).await
    }

    async fn confirm_many(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
        self.boxed_confirm_many(leases).await
    }

    fn inspect(&self) -> Option<&dyn AsyncInspect> {
        self.dyn_inspect()
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
