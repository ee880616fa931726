//! What core asks of an async store.

use std::slice;
use std::time::Duration;

use dlock_core::aio::{AsyncDatastore, AsyncInspect, Boxed};
use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Clock, Datastore, DatastoreError, ErrorKind, Extension,
    FencingToken, Finding, HeldBy, HeldPage, Inspect, Lease, OwnerToken, PageMark, ReleaseOutcome,
    Time,
};
use dlock_net::mux::on_own_thread;
use dlock_net::{Planned, deadline_in};

use super::connection::SharedConnection;
use crate::operations::batch::{self, BATCH};
use crate::operations::commands::Key;
use crate::operations::grant::{self, Wanted};
use crate::operations::holding;
use crate::store::{MemcacheDatastore, counted_from, not_listed};

/// Holds a conversation, which may run twice. An async closure would do as well, but a future that
/// has one in it and borrows is not known to be `Send`.
macro_rules! conversation {
    ($store:expr, $deadline:expr, |$server:ident, $earlier:pat_param| $run:expr) => {{
        let mut session = $store.mux.session($deadline)?;
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

/// The async form shares everything but its connections with the blocking one: the same records and
/// conversations, the same deadlines, the same knowledge of the server's incarnations. A
/// conversation keeps to one connection, which all of a runtime share.
impl AsyncDatastore for MemcacheDatastore {
    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        Datastore::characteristics(self).check_ttl(ttl)?;
        self.abandoned.remove(claim.owner());
        let given_up = |owner: OwnerToken| self.abandoned.has(owner);
        let wanted = Wanted {
            claim,
            ttl,
            verify: self.verify_before_grant,
        };
        conversation!(self, self.deadline(claim), |server, earlier| {
            grant::acquire(server, &wanted, given_up, earlier)
        })
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        conversation!(self, self.deadline(lease.claim()), |server, earlier| {
            holding::extend(server, lease, ttl, earlier)
        })
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        conversation!(self, self.deadline(lease.claim()), |server, earlier| {
            holding::release(server, lease, earlier)
        })
    }

    fn characteristics(&self) -> Characteristics {
        Datastore::characteristics(self)
    }

    fn is_polled_by_caller(&self) -> bool {
        true
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.abandoned.add(claim.owner());
        let deleted = conversation!(self, self.deadline(claim), |server, _| {
            holding::delete_owned(server, claim)
        });
        deleted.map(|_: ReleaseOutcome| ())
    }

    async fn extend_many(
        &self,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let mut answers = Vec::with_capacity(leases.len());
        for batch in leases.chunks(BATCH) {
            answers.extend(self.extend_batch(batch).await);
        }
        answers
    }

    async fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        let mut answers = self.confirm_batch(slice::from_ref(lease)).await;
        answers.pop().unwrap_or_else(|| {
            let missing = "no answer to the only request";
            Err(DatastoreError::not_executed(ErrorKind::Protocol, missing))
        })
    }

    async fn confirm_many(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
        let mut answers = Vec::with_capacity(leases.len());
        for batch in leases.chunks(BATCH) {
            answers.extend(self.confirm_batch(batch).await);
        }
        answers
    }

    fn inspect(&self) -> Option<&dyn AsyncInspect> {
        Some(self)
    }
}

impl AsyncInspect for MemcacheDatastore {
    fn holder<'a>(&'a self, key: &'a str) -> Boxed<'a, Result<Option<HeldBy>, DatastoreError>> {
        Box::pin(async move {
            let key = Key::new(key)?;
            conversation!(self, deadline_in(self.call_timeout), |server, _| {
                grant::holder(server, key)
            })
        })
    }

    fn break_lease<'a>(
        &'a self,
        key: &'a str,
        fence: FencingToken,
    ) -> Boxed<'a, Result<ReleaseOutcome, DatastoreError>> {
        Box::pin(async move {
            let key = Key::new(key)?;
            conversation!(self, deadline_in(self.call_timeout), |server, earlier| {
                holding::delete_fenced(server, key, fence, earlier)
            })
        })
    }

    fn held<'a>(
        &'a self,
        _: &'a str,
        _: Option<&'a PageMark>,
    ) -> Boxed<'a, Result<HeldPage, DatastoreError>> {
        Box::pin(async { Err(not_listed()) })
    }

    /// As the blocking form does, on a thread of its own.
    fn findings<'a>(&'a self) -> Boxed<'a, Result<Vec<Finding>, DatastoreError>> {
        let store = self.clone();
        Box::pin(on_own_thread(move || Inspect::findings(&store)))
    }
}

impl MemcacheDatastore {
    /// Extends the leases with one round trip, and one more for each that needs a look.
    async fn extend_batch(
        &self,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let ends = leases.iter();
        let ends = ends.map(|(lease, _)| Ok(self.deadline(lease.claim())));
        let planned = Planned::of(ends, || Clock::BOOTTIME.now());
        let in_time: Vec<_> = planned.in_time().iter().map(|at| &leases[*at]).collect();
        let answers = match in_time.is_empty() {
            true => Ok(Vec::new()),
            false => self.extend_in_time(planned.deadline(), &in_time).await,
        };
        planned.answered(answers)
    }

    /// Reads with one round trip for how long the server really keeps the leases.
    async fn confirm_batch(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
        let called = Clock::BOOTTIME.now();
        let ends = leases.iter().map(|lease| Ok(self.deadline(lease.claim())));
        let planned = Planned::of(ends, || Clock::BOOTTIME.now());
        let in_time: Vec<_> = planned.in_time().iter().map(|at| &leases[*at]).collect();
        let answers = match in_time.is_empty() {
            true => Ok(Vec::new()),
            false => self.confirm_in_time(planned.deadline(), &in_time).await,
        };
        let answers = planned.answered(answers).into_iter();
        answers
            .map(|answer| answer.map(|answer| counted_from(called, answer)))
            .collect()
    }
    async fn extend_in_time(
        &self,
        deadline: Time,
        leases: &[&(Lease, Duration)],
    ) -> Result<Vec<Result<Extension, DatastoreError>>, DatastoreError> {
        conversation!(self, deadline, |server, earlier| {
            batch::extend_many(server, leases, earlier)
        })
    }

    async fn confirm_in_time(
        &self,
        deadline: Time,
        leases: &[&Lease],
    ) -> Result<Vec<Result<Extension, DatastoreError>>, DatastoreError> {
        conversation!(self, deadline, |server, _| {
            holding::confirm_many(server, leases)
        })
    }
}
