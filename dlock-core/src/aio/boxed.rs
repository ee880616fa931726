//! Async stores whose type is not known.

use std::time::Duration;

use super::datastore::AsyncDatastore;
use super::future::Boxed;
use super::inspect::AsyncInspect;
use crate::contract::characteristics::Characteristics;
use crate::contract::claim::Claim;
use crate::contract::datastore::Watch;
use crate::contract::error::DatastoreError;
use crate::contract::lease::Lease;
use crate::contract::outcome::{AcquireOutcome, Extension, ReleaseOutcome};
use crate::time::clock::Clock;
use crate::time::signal::Signal;

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
