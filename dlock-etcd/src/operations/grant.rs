//! Claims.

use std::time::Duration;

use dlock_core::{AcquireOutcome, Claim, DatastoreError, ErrorKind, Grant, HeldBy};
use dlock_net::Earlier;
use serde_json::{Value, json};

use super::commands::{Commands, Method};
use super::lease::{self, random_lease};
use super::queue::{self, Queue, Seen, is_first};
use super::record::{self, Found, Record};
use super::requests::{is_free, is_unchanged_since, number, put, range, succeeded, txn};
use super::unanswered::Unanswered;
use crate::error::{Problem, is_full};

/// How often a claim starts again because the key has changed under it.
const RACES: u32 = 5;
/// After this time a waiter claims again though nobody woke it.
const UNTIL_WOKEN: Duration = Duration::from_secs(60);
/// The same for the first, if the holder's lease should have ended by now.
const OVERDUE: Duration = Duration::from_secs(1);

/// Claims the key. A refused claim that does not wait only reads. `queue` has the place of a
/// waiter.
///
/// # Errors
///
/// As the server says.
pub(crate) async fn acquire<C: Commands, Q: Queue>(
    server: &mut C,
    claim: &Claim,
    ttl: Duration,
    earlier: Earlier,
    unanswered: &Unanswered,
    mut queue: Option<&Q>,
) -> Result<AcquireOutcome, DatastoreError> {
    let mut place = queue.and_then(Queue::place);
    let mut seen = queue::look(server, claim.key(), place.as_deref()).await?;
    for _ in 0..RACES {
        seen = match &seen.found {
            Found::Foreign => return Err(foreign_key()),
            Found::Lock(record) if record.owner == claim.owner() => {
                match repeat(server, claim, ttl, record, unanswered).await? {
                    Some(grant) => return Ok(granted(grant, earlier)),
                    None => queue::look(server, claim.key(), place.as_deref()).await?,
                }
            }
            _ if seen.has_foreign_place() => return Err(foreign_key()),
            Found::Nothing if seen.before.is_none() => {
                match take(server, claim, ttl, place.as_deref(), unanswered).await? {
                    Taken::Granted(grant) => return Ok(granted(grant, earlier)),
                    Taken::Seen(seen) => seen,
                }
            }
            _ => match queue.and_then(|queue| Some((queue, queue.lease()?))) {
                Some((queue, _)) if seen.has_place => {
                    return waits(server, &seen, claim, queue, earlier).await;
                }
                Some((waiters, lease)) => {
                    let own = queue::place(claim.key(), seen.revision, claim.owner());
                    waiters.enters(own.clone());
                    match queue::enter(server, claim, &own, lease).await {
                        Ok(seen) => {
                            place = Some(own);
                            seen
                        }
                        Err(error) if error.kind() == ErrorKind::Stale => {
                            waiters.lease_ended(lease);
                            queue = None;
                            seen
                        }
                        Err(error) => return Err(error),
                    }
                }
                None => return refused(server, &seen, earlier).await,
            },
        };
    }
    Err(DatastoreError::maybe_executed(
        ErrorKind::Refused,
        Problem::Contended,
    ))
}

/// What the key holds now.
///
/// # Errors
///
/// Not executed.
pub(super) async fn look<C: Commands>(server: &mut C, key: &str) -> Result<Found, DatastoreError> {
    let answer = server.ask(Method::Range, &range(key)).await?;
    Ok(Found::of_range(&answer))
}

pub(super) fn foreign_key() -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::ForeignKey, Problem::ForeignKey)
}

/// Who holds the key by this record, and for how much longer at most.
///
/// # Errors
///
/// Not executed.
pub(super) async fn held_by<C: Commands>(
    server: &mut C,
    record: &Record,
) -> Result<HeldBy, DatastoreError> {
    // Whole seconds, cut; and the server takes up to a second to delete the key.
    let left = lease::time_left(server, record.lease).await?;
    let expires_in = left.unwrap_or_default() + Duration::from_secs(1);
    Ok(record.held().with_expires_in(expires_in))
}

fn granted(grant: Grant, earlier: Earlier) -> AcquireOutcome {
    AcquireOutcome::Granted(grant.with_copy_to_follow(earlier.may_have_run()))
}

/// Who has the key, or will have it.
async fn holder<C: Commands>(server: &mut C, seen: &Seen) -> Result<HeldBy, DatastoreError> {
    match (&seen.found, &seen.before) {
        (Found::Lock(record), _) => held_by(server, record).await,
        (_, Some(before)) => Ok(before.held()),
        _ => Ok(HeldBy::new()),
    }
}

async fn refused<C: Commands>(
    server: &mut C,
    seen: &Seen,
    earlier: Earlier,
) -> Result<AcquireOutcome, DatastoreError> {
    check_first(earlier)?;
    holder(server, seen).await.map(AcquireOutcome::Held)
}

/// The same for a waiter, which learns when its turn comes.
async fn waits<C: Commands, Q: Queue>(
    server: &mut C,
    seen: &Seen,
    claim: &Claim,
    queue: &Q,
    earlier: Earlier,
) -> Result<AcquireOutcome, DatastoreError> {
    let watched = match &seen.before {
        Some(before) => before.place.clone(),
        None => claim.key().into(),
    };
    queue.waits_behind(watched, seen.revision.saturating_add(1));
    check_first(earlier)?;
    let held = holder(server, seen).await?;
    let retry_in = match held.expires_in() {
        // A mark may say "done" by then, which wakes nobody.
        Some(left) if seen.before.is_none() => left.clamp(OVERDUE, UNTIL_WOKEN),
        _ => UNTIL_WOKEN,
    };
    Ok(AcquireOutcome::Held(held.with_retry_in(retry_in)))
}

