//! Locks in Redis, as core wants them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{
    Attempt, Characteristics, Claim, Clock, Datastore, DatastoreError, ErrorKind, Extension, Grant,
    Lease, Reach, Released, Signal, Time, Watch,
};
use dlock_net::{Pool, PoolSettings, call_deadline, may_have_executed};

use crate::config::{CALL_TIMEOUT, RedisBuilder, UrlError};
use crate::connection::Connection;
use crate::pool::ConnectionManager;
use crate::protocol::{Answer, Call, LOOK_EVERY};
use crate::r2d2;
use crate::waiting::Waiters;

const TTL_MIN: Duration = Duration::from_millis(10);
const TTL_MAX: Duration = Duration::from_secs(365 * 86_400);
/// Redis frees a key within two milliseconds of its end; the rest is for a busy server.
const GRANULARITY: Duration = Duration::from_millis(20);
/// How many extends are sent in one trip.
const BATCH: usize = 256;
/// Who is queued is woken, unless the server has lost it alone: a replica that took over may lack the last to come.
const UNTIL_WOKEN: Duration = Duration::from_secs(60);
/// A batch has at least this long, if any of its leases has.
const BATCH_PATIENCE: Duration = Duration::from_millis(250);
const FENCING_SCOPE: &str = "until the server loses the fence key (data lost, or unused for 7 days) while its clock is behind the last token";

/// Locks kept in one Redis or Valkey server (6.0 or newer).
///
/// Clones share connections.
///
/// # What it does not promise
///
/// The server decides alone. Whoever fails over to a replica, restores a backup, evicts keys (use `maxmemory-policy noeviction`) or sets the
/// server's clock forward may give a lock to a second holder while the first still believes in its lease. Fencing tokens rise through all
/// of these; only if the data is lost *and* the clock is set back may they go back.
#[derive(Clone)]
pub struct RedisDatastore {
    pool: Arc<Pool<ConnectionManager>>,
    waiters: Arc<Waiters>,
    call_timeout: Duration,
}

impl RedisDatastore {
    /// Locks in the server at `url`, with the usual limits; for the forms of a URL see [`ConnectionManager::new`]. Opens no connection: the
    /// first call does.
    ///
    /// # Errors
    ///
    /// A URL that cannot be used.
    pub fn connect(url: &str) -> Result<Self, UrlError> {
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
        Self::over(Pool::from_r2d2(pool), CALL_TIMEOUT)
    }

    pub(crate) fn new(
        manager: ConnectionManager,
        settings: PoolSettings,
        call_timeout: Duration,
    ) -> Self {
        Self::over(Pool::new(manager, settings), call_timeout)
    }

