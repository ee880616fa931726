//! Locks in PostgreSQL, as core wants them: which call runs on which connection, by when.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Datastore, DatastoreError, Extension, FencingToken,
    Finding, Grant, HeldBy, HeldPage, Inspect, Lease, PageMark, Reach, ReleaseOutcome, Signal,
    Time, Watch,
};
use dlock_net::{Earlier, Limits, Pool, call_deadline, deadline_in, lost_reply};

#[cfg(feature = "tokio")]
use crate::aio::Shares;
use crate::config::PostgresBuilder;
use crate::connection::Connection;
use crate::error::{UrlError, stale, unexpected};
use crate::findings;
use crate::held;
use crate::operations::{Answer, Call};
use crate::pool::ConnectionManager;
use crate::r2d2;
use crate::waiting::Waiters;

const TTL_MIN: Duration = Duration::from_millis(10);
const TTL_MAX: Duration = Duration::from_secs(365 * 86_400);
/// A lease ends at a time that each call compares with the server's clock; the rest is for a busy
/// server.
const GRANULARITY: Duration = Duration::from_millis(20);
const FENCING: &str = "until the server loses the lock's row (data lost, or unused for 7 days) while its clock is behind the last token";

/// The SQL that creates the schema `dlock`, or brings it up to date. It can be run by
/// [`ConnectionManager::migrate`], or by `psql` as any other script.
pub const MIGRATION: &str = include_str!("schema.sql");

/// Locks kept in PostgreSQL (13 or newer), in a table of their own. Clones share connections.
///
/// Each call is one transaction of one statement. Behind a pooler such as PgBouncer it has no name,
/// so each call may get another connection. The server decides with its own clock.
///
/// # The schema
///
/// The schema `dlock` must be there: run [`ConnectionManager::migrate`] once, or [`MIGRATION`] with
/// `psql`. Without it calls fail with an error that says so.
///
/// # What it does not promise
///
/// The primary decides alone. A failover to a standby that has not received a grant, a restored
/// backup, or a server clock that is set forward may give a lock to a second holder while the first
/// still believes in its lease. Fencing tokens rise through all of these, unless the clock of the
/// new primary is behind the last token. With synchronous standbys a failover loses no grant.
///
/// # Async code
///
/// With the feature `tokio` it is a store for `dlock_core::aio` too. Those calls go over
/// connections of their own: each runtime has as many as the pool.
#[derive(Clone)]
pub struct PostgresDatastore {
    pool: Arc<Pool<ConnectionManager>>,
    pub(crate) waiters: Arc<Waiters>,
    #[cfg(feature = "tokio")]
    pub(crate) shares: Arc<Shares>,
    pub(crate) call_timeout: Duration,
}

impl PostgresDatastore {
    /// Locks in the database at `postgres://user[:password]@host[:port][,host[:port]…]/database`
    /// (default port 5432), or behind a Unix socket at
    /// `postgres://user@/database?host=/folder/of/the/socket`. `postgresql://` is the same.
    ///
    /// `?sslmode=` and the options beside it protect the connection, see
    /// [`SslMode`](crate::SslMode), and `?sslrootcert=/path/to/authorities.pem` alone makes it as
    /// safe as it can be.
    ///
    /// With several hosts, the one that takes writes is used. Opens no connection: the first call
    /// does.
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
    pub fn builder(url: &str) -> Result<PostgresBuilder, UrlError> {
        PostgresBuilder::new(url)
    }

    /// Locks over a pool that the caller made, and may use for other stores besides.
    pub fn from_pool(pool: r2d2::Pool<ConnectionManager>) -> Self {
        Self::over(Pool::from_r2d2(pool), Limits::default().call_timeout)
    }

    pub(crate) fn new(manager: ConnectionManager, limits: Limits) -> Self {
        Self::over(Pool::new(manager, limits.pool), limits.call_timeout)
    }

    fn over(pool: Pool<ConnectionManager>, call_timeout: Duration) -> Self {
        let pool = Arc::new(pool);
        PostgresDatastore {
            waiters: Arc::new(Waiters::new(Arc::clone(&pool))),
            #[cfg(feature = "tokio")]
            shares: Arc::new(Shares::of(&pool)),
            pool,
            call_timeout,
        }
    }

    /// With another limit for a call than 2 s, for [`from_pool`](Self::from_pool).
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    fn call(&self, deadline: Time, call: Call<'_>) -> Result<(Answer, bool), DatastoreError> {
        let make = |connection: &mut Connection, earlier: Earlier| {
            Ok((connection.call(&call)?, earlier.may_have_run()))
        };
        match call.is_urgent() {
            false => self.pool.call(deadline, make),
            true => self.pool.call_urgent(deadline, make),
        }
    }

    pub(crate) fn acquire_call<'a>(&'a self, claim: &'a Claim, ttl: Duration) -> Call<'a> {
        Call::Acquire(claim, ttl, self.waiters.process_of(claim))
    }

    /// The outcome of a claim.
    pub(crate) fn acquired(
        &self,
        claim: &Claim,
        answer: Result<(Answer, bool), DatastoreError>,
    ) -> Result<AcquireOutcome, DatastoreError> {
        match answer? {
            (Answer::Granted { fence, left }, in_doubt) => {
                self.waiters.granted(claim);
                let grant = Grant::new(left).with_fence(fence);
                Ok(AcquireOutcome::Granted(grant.with_copy_to_follow(in_doubt)))
            }
            // The first copy of the claim may still be on its way, and win after this holder.
            (Answer::Held(_) | Answer::Queued(..) | Answer::TooLate, true) => Err(lost_reply()),
            (Answer::Held(held), false) => Ok(AcquireOutcome::Held(held)),
            (Answer::Queued(held, is_next), false) => {
                let retry_in = self.waiters.retry_in(claim, &held, is_next);
                Ok(AcquireOutcome::Held(held.with_retry_in(retry_in)))
            }
            (Answer::TooLate, false) => Err(stale()),
            _ => Err(unexpected()),
        }
    }

