//! The store: which call runs on which connection, by when.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use dlock_core::{
    Attempt, Characteristics, Claim, Datastore, DatastoreError, ErrorKind, Extension, FencingToken,
    Grant, Held, Inspect, Lease, OwnerToken, Reach, Released, Time,
};
use dlock_net::{Pool, call_deadline, deadline_in, may_have_executed};

use crate::ConnectionManager;
use crate::abandoned::Abandoned;
use crate::batch::{self, BATCH};
use crate::config::{Calls, MemcacheBuilder};
use crate::error::{Problem, UrlError};
use crate::grant::{self, At};
use crate::holding;
use crate::protocol::{Connection, Key};
use crate::record::Record;
use crate::ttl::{GRANULARITY, TTL_MAX, TTL_MIN};

/// How long after a grant the server's clock has caught up after a stall. Its timer is due at once, but on a busy machine the thread that
/// serves it may wait for its turn while another answers requests: 50 ms were not always enough.
pub(crate) const CONFIRM_AFTER: Duration = Duration::from_millis(200);
/// Within what tokens rise.
const FENCING: &str = "across restarts, evictions and flush_all of one server, unless its clock is set back before a restart, or it stores \
more than 16 million keys a second on average";

/// Locks in one memcached server, version 1.6 or newer. Clones share connections.
///
/// **memcached forgets.** A restart, `flush_all` and the eviction of a key to make room lose locks: the holder learns of it at its next
/// renewal, and until then two may believe that they hold. Give locks a server of their own, with memory to spare; and let the guarded
/// resource check [fencing tokens](dlock_core::FencingToken), which rise across all of that.
///
/// # Stalls
///
/// memcached reckons in seconds that it counts itself. After a stall (a stopped process, a paused machine) it is behind, and a key that is
/// stored in that moment lives shorter, by the length of the stall. 0.2 s after each grant the renewal worker looks whether that was so and
/// shortens the lease, so until then a holder may believe in more than it has.
/// [`verify_before_grant`](MemcacheBuilder::verify_before_grant) waits for that look.
#[derive(Clone)]
pub struct MemcacheDatastore {
    pool: Arc<Pool<ConnectionManager>>,
    calls: Calls,
    abandoned: Arc<Abandoned>,
}

impl MemcacheDatastore {
    /// The server at `memcache://host:port` (default port 11211) or `memcache+unix:///path/to/socket`.
    ///
    /// Nothing is sent before the first call.
    ///
    /// # Errors
    ///
    /// A URL that names no memcached server.
    pub fn connect(url: &str) -> Result<Self, UrlError> {
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

    /// The server that the pool's [`ConnectionManager`] leads to, over that pool. The connection that renews is not of the pool.
    pub fn from_pool(pool: r2d2::Pool<ConnectionManager>) -> Self {
        Self::over(Pool::from_r2d2(pool), Calls::default())
    }

    pub(crate) fn over(pool: Pool<ConnectionManager>, calls: Calls) -> Self {
        MemcacheDatastore {
            pool: Arc::new(pool),
            calls,
            abandoned: Arc::default(),
        }
    }

    /// The same with another [`call_timeout`](MemcacheBuilder::call_timeout), for a store made by [`from_pool`](Self::from_pool).
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.calls.timeout = timeout;
        self
    }

    /// The same with or without [`verify_before_grant`](MemcacheBuilder::verify_before_grant), for a store made by
    /// [`from_pool`](Self::from_pool).
    #[must_use]
    pub fn with_verify_before_grant(mut self, verify: bool) -> Self {
        self.calls.verify_before_grant = verify;
        self
    }

    fn deadline(&self, claim: &Claim) -> Time {
        call_deadline(claim, self.calls.timeout)
    }

    /// Runs a call that frees a key. If its connection breaks and the call, sent again, finds nothing to free, the first may have freed it:
    /// that is not known.
    fn freed_once(
        &self,
        deadline: Time,
        free: impl Fn(&mut Connection) -> Result<Released, DatastoreError>,
    ) -> Result<Released, DatastoreError> {
        let mut sent = false;
        self.pool.call(deadline, |link| {
            let answer = free(link);
            if sent && matches!(answer, Ok(Released::NotOurs)) {
                return Err(DatastoreError::maybe_executed(
                    ErrorKind::Refused,
                    Problem::ReplyLost,
                ));
            }
            sent |= may_be_done(&answer);
            answer
        })
    }
}

