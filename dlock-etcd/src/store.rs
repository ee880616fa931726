//! The store: chooses the connection and the deadline of each call.

mod batch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Datastore, DatastoreError, Extension, FencingToken,
    Finding, HeldBy, HeldPage, Inspect, Lease, PageMark, Reach, ReleaseOutcome, Signal, Time,
    Watch, at_once,
};
use dlock_net::{Limits, Pool, call_deadline, deadline_in, r2d2};

use crate::ConnectionManager;
#[cfg(feature = "tokio")]
use crate::aio::Shares;
use crate::config::{EtcdBuilder, UrlError};
use crate::findings;
use crate::held;
use crate::operations::lease::{GRANULARITY, TTL_MAX, TTL_MIN};
use crate::operations::unanswered::Unanswered;
use crate::operations::{grant, holding, queue};
use crate::waiting::Waiters;
pub(crate) use batch::BATCH;

/// Within what tokens rise.
const FENCING: &str = "of one cluster, until it is restored from a snapshot or replaced";

/// Locks in an etcd cluster, version 3.4 or newer. Clones share connections.
///
/// **etcd keeps its locks.** What it grants is on the disks of a majority: neither a restart nor
/// the loss of a minority of the nodes loses a lock, and no other node grants it again. If the
/// majority is lost, nothing is granted, extended or released until it is back.
///
/// # Late, never early
///
/// A lease of etcd ends by the leader's clock, in whole seconds, and 2.5 s after its time at the
/// latest. When another leader takes over, all leases begin anew: the key of a holder that died
/// may then stay taken for one more time to live. It is never free too early.
///
/// # Waiters
///
/// Waiters queue, in the order of their coming. Each is woken when the one before it is gone, or
/// the holder if it is the first; all of a process share one connection and one lease, which is
/// renewed once a second. Waiters of a process that dies delay the next one by 5 s at the most.
#[derive(Clone)]
pub struct EtcdDatastore {
    pub(crate) pool: Arc<Pool<ConnectionManager>>,
    /// The connections of the async form.
    #[cfg(feature = "tokio")]
    pub(crate) shares: Arc<Shares>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) unanswered: Arc<Unanswered>,
    pub(crate) call_timeout: Duration,
}

impl EtcdDatastore {
    /// A store on the cluster with the nodes at
    /// `etcd://[user:password@]host[:port][,host[:port]…]` (default port 2379), or the same with
    /// TLS at `etcds://…[?ca=/path/to/authorities.pem]`; without `ca` the system's authorities are
    /// believed. `?cert=/path/to/client.crt&key=/path/to/client.key` is for nodes that require a
    /// certificate of their clients. Special characters in the login are percent-encoded. A call
    /// goes to the node that answered last, or else to the next one that has a leader.
    ///
    /// Nothing is sent before the first call.
    ///
    /// # Errors
    ///
    /// A URL that does not name the nodes of an etcd cluster; certificates that cannot be used.
    pub fn open(url: &str) -> Result<Self, UrlError> {
        Ok(Self::builder(url)?.build())
    }

    /// The same with other limits.
    ///
    /// # Errors
    ///
    /// A URL that does not name the nodes of an etcd cluster; certificates that cannot be used.
    pub fn builder(url: &str) -> Result<EtcdBuilder, UrlError> {
        EtcdBuilder::new(url)
    }

    /// A store on the cluster of the pool's [`ConnectionManager`], over that pool.
    pub fn from_pool(pool: r2d2::Pool<ConnectionManager>) -> Self {
        Self::over(Pool::from_r2d2(pool), Limits::default())
    }

    pub(crate) fn over(pool: Pool<ConnectionManager>, limits: Limits) -> Self {
        let pool = Arc::new(pool);
        EtcdDatastore {
            #[cfg(feature = "tokio")]
            shares: Arc::new(Shares::new(&pool)),
            waiters: Arc::new(Waiters::new(Arc::clone(&pool))),
            unanswered: Arc::default(),
            pool,
            call_timeout: limits.call_timeout,
        }
    }

    /// The same with another [`call_timeout`](EtcdBuilder::call_timeout), for a store made by
    /// [`from_pool`](Self::from_pool).
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    pub(crate) fn deadline(&self, claim: &Claim) -> Time {
        call_deadline(claim, self.call_timeout)
    }
}

impl Datastore for EtcdDatastore {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        let deadline = self.deadline(claim);
        let turn = self.waiters.turn(claim, deadline);
        let (queue, unanswered) = (turn.as_ref(), &self.unanswered);
        let outcome = self.pool.call(deadline, |link, earlier| {
            at_once(grant::acquire(link, claim, ttl, earlier, unanswered, queue))
        });
        if let Some(turn) = turn {
            turn.ended(&outcome);
        }
        outcome
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        let deadline = self.deadline(lease.claim());
        self.pool.call_urgent(deadline, |link, _| {
            at_once(holding::extend(link, lease, ttl))
        })
    }

    fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let deadline = self.deadline(lease.claim());
        self.pool.call_urgent(deadline, |link, earlier| {
            at_once(holding::release(link, lease, earlier))
        })
    }

    fn characteristics(&self) -> Characteristics {
        Characteristics::default()
            .with_ttl(TTL_MIN, TTL_MAX)
            .with_granularity(GRANULARITY)
            .with_reach(Reach::Network)
            .with_fencing(FENCING)
            .with_call_timeout(self.call_timeout)
            .with_wakes()
            .with_batch(BATCH)
    }

    /// Ends the leases with which the claim may yet be carried out, and deletes its key. A request
    /// that arrives later finds no lease and changes nothing.
    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        let place = self.waiters.gives_up(claim);
        self.pool.call_urgent(self.deadline(claim), |link, _| {
            let unanswered = &self.unanswered;
            at_once(holding::abandon(link, claim, unanswered, place.as_ref()))
        })
    }

    /// From then on a refusal gives the claim a place in the queue. The first waiter of a process
    /// starts two threads and opens one connection more, for all of them; they end ten seconds
    /// after the last.
    ///
    /// `None` in a forked child.
    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.waiters.watch(claim, signal, self.call_timeout)
    }

    /// Eight at a time.
    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        self.extend_side_by_side(leases)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }
}

impl Inspect for EtcdDatastore {
    fn holder(&self, key: &str) -> Result<Option<HeldBy>, DatastoreError> {
        self.pool.call(deadline_in(self.call_timeout), |link, _| {
            at_once(holding::holder(link, key))
        })
    }

    fn break_lease(
        &self,
        key: &str,
        fence: FencingToken,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        let deadline = deadline_in(self.call_timeout);
        self.pool.call_urgent(deadline, |link, earlier| {
            at_once(holding::delete_fenced(link, key, fence, earlier))
        })
    }

    fn waiting(&self, key: &str) -> Result<usize, DatastoreError> {
        self.pool.call(deadline_in(self.call_timeout), |link, _| {
            at_once(queue::count(link, key))
        })
    }

    fn held(&self, prefix: &str, after: Option<&PageMark>) -> Result<HeldPage, DatastoreError> {
        self.pool.call(deadline_in(self.call_timeout), |link, _| {
            at_once(held::held(link, prefix, after))
        })
    }

    /// By the status of each node that the URL names, the members, the alarms, and a transaction
    /// that changes nothing.
    fn findings(&self) -> Result<Vec<Finding>, DatastoreError> {
        findings::findings(&self.pool, self.call_timeout)
    }
}

impl fmt::Debug for EtcdDatastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdDatastore")
            .field("pool", &self.pool)
            .field("call_timeout", &self.call_timeout)
            .finish_non_exhaustive()
    }
}