    fn over(pool: Pool<ConnectionManager>, call_timeout: Duration) -> Self {
        let pool = Arc::new(pool);
        RedisDatastore {
            waiters: Arc::new(Waiters::new(Arc::clone(&pool))),
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

    /// One call, and whether an earlier try of it, on a connection that died, may have been carried out as well.
    fn call(&self, claim: &Claim, call: Call<'_>) -> Result<(Answer, bool), DatastoreError> {
        let mut in_doubt = false;
        let answer = self
            .pool
            .call(self.deadline(claim), |connection: &mut Connection| {
                connection
                    .call(call)
                    .inspect_err(|error| in_doubt |= error.may_have_executed())
            });
        answer.map(|answer| (answer, in_doubt))
    }

    fn deadline(&self, claim: &Claim) -> Time {
        call_deadline(claim, self.call_timeout)
    }
}

impl Datastore for RedisDatastore {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError> {
        check(ttl)?;
        let call = Call::Acquire {
            claim,
            ttl,
            process: self.waiters.process_of(claim),
        };
        match self.call(claim, call)? {
            (Answer::Granted { fence, left }, in_doubt) => {
                self.waiters.granted(claim);
                let grant = Grant::new(left.unwrap_or(ttl)).with_fence(fence);
                Ok(Attempt::Granted(grant.with_copy_to_follow(in_doubt)))
            }
            // The first copy of the claim may still be on its way, and win after this holder.
            (Answer::Held(_), true) => Err(lost_reply()),
            (Answer::Held(held), false) => Ok(Attempt::Held(held)),
            (Answer::Queued(held, place), in_doubt) => {
                let left = held.expires_in();
                self.waiters.queued(claim, place, left);
                if in_doubt {
                    return Err(lost_reply());
                }
                // The first asks again when it knows of no lease any more: a mark may say "done" by then, which wakes nobody.
                let retry_in = match left {
                    Some(left) if place.is_first => left.max(LOOK_EVERY),
                    _ => UNTIL_WOKEN,
                };
                Ok(Attempt::Held(held.with_retry_in(retry_in.min(UNTIL_WOKEN))))
            }
            (answer, _) => Err(unexpected(&answer)),
        }
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        check(ttl)?;
        let answer = self
            .call(lease.claim(), Call::Extend(lease, ttl))
            .map(|(answer, _)| answer);
        extension(lease, ttl, answer)
    }

    fn release(&self, lease: &Lease) -> Result<Released, DatastoreError> {
        let release = release_of(lease.claim(), self.waiters.may_be_queued(lease));
        match self.call(lease.claim(), release) {
            // The first copy may have freed it.
            Ok((Answer::Released(false), true)) => Err(lost_reply()),
            Ok((Answer::Released(ours), _)) => Ok(Released::from(ours)),
            Ok((answer, _)) => Err(unexpected(&answer)),
            Err(error) if error.kind() == ErrorKind::ForeignKey => Ok(Released::NotOurs),
            Err(error) => Err(error),
        }
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

    /// Frees the key if the claim holds it. Called after the claim's own [`not_after`](Claim::not_after), it leaves nothing behind: from then
    /// on the server refuses the claim, should it still be on its way.
    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        let release = release_of(claim, self.waiters.gives_up(claim));
        match self.call(claim, release) {
            Err(error) if error.kind() != ErrorKind::ForeignKey => {
                self.waiters.still_queued(claim);
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// From then on a refusal queues the claim, and the release before its turn hands it the lock. The first waiter of a process starts two
    /// threads and opens one connection more, for all of them; they end ten seconds after the last.
    ///
    /// `None` for a user without the right to subscribe, and in a forked child.
    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.waiters.watch(claim, signal, self.call_timeout)
    }

    /// In one trip per 256, on a connection of its own beside the pool.
    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        leases
            .chunks(BATCH)
            .flat_map(|batch| self.extend_batch(batch))
            .collect()
    }
}

impl RedisDatastore {
    fn extend_batch(&self, batch: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        let calls: Vec<_> = batch
            .iter()
            .filter(|(_, ttl)| check(*ttl).is_ok())
            .map(|(lease, ttl)| Call::Extend(lease, *ttl))
            .collect();
        let deadlines = batch.iter().map(|(lease, _)| self.deadline(lease.claim()));
        let deadline = batch_deadline(Clock::BOOTTIME.now(), deadlines);
        let answers = self
            .pool
            .call_dedicated(deadline, |connection| connection.call_many(&calls));
        let mut answers = match answers {
            Ok(answers) => answers,
            Err(error) => repeated(&error, calls.len()),
        }
        .into_iter();
        batch
            .iter()
            .map(|(lease, ttl)| {
                check(*ttl)?;
                let answer = answers.next().unwrap_or_else(|| Err(lost_reply()));
                extension(lease, *ttl, answer)
            })
            .collect()
    }
}

fn release_of<'a>(claim: &'a Claim, process: Option<&'a str>) -> Call<'a> {
    Call::Release {
        key: claim.key(),
        owner: claim.owner(),
        process,
    }
}

/// The end of a call for all of them: the soonest of their ends, but one lease that is nearly over must not make the others fail.
fn batch_deadline(now: Time, ends: impl Iterator<Item = Time> + Clone) -> Time {
    let soonest = ends.clone().min().unwrap_or(now);
    let last = ends.max().unwrap_or(now);
    soonest.max(now.saturating_add(BATCH_PATIENCE)).min(last)
}

fn extension(
    lease: &Lease,
    ttl: Duration,
    answer: Result<Answer, DatastoreError>,
) -> Result<Extension, DatastoreError> {
    match answer {
        Ok(Answer::Extended(left)) => Ok(lease.extended(left.unwrap_or(ttl))),
        Ok(Answer::Lost) => Ok(Extension::Lost),
        Ok(answer) => Err(unexpected(&answer)),
        // Somebody put something else in its place.
        Err(error) if error.kind() == ErrorKind::ForeignKey => Ok(Extension::Lost),
        Err(error) => Err(error),
    }
}

fn check(ttl: Duration) -> Result<(), DatastoreError> {
    if (TTL_MIN..=TTL_MAX).contains(&ttl) {
        return Ok(());
    }
    let message = format!("a time to live of {ttl:?}; Redis locks live 10 ms to 365 days");
    Err(DatastoreError::not_executed(ErrorKind::Invalid, message))
}

/// The same error for each of `count` calls that shared a connection.
fn repeated(error: &DatastoreError, count: usize) -> Vec<Result<Answer, DatastoreError>> {
    use std::error::Error as _;
    let source = error.source().map(ToString::to_string).unwrap_or_default();
    (0..count)
        .map(|_| {
            let copy = DatastoreError::not_executed(error.kind(), source.clone());
            Err(match error.may_have_executed() {
                true => may_have_executed(copy),
                false => copy,
            })
        })
        .collect()
}

fn lost_reply() -> DatastoreError {
    DatastoreError::maybe_executed(
        ErrorKind::Unreachable,
        "the connection broke after the request was sent",
    )
}

fn unexpected(answer: &Answer) -> DatastoreError {
    let message = format!("an answer to another question: {answer:?}");
    DatastoreError::maybe_executed(ErrorKind::Protocol, message)
}

impl fmt::Debug for RedisDatastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisDatastore")
            .field("pool", &self.pool)
            .field("call_timeout", &self.call_timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_with_the_soonest_of_its_leases_but_for_those_that_are_nearly_over() {
        let now = Time::from_nanos(1_000_000_000);
        let end = |ends: &[u64]| {
            let at = |millis: &u64| now.saturating_add(Duration::from_millis(*millis));
            let deadline = batch_deadline(now, ends.iter().map(at));
            now.until(deadline).as_millis()
        };
        assert_eq!(end(&[2000, 1500, 1900]), 1500);
        assert_eq!(end(&[2000, 1]), 250);
        assert_eq!(end(&[100, 1]), 100, "never after the last of them");
        assert_eq!(end(&[]), 0);
    }
}