impl Datastore for MemcacheDatastore {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError> {
        if ttl < TTL_MIN {
            return Err(DatastoreError::not_executed(
                ErrorKind::Invalid,
                Problem::Ttl,
            ));
        }
        self.abandoned.forget(claim.owner());
        let given_up = |owner| self.abandoned.contains(owner);
        let mut in_doubt = false;
        let attempt = self.pool.call(self.deadline(claim), |link| {
            let attempt = if self.calls.verify_before_grant {
                acquire_verified(link, claim, ttl, given_up)
            } else {
                grant::acquire(link, claim, ttl, given_up)
            };
            attempt.inspect_err(|error| in_doubt |= error.may_have_executed())
        })?;
        match attempt {
            Attempt::Granted(grant) => Ok(Attempt::Granted(grant.with_copy_to_follow(in_doubt))),
            // The copy that was sent on the connection which broke may still be on its way, and win after this holder.
            Attempt::Held(_) if in_doubt => Err(DatastoreError::maybe_executed(
                ErrorKind::Unreachable,
                Problem::LostCopy,
            )),
            held @ Attempt::Held(_) => Ok(held),
        }
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        let mut sent = false;
        self.pool.call(self.deadline(lease.claim()), |link| {
            let answer = holding::extend(link, lease, ttl, sent);
            sent |= may_be_done(&answer);
            answer
        })
    }

    fn release(&self, lease: &Lease) -> Result<Released, DatastoreError> {
        self.freed_once(self.deadline(lease.claim()), |link| {
            holding::release(link, lease)
        })
    }

    fn characteristics(&self) -> Characteristics {
        Characteristics::default()
            .with_ttl(TTL_MIN, TTL_MAX)
            .with_granularity(GRANULARITY)
            .with_reach(Reach::Network)
            .with_fencing(FENCING)
            .with_call_timeout(self.calls.timeout)
            .with_confirm_after(CONFIRM_AFTER)
            .with_batch(BATCH)
    }

    /// Deletes what the claim stored, if it did by now. Should the server carry it out later (it was stopped, and goes on), the next claim of
    /// this process finds it and takes its place; others wait for its end, one time to live at most.
    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.abandoned.remember(claim.owner());
        self.pool.call(self.deadline(claim), |link| {
            holding::delete_owned(link, claim).map(|_: Released| ())
        })
    }

    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        leases
            .chunks(BATCH)
            .flat_map(|batch| batch::extend(&self.pool, batch, self.calls.timeout))
            .collect()
    }

    fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        let called = grant::now();
        let answer = self
            .pool
            .call_dedicated(self.deadline(lease.claim()), |link| {
                holding::confirm(link, lease)
            });
        answer.map(|answer| counted_from(called, answer))
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }
}

impl Inspect for MemcacheDatastore {
    fn holder(&self, key: &str) -> Result<Option<Held>, DatastoreError> {
        let key = Key::new(key)?;
        self.pool.call(deadline_in(self.calls.timeout), |link| {
            let item = link.get(key)?;
            Ok(item.map(|item| grant::held(link, &item, Record::parse(&item.value).as_ref())))
        })
    }

    fn break_lease(&self, key: &str, fence: FencingToken) -> Result<Released, DatastoreError> {
        let key = Key::new(key)?;
        self.freed_once(deadline_in(self.calls.timeout), |link| {
            holding::delete_fenced(link, key, fence)
        })
    }
}

/// Claims, and looks before the grant is told whether the server really keeps the key for as long as it said. If not, it is told again.
fn acquire_verified(
    link: &mut Connection,
    claim: &Claim,
    ttl: Duration,
    given_up: impl Fn(OwnerToken) -> bool + Copy,
) -> Result<Attempt, DatastoreError> {
    loop {
        let granted = match grant::acquire(link, claim, ttl, given_up)? {
            Attempt::Granted(granted) => granted,
            held @ Attempt::Held(_) => return Ok(held),
        };
        if link.time_left() <= CONFIRM_AFTER {
            return Err(DatastoreError::maybe_executed(
                ErrorKind::Timeout,
                Problem::Unverified,
            ));
        }
        thread::sleep(CONFIRM_AFTER);
        let lease = Lease::new(claim.clone(), granted);
        let seen = holding::confirm(link, &lease).map_err(may_have_executed)?;
        if let Extension::Extended(seen) = seen
            && kept_until(&seen) >= kept_until(lease.grant())
        {
            return Ok(Attempt::Granted(lease.grant().clone()));
        }
    }
}

/// Whether the call failed, and was carried out nevertheless for all we know.
fn may_be_done<T>(answer: &Result<T, DatastoreError>) -> bool {
    answer
        .as_ref()
        .is_err_and(DatastoreError::may_have_executed)
}

/// The same answer, its time counted from when the call began: core counts from there, but we looked only when there was a connection.
/// Without that a slow greeting would be taken off the lease twice.
fn counted_from(called: Time, answer: Extension) -> Extension {
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

fn kept_until(grant: &Grant) -> Option<Time> {
    let kept = grant.revision.get::<At>()?.kept;
    Some(kept.sent.saturating_add(kept.ttl))
}

impl fmt::Debug for MemcacheDatastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcacheDatastore")
            .field("pool", &self.pool)
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}
