//! The store: chooses the connection and the deadline of each call.

use std::fmt;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Clock, Datastore, DatastoreError, ErrorKind, Extension,
    FencingToken, Finding, HeldBy, HeldPage, Inspect, Lease, PageMark, Reach, ReleaseOutcome, Time,
    at_once,
};
use dlock_net::{Limits, Pool, SharedOwners, call_deadline, deadline_in};

use crate::ConnectionManager;
#[cfg(feature = "tokio")]
use crate::aio;
use crate::config::MemcacheBuilder;
use crate::config::UrlError;
use crate::operations::batch::{self, BATCH};
use crate::operations::commands::Key;
use crate::operations::grant::{self, CONFIRM_AFTER, Wanted};
use crate::operations::holding;
use crate::operations::revision::kept_until;
use crate::operations::ttl::{GRANULARITY, TTL_MAX, TTL_MIN};

/// How many claims that were given up are remembered.
const ABANDONED_KEPT: usize = 256;
/// Within what tokens rise.
const FENCING: &str = "across restarts, evictions and flush_all of one server, unless its clock is set back before a restart, or it stores \
more than 4 million keys a second on average";

/// Locks in one memcached server, version 1.6 or newer. Clones share connections.
///
/// **memcached forgets.** A restart, `flush_all` and evictions lose locks. The holder learns of it
/// at its next renewal; until then two processes may believe that they hold the lock. Give locks
/// their own server with memory to spare, and let the guarded resource check [fencing
/// tokens](dlock_core::FencingToken), which rise across all of these events.
///
/// # Stalls
///
/// memcached counts seconds itself. After a stall (a stopped process, a paused machine) its count
/// is behind, and a key that is stored in that moment lives shorter by the length of the stall. 0.2
/// s after each grant the renewal worker checks for that and shortens the lease. Until then a
/// holder may believe that its lease lasts longer than it does.
/// [`verify_before_grant`](MemcacheBuilder::verify_before_grant) waits for that check.
#[derive(Clone)]
pub struct MemcacheDatastore {
    pool: Arc<Pool<ConnectionManager>>,
    pub(crate) call_timeout: Duration,
    pub(crate) verify_before_grant: bool,
    /// Claims that this process gave up while their requests may still be with the server.
    ///
    /// A request to memcached cannot say until when it is worth carrying out. One that a stopped
    /// server carries out when it goes on leaves a lock that nobody believes to hold; the next
    /// claim of the same process knows it by its token.
    pub(crate) abandoned: Arc<SharedOwners<ABANDONED_KEPT>>,
    #[cfg(feature = "tokio")]
    pub(crate) mux: Arc<aio::Shares>,
}

impl MemcacheDatastore {
    /// A store on the server at `memcache://host:port` (default port 11211) or
    /// `memcache+unix:///path/to/socket`.
    ///
    /// Nothing is sent before the first call.
    ///
    /// # Errors
    ///
    /// A URL that names no memcached server.
    pub fn open(url: &str) -> Result<Self, UrlError> {
        Ok(Self::builder(url)?.build())
    }

    /// The same with other limits.
    ///
    /// # Errors
    ///
    /// A URL that names no memcached server.
    pub fn builder(url: &str) -> Result<MemcacheBuilder, UrlError> {
        MemcacheBuilder::new(url)
    }

    /// A store on the server of the pool's [`ConnectionManager`], over that pool. The connection
    /// for renewals does not belong to the pool.
    pub fn from_pool(pool: r2d2::Pool<ConnectionManager>) -> Self {
        Self::over(Pool::from_r2d2(pool), Limits::default())
    }

    pub(crate) fn over(pool: Pool<ConnectionManager>, limits: Limits) -> Self {
        let pool = Arc::new(pool);
        MemcacheDatastore {
            #[cfg(feature = "tokio")]
            mux: Arc::new(aio::shares(&pool)),
            pool,
            call_timeout: limits.call_timeout,
            verify_before_grant: false,
            abandoned: Arc::default(),
        }
    }

