//! What core asks of an async store.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use dlock_core::aio::{AsyncDatastore, AsyncInspect, Boxed};
use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Datastore, DatastoreError, ErrorKind, Extension,
    FencingToken, Finding, HeldBy, HeldPage, Lease, PageMark, ReleaseOutcome, Signal, Watch,
};
use dlock_net::deadline_in;
use tokio::sync::oneshot;

use super::connection::SharedConnection;
use super::ended;
use crate::findings;
use crate::held;
use crate::operations::{grant, holding, queue};
use crate::store::{BATCH, EtcdDatastore};

/// Holds a conversation, which may run twice. An async closure would do as well, but a future that
/// has one in it and borrows is not known to be `Send`.
macro_rules! conversation {
    ($store:ident.$session:ident($deadline:expr), |$server:ident, $earlier:pat_param| $run:expr) => {{
        let lane = $store.shares.take().ok_or_else(ended)?;
        let mut session = lane.0.mux.$session($deadline)?;
        loop {
            let (mut connection, $earlier) = session.connection().await?;
            let $server = &mut SharedConnection::on(&mut connection);
            let outcome = $run.await;
            if let Some(outcome) = session.ended(connection, outcome) {
                break outcome;
            }
        }
    }};
}

/// The async form shares everything but its connections with the blocking one: the same keys and
/// conversations, the same deadlines, the same waiters.
impl AsyncDatastore for EtcdDatastore {
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        Datastore::characteristics(self).check_ttl(ttl)?;
        let deadline = self.deadline(claim);
        let turn = self.waiters.turn(claim, deadline);
        let outcome = async {
            conversation!(self.session(deadline), |server, earlier| {
                let (queue, unanswered) = (turn.as_ref(), &self.unanswered);
                grant::acquire(server, claim, ttl, earlier, unanswered, queue)
            })
        }
        .await;
        if let Some(turn) = turn {
            turn.ended(&outcome);
        }
        outcome
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        Datastore::characteristics(self).check_ttl(ttl)?;
        conversation!(
            self.urgent_session(self.deadline(lease.claim())),
            |server, _| { holding::extend(server, lease, ttl) }
        )
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        conversation!(
            self.urgent_session(self.deadline(lease.claim())),
            |server, earlier| { holding::release(server, lease, earlier) }
        )
    }

    fn characteristics(&self) -> Characteristics {
        Datastore::characteristics(self)
    }

    fn is_polled_by_caller(&self) -> bool {
        true
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        let place = self.waiters.gives_up(claim);
        conversation!(self.urgent_session(self.deadline(claim)), |server, _| {
            holding::abandon(server, claim, &self.unanswered, place.as_ref())
        })
    }

    /// Eight at a time, each over a connection of its own.
    async fn extend_many(
        &self,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let mut answers = Vec::with_capacity(leases.len());
        for batch in leases.chunks(BATCH) {
            let calls = batch.iter();
            let calls = calls.map(|(lease, ttl)| AsyncDatastore::extend(self, lease, *ttl));
            answers.extend(side_by_side(calls).await);
        }
        answers
    }

    async fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.waiters.watch_without_blocking(claim, signal).await
    }

    fn inspect(&self) -> Option<&dyn AsyncInspect> {
        Some(self)
    }
}

/// Polls all futures until each has its outcome. Returns those in order.
async fn side_by_side<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    poll_fn(|cx| {
        let mut is_ready = true;
        for (future, outcome) in &mut futures {
            if outcome.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(done) => *outcome = Some(done),
                    Poll::Pending => is_ready = false,
                }
            }
        }
        if is_ready {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    let outcomes = futures.into_iter().filter_map(|(_, outcome)| outcome);
    outcomes.collect()
}

impl AsyncInspect for EtcdDatastore {
    fn holder<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<Option<HeldBy>, DatastoreError>> {
        Box::pin(async move {
            conversation!(self.session(deadline_in(self.call_timeout)), |server, _| {
                holding::holder(server, key)
            })
        })
    }

    fn break_lease<'a>(
        &'a self,
        key: &'a str,
        fence: FencingToken,
    ) -> Boxed<'a, Result<ReleaseOutcome, DatastoreError>> {
        Box::pin(async move {
            conversation!(
                self.urgent_session(deadline_in(self.call_timeout)),
                |server, earlier| { holding::delete_fenced(server, key, fence, earlier) }
            )
        })
    }

    fn waiting<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<usize, DatastoreError>> {
        Box::pin(async move {
            conversation!(self.session(deadline_in(self.call_timeout)), |server, _| {
                queue::count(server, key)
            })
        })
    }

    fn held<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a PageMark>,
    ) -> Boxed<'a, Result<HeldPage, DatastoreError>> {
        Box::pin(async move {
            conversation!(self.session(deadline_in(self.call_timeout)), |server, _| {
                held::held(server, prefix, after)
            })
        })
    }

    /// On a thread of its own, since it asks one node after the other.
    fn findings<'a>(&'a self) -> Boxed<'a, Result<Vec<Finding>, DatastoreError>> {
        Box::pin(async move {
            let (sender, found) = oneshot::channel();
            let (pool, call_timeout) = (Arc::clone(&self.pool), self.call_timeout);
            thread::Builder::new()
                .name("dlock-findings".to_owned())
                .spawn(move || sender.send(findings::findings(&pool, call_timeout)))
                .map_err(|error| DatastoreError::not_executed(ErrorKind::Refused, error))?;
            found.await.unwrap_or_else(|_| Err(ended()))
        })
    }
}
