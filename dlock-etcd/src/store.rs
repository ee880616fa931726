//! The store: chooses the connection and the deadline of each call.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Datastore, DatastoreError, Extension, FencingToken,
    HeldBy, HeldPage, Inspect, Lease, PageMark, Reach, ReleaseOutcome, Time,
};
use dlock_net::{Limits, Pool, call_deadline, deadline_in, r2d2};

use crate::ConnectionManager;
use crate::config::{EtcdBuilder, UrlError};
use crate::held;
use crate::operations::lease::{GRANULARITY, TTL_MAX, TTL_MIN};
use crate::operations::{grant, holding};

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
/// There is no queue yet: waiters poll.
#[derive(Clone)]
pub struct EtcdDatastore {
    pool: Arc<Pool<ConnectionManager>>,
    call_timeout: Duration,
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
        EtcdDatastore {
            pool: Arc::new(pool),
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

    fn deadline(&self, claim: &Claim) -> Time {
        call_deadline(claim, self.call_timeout)
    }
}

impl Datastore for EtcdDatastore {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        self.pool.call(self.deadline(claim), |link, earlier| {
            grant::acquire(link, claim, ttl, earlier)
        })
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        let deadline = self.deadline(lease.claim());
        self.pool
            .call_urgent(deadline, |link, _| holding::extend(link, lease, ttl))
    }

    fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let deadline = self.deadline(lease.claim());
        self.pool.call_urgent(deadline, |link, earlier| {
            holding::release(link, lease, earlier)
        })
    }

    fn characteristics(&self) -> Characteristics {
        Characteristics::default()
            .with_ttl(TTL_MIN, TTL_MAX)
            .with_granularity(GRANULARITY)
            .with_reach(Reach::Network)
            .with_fencing(FENCING)
            .with_call_timeout(self.call_timeout)
    }

    /// Ends the leases that the claim took, or would have taken, and deletes its key. A request
    /// that arrives later finds no lease and changes nothing.
    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.pool.call_urgent(self.deadline(claim), |link, _| {
            holding::abandon(link, claim)
        })
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }
}

impl Inspect for EtcdDatastore {
    fn holder(&self, key: &str) -> Result<Option<HeldBy>, DatastoreError> {
        self.pool.call(deadline_in(self.call_timeout), |link, _| {
            holding::holder(link, key)
        })
    }

    fn break_lease(
        &self,
        key: &str,
        fence: FencingToken,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        let deadline = deadline_in(self.call_timeout);
        self.pool.call_urgent(deadline, |link, earlier| {
            holding::delete_fenced(link, key, fence, earlier)
        })
    }

    fn held(&self, prefix: &str, after: Option<&PageMark>) -> Result<HeldPage, DatastoreError> {
        self.pool.call(deadline_in(self.call_timeout), |link, _| {
            held::held(link, prefix, after)
        })
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