    /// A call that belongs to no claim.
    fn ask(&self, call: Call<'_>) -> Result<(Answer, bool), DatastoreError> {
        self.call(deadline_in(self.call_timeout), call)
    }

    pub(crate) fn deadline(&self, claim: &Claim) -> Time {
        call_deadline(claim, self.call_timeout)
    }
}

impl Datastore for PostgresDatastore {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        let answer = self.call(self.deadline(claim), self.acquire_call(claim, ttl));
        self.acquired(claim, answer)
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.characteristics().check_ttl(ttl)?;
        let deadline = self.deadline(lease.claim());
        extension(lease, self.call(deadline, Call::Extend(lease, ttl)))
    }

    fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let claim = lease.claim();
        freed(self.call(self.deadline(claim), Call::Release(claim)))
    }

    fn characteristics(&self) -> Characteristics {
        Characteristics::default()
            .with_ttl(TTL_MIN, TTL_MAX)
            .with_granularity(GRANULARITY)
            .with_reach(Reach::Network)
            .with_fencing(FENCING)
            .with_call_timeout(self.call_timeout)
            .with_wakes()
            .with_late_calls_refused()
    }

    /// Frees the key if the claim holds it. Called after the claim's own
    /// [`not_after`](Claim::not_after), it leaves nothing behind: from then on the server refuses
    /// the claim, should it still be on its way, and this waits for one that is being committed.
    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        undone(self.call(self.deadline(claim), Call::Abandon(claim)))
    }

    /// From then on a refusal queues the claim, and the release before its turn hands it the lock.
    /// The first waiter of a process starts a thread and opens one connection more, for all of
    /// them; they end ten seconds after the last. Behind a pooler, which delivers no notifications,
    /// that connection asks ten times a second instead.
    ///
    /// `None` in a forked child.
    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.waiters.watch(claim, signal, self.call_timeout)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }
}

impl Inspect for PostgresDatastore {
    fn holder(&self, key: &str) -> Result<Option<HeldBy>, DatastoreError> {
        held_by(self.ask(Call::Holder(key)))
    }

    /// The next waiter is handed the lock.
    fn break_lease(
        &self,
        key: &str,
        fence: FencingToken,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        freed(self.ask(Call::Break(key, fence)))
    }

    fn waiting(&self, key: &str) -> Result<usize, DatastoreError> {
        counted(self.ask(Call::Waiting(key)))
    }

    /// By one statement that any user may run. What only other users' transactions show, a user
    /// with the role `pg_read_all_stats` sees.
    fn findings(&self) -> Result<Vec<Finding>, DatastoreError> {
        let before = findings::unix_now();
        found(before, self.ask(Call::Facts))
    }

    fn held(&self, prefix: &str, after: Option<&PageMark>) -> Result<HeldPage, DatastoreError> {
        let begin = held::begin(prefix, after)?;
        held::page(self.ask(Call::Held(prefix, begin))?.0)
    }
}

/// What a call was answered, and whether an earlier try of it may have been carried out as well.
type Answered = Result<(Answer, bool), DatastoreError>;

/// The outcome of an extend.
pub(crate) fn extension(lease: &Lease, answer: Answered) -> Result<Extension, DatastoreError> {
    match answer? {
        (Answer::Extended(left), _) => Ok(lease.extended(left)),
        (Answer::Lost, _) => Ok(Extension::Lost),
        (Answer::TooLate, in_doubt) => Err(stale().with_execution(in_doubt)),
        _ => Err(unexpected()),
    }
}

/// The outcome of a release or a break.
pub(crate) fn freed(answer: Answered) -> Result<ReleaseOutcome, DatastoreError> {
    match answer? {
        (Answer::Freed(false), true) => Err(lost_reply()),
        (Answer::Freed(done), _) => Ok(ReleaseOutcome::from(done)),
        _ => Err(unexpected()),
    }
}

/// The outcome of abandoning a claim.
pub(crate) fn undone(answer: Answered) -> Result<(), DatastoreError> {
    match answer? {
        (Answer::Freed(_), _) => Ok(()),
        _ => Err(unexpected()),
    }
}

pub(crate) fn held_by(answer: Answered) -> Result<Option<HeldBy>, DatastoreError> {
    match answer? {
        (Answer::Holder(held), _) => Ok(held),
        _ => Err(unexpected()),
    }
}

/// What is wrong with a server that was asked at `before`, since 1970.
pub(crate) fn found(before: Duration, answer: Answered) -> Result<Vec<Finding>, DatastoreError> {
    match answer {
        Ok((Answer::Facts(facts), _)) => Ok(facts.findings(before, findings::unix_now())),
        Ok(_) => Err(unexpected()),
        Err(error) => findings::of_refusal(error),
    }
}

pub(crate) fn counted(answer: Answered) -> Result<usize, DatastoreError> {
    match answer? {
        (Answer::Waiting(count), _) => Ok(count),
        _ => Err(unexpected()),
    }
}

impl fmt::Debug for PostgresDatastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresDatastore")
            .field("pool", &self.pool)
            .field("call_timeout", &self.call_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
