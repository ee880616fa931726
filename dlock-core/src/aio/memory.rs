//! The store in memory as an async one: its calls are ready at once.

use std::time::Duration;

use super::datastore::AsyncDatastore;
use super::future::Boxed;
use super::inspect::AsyncInspect;
use crate::contract::characteristics::Characteristics;
use crate::contract::claim::Claim;
use crate::contract::datastore::{Datastore, Watch};
use crate::contract::error::DatastoreError;
use crate::contract::finding::Finding;
use crate::contract::grant::FencingToken;
use crate::contract::inspect::{HeldPage, Inspect, PageMark};
use crate::contract::lease::Lease;
use crate::contract::outcome::{AcquireOutcome, Extension, HeldBy, ReleaseOutcome};
use crate::memory::MemoryDatastore;
use crate::time::clock::Clock;
use crate::time::signal::Signal;

#[deny(clippy::missing_trait_methods)]
impl AsyncDatastore for MemoryDatastore {
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        Datastore::acquire(self, claim, ttl)
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        Datastore::extend(self, lease, ttl)
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        Datastore::release(self, lease)
    }

    fn characteristics(&self) -> Characteristics {
        Datastore::characteristics(self)
    }

    fn own_clock(&self) -> Option<&Clock> {
        Datastore::own_clock(self)
    }

    fn is_polled_by_caller(&self) -> bool {
        true
    }

    fn ends_its_calls(&self) -> bool {
        true
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        Datastore::abandon(self, claim)
    }

    async fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        Datastore::watch(self, claim, signal)
    }

    async fn extend_many(
        &self,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        Datastore::extend_many(self, leases)
    }

    async fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        Datastore::confirm(self, lease)
    }

    async fn confirm_many(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
        Datastore::confirm_many(self, leases)
    }

    fn inspect(&self) -> Option<&dyn AsyncInspect> {
        Some(self)
    }
}

#[deny(clippy::missing_trait_methods)]
impl AsyncInspect for MemoryDatastore {
    fn holder<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<Option<HeldBy>, DatastoreError>> {
        Box::pin(async move { Inspect::holder(self, key) })
    }

    fn break_lease<'a>(
        &'a self,
        key: &'a str,
        fence: FencingToken,
    ) -> Boxed<'a, Result<ReleaseOutcome, DatastoreError>> {
        Box::pin(async move { Inspect::break_lease(self, key, fence) })
    }

    fn waiting<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<usize, DatastoreError>> {
        Box::pin(async move { Inspect::waiting(self, key) })
    }

    fn held<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a PageMark>,
    ) -> Boxed<'a, Result<HeldPage, DatastoreError>> {
        Box::pin(async move { Inspect::held(self, prefix, after) })
    }

    fn findings<'a>(&'a self) -> Boxed<'a, Result<Vec<Finding>, DatastoreError>> {
        Box::pin(async move { Inspect::findings(self) })
    }
}