/// A refusal says nothing of an earlier copy, which may win after this holder.
fn check_first(earlier: Earlier) -> Result<(), DatastoreError> {
    match earlier.may_have_run() {
        true => Err(DatastoreError::maybe_executed(
            ErrorKind::Unreachable,
            Problem::LostCopy,
        )),
        false => Ok(()),
    }
}

enum Taken {
    Granted(Grant),
    /// Somebody was quicker.
    Seen(Seen),
}

/// Takes a free key, and gives up the place.
async fn take<C: Commands>(
    server: &mut C,
    claim: &Claim,
    ttl: Duration,
    place: Option<&str>,
    unanswered: &Unanswered,
) -> Result<Taken, DatastoreError> {
    let sent = unanswered.add(claim.owner(), random_lease()?);
    let lease = sent.lease();
    let granted = lease::grant_new(server, lease, ttl).await;
    granted.map_err(|error| sent.failed(error))?;
    let value = record::value(claim.owner(), 0, claim.holder());
    let key = claim.key();
    let mut success = vec![put(key, &value, lease)];
    success.extend(place.map(queue::delete_place));
    let body = json!({
        "compare": [is_free(key)[0], is_first(key, place)],
        "success": success,
        "failure": queue::reads(key, place),
    });
    let answer = match server.ask(Method::Txn, &body).await {
        Ok(answer) => answer,
        Err(error) => return Err(sent.failed(not_taken(server, lease, lease_ended(error)).await)),
    };
    sent.answered();
    if !succeeded(&answer) {
        lease::revoke(server, lease).await;
        return Ok(Taken::Seen(Seen::of(&answer, place)));
    }
    let revision = number(&answer["header"]["revision"]);
    if revision <= 0 {
        return Err(server.unexpected(&answer));
    }
    let grant = Grant::new(ttl).with_fence(record::fence(revision));
    Ok(Taken::Granted(grant))
}

/// The error of a transaction that was to take the key with this lease, which has ended if the
/// server refused. That also undoes what a server did that found out too late that it is full: it
/// says so when it has written.
async fn not_taken<C: Commands>(
    server: &mut C,
    lease: i64,
    error: DatastoreError,
) -> DatastoreError {
    let is_refused = matches!(error.kind(), ErrorKind::Refused | ErrorKind::Invalid);
    if !is_refused || lease::end(server, lease).await.is_ok() {
        return error;
    }
    error.with_execution(true)
}

/// The same claim once more. It keeps its token, and may only gain time. `None` if the key has
/// changed meanwhile.
async fn repeat<C: Commands>(
    server: &mut C,
    claim: &Claim,
    ttl: Duration,
    record: &Record,
    unanswered: &Unanswered,
) -> Result<Option<Grant>, DatastoreError> {
    // The claim with this lease was carried out.
    unanswered.remove(record.lease);
    let left = lease::time_left(server, record.lease).await?;
    let left = left.unwrap_or_default();
    // What is left was cut to whole seconds.
    let longer = ttl.max(left + Duration::from_secs(1));
    let sent = unanswered.add(claim.owner(), random_lease()?);
    let fresh = sent.lease();
    let granted = lease::grant_new(server, fresh, longer).await;
    granted.map_err(|error| sent.failed(error))?;
    let key = claim.key();
    let compare = is_unchanged_since(key, record.modified);
    let body = txn(&compare, &put(key, &record.value, fresh), None);
    let moved = move_key(server, key, fresh, &body).await;
    let answer = moved.map_err(|error| sent.failed(error))?;
    sent.answered();
    let is_done = succeeded(&answer);
    let needless = if is_done { record.lease } else { fresh };
    lease::revoke(server, needless).await;
    let grant = Grant::new(ttl.max(left)).with_fence(record.fence());
    Ok(is_done.then_some(grant))
}

/// Carries out a transaction that moves the key of a holder to the lease `fresh`. If the server
/// refuses it, that lease is ended.
///
/// # Errors
///
/// As the server says.
pub(super) async fn move_key<C: Commands>(
    server: &mut C,
    key: &str,
    fresh: i64,
    body: &Value,
) -> Result<Value, DatastoreError> {
    let error = match server.ask(Method::Txn, body).await {
        Ok(answer) => return Ok(answer),
        Err(error) => error,
    };
    let needs_it = match is_full(&error) {
        // A server that finds out too late says so when it has moved the key.
        true => match look(server, key).await {
            Ok(Found::Lock(record)) => record.lease == fresh,
            Ok(Found::Nothing | Found::Foreign) => false,
            Err(_) => true,
        },
        // Without an answer it may yet be moved.
        false => error.may_have_executed(),
    };
    if !needs_it {
        lease::revoke(server, fresh).await;
    }
    Err(lease_ended(error))
}

/// The error of a transaction that found no lease: it did nothing.
fn lease_ended(error: DatastoreError) -> DatastoreError {
    match error.kind() {
        ErrorKind::Stale => DatastoreError::not_executed(ErrorKind::Stale, Problem::LeaseEnded),
        _ => error,
    }
}

#[cfg(test)]
mod tests;
