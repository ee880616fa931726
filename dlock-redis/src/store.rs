//! Locks in Redis, as core wants them.

mod outcomes;
mod too_few;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Clock, Datastore, DatastoreError, Extension,
    FencingToken, Finding, HeldBy, HeldPage, Inspect, Lease, PageMark, Reach, ReleaseOutcome,
    Signal, Time, Watch,
};
use dlock_net::{
    Endpoint, Limits, Planned, Pool, SharedOwners, call_deadline, deadline_in, in_batches,
};

use crate::cluster::Cluster;
use crate::config::{RedisBuilder, UrlError};
use crate::findings;
use crate::held::{self, held_by};
use crate::operations::{Answer, Call, Keys};
use crate::pool::ConnectionManager;
use crate::r2d2;
use crate::replicas::Replicas;
use crate::server::{By, Server};
use crate::servers::Servers;
use crate::waiting::Waiters;
pub(crate) use outcomes::{broken, counted, extension};
pub(crate) use too_few::unacknowledged;

const TTL_MIN: Duration = Duration::from_millis(10);
const TTL_MAX: Duration = Duration::from_secs(365 * 86_400);
/// Redis frees a key within two milliseconds of its end; the rest is for a busy server.
const GRANULARITY: Duration = Duration::from_millis(20);
/// How many extends are sent in one trip.
pub(crate) const BATCH: usize = 256;
/// How many unanswered claims are remembered; more are under way only if as many threads claim at a
/// time.
const UNANSWERED_KEPT: usize = 4096;
const FENCING_SCOPE: &str = "until the server loses the fence key (data lost, or unused for as long as it is kept, by default 7 days) while its clock is behind the last token";

/// Locks kept in Redis or Valkey (6.0 or newer): in one server, in the primary that sentinels name,
/// or in a Redis Cluster.
///
/// Clones share connections.
///
/// # What it does not promise
///
/// One server decides alone: in a cluster, that which has the slot of the key. A failover to a
/// replica, a restored backup, the eviction of keys (use `maxmemory-policy noeviction`) or a clock
/// that is set forward may give a lock to a second holder while the first still believes in its
/// lease. Fencing tokens rise through all of these; only if the data is lost *and* the clock is set
/// back may they go back. [`RedisBuilder::wait_replicas`] closes the gap of a failover, as long as
/// the replicas keep what they have acknowledged.
#[derive(Clone)]
pub struct RedisDatastore {
    pub(crate) servers: Servers,
    pub(crate) waiters: Arc<Waiters>,
    /// Claims that the server may have carried out and that were not answered. The next claim of
    /// each of them says so, and gets a new fencing token: nobody has seen the one before, and if
    /// an old copy of the data came back meanwhile, others may have been granted higher ones.
    unanswered: Arc<SharedOwners<UNANSWERED_KEPT>>,
    pub(crate) call_timeout: Duration,
}

impl RedisDatastore {
    /// Locks in the server at `url`, with the usual limits; for the forms of a URL see
    /// [`ConnectionManager::new`]. Opens no connection: the first call does.
    ///
    /// Or in a Redis Cluster, by some of its nodes:
    /// `redis+cluster://[[user]:password@]host[:port][,host[:port]…]`, and `rediss+cluster://…`
    /// with TLS. Each node has its own pool, with the limits of the builder.
    ///
    /// # Errors
    ///
    /// A URL that cannot be used.
    pub fn open(url: &str) -> Result<Self, UrlError> {
        Ok(Self::builder(url)?.build())
    }

    /// The same with other limits.
    ///
    /// # Errors
    ///
    /// A URL that cannot be used.
    pub fn builder(url: &str) -> Result<RedisBuilder, UrlError> {
        RedisBuilder::new(url)
    }

    /// Locks over a pool that the caller made, and may use for other stores besides.
    pub fn from_pool(pool: r2d2::Pool<ConnectionManager>) -> Self {
        let server = Server::new(Pool::from_r2d2(pool), None);
        let servers = Servers::One(Arc::new(server));
        Self::over(servers, Limits::default().call_timeout)
    }

    /// Over one server, or the cluster to which these nodes belong.
    pub(crate) fn new(manager: ConnectionManager, nodes: &[Endpoint], limits: Limits) -> Self {
        let replicas = manager.replicas;
        let one = |manager| Server::new(Pool::new(manager, limits.pool), replicas);
        let servers = match nodes {
            [] => Servers::One(Arc::new(one(manager))),
            nodes => Servers::Cluster(Cluster::new(nodes.to_vec(), manager, limits.pool)),
        };
        Self::over(servers, limits.call_timeout)
    }

    fn over(servers: Servers, call_timeout: Duration) -> Self {
        RedisDatastore {
            waiters: Arc::new(Waiters::new(servers.clone())),
            unanswered: Arc::default(),
            servers,
            call_timeout,
        }
    }

    /// As [`RedisBuilder::wait_replicas`], for [`from_pool`](Self::from_pool). To be called before
    /// the first lock is acquired, as the store begins anew.
    ///
    /// # Errors
    ///
    /// As there, or if the store is one of a cluster.
    pub fn with_wait_replicas(self, count: u32, within: Duration) -> Result<Self, UrlError> {
        let replicas = Replicas::fitting(count, within, self.call_timeout);
        let replicas = replicas.map_err(UrlError::Replicas)?;
        let Servers::One(server) = &self.servers else {
            return Err(UrlError::Replicas("it is an option of the builder"));
        };
        let server = Server::over(Arc::clone(&server.pool), Some(replicas));
        Ok(Self::over(
            Servers::One(Arc::new(server)),
            self.call_timeout,
        ))
    }