    /// The same with another [`call_timeout`](MemcacheBuilder::call_timeout), for a store made by
    /// [`from_pool`](Self::from_pool).
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// The same with or without [`verify_before_grant`](MemcacheBuilder::verify_before_grant), for
    /// a store made by [`from_pool`](Self::from_pool).
    #[must_use]
    pub fn with_verify_before_grant(mut self, verify: bool) -> Self {
        self.verify_before_grant = verify;
        self
    }

    pub(crate) fn deadline(&self, claim: &Claim) -> Time {
        call_deadline(claim, self.call_timeout)
    }
}

impl Datastore for MemcacheDatastore {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        self.abandoned.remove(claim.owner());
        let given_up = |owner| self.abandoned.has(owner);
        let wanted = Wanted {
            claim,
            ttl,
            verify: self.verify_before_grant,
        };
        self.pool.call(self.deadline(claim), |link, earlier| {
            at_once(grant::acquire(link, &wanted, given_up, earlier))
        })
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        let deadline = self.deadline(lease.claim());
        self.pool.call_urgent(deadline, |link, earlier| {
            at_once(holding::extend(link, lease, ttl, earlier))
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
            .with_confirm_after(CONFIRM_AFTER)
            .with_batch(BATCH)
            .with_confirm_batch(BATCH)
    }

    /// Deletes the record of the claim, if it exists by now. If the server carries the claim out
    /// later, because it was stopped, the next claim of this process finds that record and replaces
    /// it. Other processes wait for its end, at most one time to live.
    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.abandoned.add(claim.owner());
        self.pool.call_urgent(self.deadline(claim), |link, _| {
            at_once(holding::delete_owned(link, claim)).map(|_: ReleaseOutcome| ())
        })
    }

    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        batch::extend(&self.pool, leases, self.call_timeout)
    }

    fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        let mut answers = self.confirm_many(slice::from_ref(lease));
        answers.pop().unwrap_or_else(|| {
            let missing = "no answer to the only request";
            Err(DatastoreError::not_executed(ErrorKind::Protocol, missing))
        })
    }

    fn confirm_many(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
        let called = Clock::BOOTTIME.now();
        let answers = batch::confirm(&self.pool, leases, self.call_timeout);
        let counted = answers.into_iter();
        counted
            .map(|answer| answer.map(|answer| counted_from(called, answer)))
            .collect()
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }
}

impl Inspect for MemcacheDatastore {
    fn holder(&self, key: &str) -> Result<Option<HeldBy>, DatastoreError> {
        let key = Key::new(key)?;
        self.pool.call(deadline_in(self.call_timeout), |link, _| {
            at_once(grant::holder(link, key))
        })
    }

    fn break_lease(
        &self,
        key: &str,
        fence: FencingToken,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        let key = Key::new(key)?;
        let deadline = deadline_in(self.call_timeout);
        self.pool.call_urgent(deadline, |link, earlier| {
            at_once(holding::delete_fenced(link, key, fence, earlier))
        })
    }

    /// memcached does not list its keys.
    fn held(&self, _: &str, _: Option<&PageMark>) -> Result<HeldPage, DatastoreError> {
        Err(not_listed())
    }

    /// By the server's statistics. A server that cannot keep locks is not a finding but the error
    /// of each call.
    fn findings(&self) -> Result<Vec<Finding>, DatastoreError> {
        self.pool
            .call(deadline_in(self.call_timeout), |link, _| link.findings())
    }
}

/// Why there is no list.
pub(crate) fn not_listed() -> DatastoreError {
    let text = "memcached cannot list its keys; ask for a lock by its name";
    DatastoreError::not_executed(ErrorKind::Unsupported, text)
}

/// The same answer with its time counted from the start of the call, as core counts it. The read
/// came later, when there was a connection; otherwise a slow handshake would shorten the lease
/// twice.
pub(crate) fn counted_from(called: Time, answer: Extension) -> Extension {
    match answer {
        Extension::Extended(mut grant) => {
            if let Some(until) = kept_until(&grant) {
                grant.ttl = called.until(until);
            }
            Extension::Extended(grant)
        }
        Extension::Lost => Extension::Lost,
    }
}

impl fmt::Debug for MemcacheDatastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcacheDatastore")
            .field("pool", &self.pool)
            .field("call_timeout", &self.call_timeout)
            .field("verify_before_grant", &self.verify_before_grant)
            .finish_non_exhaustive()
    }
}
