//! What core asks of an async store.

use std::mem;
use std::time::Duration;

use dlock_core::aio::{AsyncDatastore, AsyncInspect, Boxed, is_polled_by_drop};
use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Clock, Datastore, DatastoreError, Extension,
    FencingToken, Finding, HeldBy, HeldPage, Lease, PageMark, ReleaseOutcome, Signal, Watch,
};
use dlock_net::mux::on_own_thread;
use dlock_net::{Planned, deadline_in};

use super::calls;
use crate::findings;
use crate::held::{self, held_by};
use crate::operations::{Answer, Call, Keys};
use crate::servers::Servers;
use crate::store::{BATCH, RedisDatastore, broken, counted, extension, unacknowledged};

/// The async form shares everything but its connections with the blocking one: the same keys and
/// scripts, the same waiters, the same deadlines. Calls go over one connection for each runtime.
impl AsyncDatastore for RedisDatastore {
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        Datastore::characteristics(self).check_ttl(ttl)?;
        let dropped = OnDrop(|| self.unanswered(claim));
        let mut answer = self.call_shared(claim, self.acquire_call(claim, ttl)).await;
        if let Some((few, call)) = unacknowledged(claim, &answer) {
            answer = few.after(&Box::pin(self.call_shared(claim, call)).await);
        }
        mem::forget(dropped);
        self.acquired(claim, ttl, answer)
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        Datastore::characteristics(self).check_ttl(ttl)?;
        let answer = self
            .call_shared(lease.claim(), Call::Extend(lease, ttl))
            .await;
        extension(lease, ttl, answer.map(|(answer, _)| answer))
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let dropped = OnDrop(|| self.may_be_released(lease));
        let mut call = self.release_call(lease);
        // If the program ends nobody makes a second trip for a waiter. A cluster that moves the
        // slot would refuse a call with keys that do not exist.
        if is_polled_by_drop() && !self.servers.are_many() {
            call = call.with_all_keys();
        }
        let answer = self.call_shared(lease.claim(), call).await;
        mem::forget(dropped);
        self.released(lease, answer)
    }

    fn characteristics(&self) -> Characteristics {
        Datastore::characteristics(self)
    }

    fn is_polled_by_caller(&self) -> bool {
        true
    }

    /// The alarms of the multiplexer end them, on a thread of their own.
    fn ends_its_calls(&self) -> bool {
        true
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        let dropped = OnDrop(|| self.still_queued(claim));
        let answer = self.call_shared(claim, self.abandon_call(claim)).await;
        mem::forget(dropped);
        self.abandoned(claim, answer)
    }

    async fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.waiters
            .watch_without_blocking(claim, signal, self.call_timeout)
            .await
    }

    async fn extend_many(
        &self,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let mut answers = Vec::with_capacity(leases.len());
        for batch in leases.chunks(BATCH) {
            answers.extend(self.extend_all(batch).await);
        }
        answers
    }

    fn inspect(&self) -> Option<&dyn AsyncInspect> {
        Some(self)
    }
}

impl AsyncInspect for RedisDatastore {
    fn holder<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<Option<HeldBy>, DatastoreError>> {
        Box::pin(async move { held_by(self.ask_shared(Call::Holder(key)).await?) })
    }

    fn break_lease<'a>(
        &'a self,
        key: &'a str,
        fence: FencingToken,
    ) -> Boxed<'a, Result<ReleaseOutcome, DatastoreError>> {
        let call = Call::Break(key, fence, Keys::All);
        Box::pin(async move { broken(self.ask_shared(call).await?) })
    }

    fn waiting<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<usize, DatastoreError>> {
        Box::pin(async move { counted(self.ask_shared(Call::Waiting(key)).await?) })
    }

    fn held<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a PageMark>,
    ) -> Boxed<'a, Result<HeldPage, DatastoreError>> {
        let deadline = deadline_in(self.call_timeout);
        Box::pin(held::held_shared(&self.servers, deadline, prefix, after))
    }

    /// As the blocking form does, on a thread of its own.
    fn findings<'a>(&'a self) -> Boxed<'a, Result<Vec<Finding>, DatastoreError>> {
        let (servers, call_timeout) = (self.servers.clone(), self.call_timeout);
        Box::pin(on_own_thread(move || {
            findings::findings(&servers, call_timeout)
        }))
    }
}

impl RedisDatastore {
    fn call_shared<'a>(
        &'a self,
        claim: &Claim,
        call: Call<'a>,
    ) -> impl Future<Output = Result<(Answer, bool), DatastoreError>> + Send + use<'a> {
        self.servers.call_shared(self.deadline(claim), call)
    }

    /// One call that belongs to no claim.
    fn ask_shared<'a>(
        &'a self,
        call: Call<'a>,
    ) -> impl Future<Output = Result<(Answer, bool), DatastoreError>> + Send + use<'a> {
        let deadline = deadline_in(self.call_timeout);
        self.servers.call_shared(deadline, call)
    }

    /// One trip for all that go to one server; one more for those that it did not take.
    async fn extend_all(
        &self,
        batch: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let store = Datastore::characteristics(self);
        let ends = batch.iter().map(|(lease, ttl)| {
            store.check_ttl(*ttl)?;
            Ok(self.deadline(lease.claim()))
        });
        let planned = Planned::of(ends, || Clock::BOOTTIME.now());
        let in_time = planned.in_time().iter().map(|at| &batch[*at]);
        let calls: Vec<_> = in_time
            .clone()
            .map(|(lease, ttl)| Call::Extend(lease, *ttl))
            .collect();
        let answers = match &self.servers {
            Servers::One(server) => calls::call_all(server, planned.deadline(), &calls).await,
            Servers::Cluster(cluster) => cluster.call_all_shared(planned.deadline(), &calls).await,
        };
        let extended = in_time.zip(answers);
        let extended = extended.map(|((lease, ttl), answer)| extension(lease, *ttl, answer));
        let extended = extended.collect();
        planned.answered(Ok(extended))
    }
}

/// What is noted if a call's future is dropped before its answer.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
