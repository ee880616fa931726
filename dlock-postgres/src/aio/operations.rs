//! What core asks of an async store.

use std::time::Duration;

use dlock_core::aio::{AsyncDatastore, AsyncInspect, Boxed};
use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Datastore, DatastoreError, Extension, FencingToken,
    Finding, HeldBy, HeldPage, Lease, PageMark, ReleaseOutcome, Signal, Watch,
};
use dlock_net::deadline_in;

use crate::findings;
use crate::held;
use crate::operations::{Answer, Call};
use crate::store::{PostgresDatastore, counted, extension, found, freed, held_by, undone};

/// The async form shares everything but its connections with the blocking one: the same functions
/// of the schema, the same waiters, the same deadlines. A call has a connection for itself; each
/// runtime has as many as the pool.
impl AsyncDatastore for PostgresDatastore {
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        Datastore::characteristics(self).check_ttl(ttl)?;
        let deadline = self.deadline(claim);
        self.waiters.have_left(claim.key(), deadline).await;
        let answer = self
            .shares
            .call(deadline, self.acquire_call(claim, ttl))
            .await;
        self.acquired(claim, answer)
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        Datastore::characteristics(self).check_ttl(ttl)?;
        let deadline = self.deadline(lease.claim());
        let answer = self.shares.call(deadline, Call::Extend(lease, ttl)).await;
        extension(lease, answer)
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let claim = lease.claim();
        let deadline = self.deadline(claim);
        self.waiters.have_left(claim.key(), deadline).await;
        freed(self.shares.call(deadline, Call::Release(claim)).await)
    }

    fn characteristics(&self) -> Characteristics {
        Datastore::characteristics(self)
    }

    fn is_polled_by_caller(&self) -> bool {
        true
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        let deadline = self.deadline(claim);
        self.waiters.have_left(claim.key(), deadline).await;
        undone(self.shares.call(deadline, Call::Abandon(claim)).await)
    }

    async fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.waiters
            .watch_without_blocking(claim, signal, self.call_timeout)
    }

    fn inspect(&self) -> Option<&dyn AsyncInspect> {
        Some(self)
    }
}

impl AsyncInspect for PostgresDatastore {
    fn holder<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<Option<HeldBy>, DatastoreError>> {
        Box::pin(async move { held_by(self.ask_shared(Call::Holder(key)).await) })
    }

    fn break_lease<'a>(
        &'a self,
        key: &'a str,
        fence: FencingToken,
    ) -> Boxed<'a, Result<ReleaseOutcome, DatastoreError>> {
        Box::pin(async move {
            let deadline = deadline_in(self.call_timeout);
            self.waiters.have_left(key, deadline).await;
            freed(self.shares.call(deadline, Call::Break(key, fence)).await)
        })
    }

    fn waiting<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<usize, DatastoreError>> {
        Box::pin(async move { counted(self.ask_shared(Call::Waiting(key)).await) })
    }

    fn findings<'a>(&'a self) -> Boxed<'a, Result<Vec<Finding>, DatastoreError>> {
        Box::pin(async {
            let before = findings::unix_now();
            found(before, self.ask_shared(Call::Facts).await)
        })
    }

    fn held<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a PageMark>,
    ) -> Boxed<'a, Result<HeldPage, DatastoreError>> {
        Box::pin(async move {
            let begin = held::begin(prefix, after)?;
            held::page(self.ask_shared(Call::Held(prefix, begin)).await?.0)
        })
    }
}

impl PostgresDatastore {
    /// A call that belongs to no claim.
    async fn ask_shared(&self, call: Call<'_>) -> Result<(Answer, bool), DatastoreError> {
        self.shares.call(deadline_in(self.call_timeout), call).await
    }
}