    /// With another limit for a call than 2 s, for [`from_pool`](Self::from_pool).
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// One call, and whether an earlier try of it, on a connection that died, may have been carried
    /// out as well.
    fn call(&self, claim: &Claim, call: Call<'_>) -> Result<(Answer, bool), DatastoreError> {
        self.call_within(self.deadline(claim), call)
    }

    fn call_within(
        &self,
        deadline: Time,
        call: Call<'_>,
    ) -> Result<(Answer, bool), DatastoreError> {
        self.servers.call(deadline, call)
    }

    pub(crate) fn deadline(&self, claim: &Claim) -> Time {
        call_deadline(claim, self.call_timeout)
    }

    /// One call that belongs to no claim.
    fn ask(&self, call: Call<'_>) -> Result<(Answer, bool), DatastoreError> {
        self.call_within(deadline_in(self.call_timeout), call)
    }
}

impl Datastore for RedisDatastore {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        let mut answer = self.call(claim, self.acquire_call(claim, ttl));
        if let Some((few, call)) = unacknowledged(claim, &answer) {
            let taken_back = self.call(claim, call);
            answer = few.after(&taken_back);
        }
        self.acquired(claim, ttl, answer)
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        let answer = self
            .call(lease.claim(), Call::Extend(lease, ttl))
            .map(|(answer, _)| answer);
        extension(lease, ttl, answer)
    }

    fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let answer = self.call(lease.claim(), self.release_call(lease));
        self.released(lease, answer)
    }

    fn characteristics(&self) -> Characteristics {
        Characteristics::default()
            .with_ttl(TTL_MIN, TTL_MAX)
            .with_granularity(GRANULARITY)
            .with_reach(Reach::Network)
            .with_fencing(FENCING_SCOPE)
            .with_call_timeout(self.call_timeout)
            .with_wakes()
            .with_batch(BATCH)
            .with_late_calls_refused()
    }

    /// Frees the key if the claim holds it. Called after the claim's own
    /// [`not_after`](Claim::not_after), it leaves nothing behind: from then on the server refuses
    /// the claim, should it still be on its way.
    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        let answer = self.call(claim, self.abandon_call(claim));
        self.abandoned(claim, answer)
    }

    /// From then on a refusal queues the claim, and the release before its turn hands it the lock.
    /// The first waiter of a process starts two threads and opens one connection more, for all of
    /// them; they end ten seconds after the last.
    ///
    /// `None` for a user without the right to subscribe, and in a forked child.
    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.waiters.watch(claim, signal, self.call_timeout)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    /// In one trip per 256, on a connection of its own beside the pool.
    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        let store = self.characteristics();
        let end = |(lease, ttl): &(Lease, Duration)| {
            store.check_ttl(*ttl)?;
            Ok(self.deadline(lease.claim()))
        };
        let server = match &self.servers {
            Servers::One(server) => server,
            Servers::Cluster(cluster) => {
                return extend_in_cluster(cluster, leases, leases.iter().map(end));
            }
        };
        in_batches(&server.pool, leases, BATCH, end, |connection, leases, _| {
            let calls: Vec<_> = leases
                .iter()
                .map(|(lease, ttl)| Call::Extend(lease, *ttl))
                .collect();
            let answers = connection.call_many(&calls, server.replicas)?;
            let answers = leases.iter().zip(answers);
            Ok(answers
                .map(|((lease, ttl), answer)| extension(lease, *ttl, answer))
                .collect())
        })
    }
}

impl Inspect for RedisDatastore {
    /// A lock that was handed to a waiter is shown as held by it, without a fencing token until it
    /// claims the lock.
    fn holder(&self, key: &str) -> Result<Option<HeldBy>, DatastoreError> {
        held_by(self.ask(Call::Holder(key))?)
    }

    /// The next waiter is handed the lock.
    fn break_lease(
        &self,
        key: &str,
        fence: FencingToken,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        broken(self.ask(Call::Break(key, fence, Keys::All))?)
    }

    fn waiting(&self, key: &str) -> Result<usize, DatastoreError> {
        counted(self.ask(Call::Waiting(key))?)
    }

    /// By SCAN, for which the user needs a right of its own; in a cluster one node after the other.
    fn held(&self, prefix: &str, after: Option<&PageMark>) -> Result<HeldPage, DatastoreError> {
        let deadline = deadline_in(self.call_timeout);
        held::held(&self.servers, deadline, prefix, after)
    }

    /// By TIME, INFO and CONFIG GET, on each server that has keys. A right that the user lacks is a
    /// finding.
    fn findings(&self) -> Result<Vec<Finding>, DatastoreError> {
        findings::findings(&self.servers, self.call_timeout)
    }
}

/// Extends those leases that have time left, on all nodes at a time.
fn extend_in_cluster(
    cluster: &Arc<Cluster>,
    leases: &[(Lease, Duration)],
    ends: impl Iterator<Item = Result<Time, DatastoreError>>,
) -> Vec<Result<Extension, DatastoreError>> {
    let planned = Planned::of(ends, || Clock::BOOTTIME.now());
    let in_time = planned.in_time().iter().map(|at| &leases[*at]);
    let calls: Vec<_> = in_time
        .clone()
        .map(|(lease, ttl)| Call::Extend(lease, *ttl))
        .collect();
    let answers = cluster.call_all(planned.deadline(), &calls, By::Dedicated);
    let extended = in_time.zip(answers);
    let extended = extended.map(|((lease, ttl), answer)| extension(lease, *ttl, answer));
    let extended = extended.collect();
    planned.answered(Ok(extended))
}

impl fmt::Debug for RedisDatastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisDatastore")
            .field("servers", &self.servers)
            .field("call_timeout", &self.call_timeout)
            .finish()
    }
}
