//! Claims.

use std::time::Duration;

use dlock_core::{AcquireOutcome, Claim, DatastoreError, ErrorKind, Grant, HeldBy};
use dlock_net::Earlier;

use super::commands::{Commands, Method};
use super::lease::{self, leases_of, random_lease};
use super::record::{self, Found, Record};
use super::requests::{is_free, is_unchanged_since, number, put, range, succeeded, txn};
use crate::error::Problem;

/// How often a claim starts again because the key has changed under it.
const RACES: u32 = 4;

/// Claims the key. A refused claim only reads.
///
/// # Errors
///
/// As the server says.
pub(crate) fn acquire<C: Commands>(
    server: &mut C,
    claim: &Claim,
    ttl: Duration,
    earlier: Earlier,
) -> Result<AcquireOutcome, DatastoreError> {
    let mut found = look(server, claim.key())?;
    for _ in 0..RACES {
        found = match found {
            Found::Foreign => return Err(foreign_key()),
            Found::Lock(record) if record.owner != claim.owner() => {
                return refused(server, &record, earlier);
            }
            Found::Lock(record) => match repeat(server, claim, ttl, &record)? {
                Some(grant) => return Ok(granted(grant, earlier)),
                None => look(server, claim.key())?,
            },
            Found::Nothing => match take(server, claim, ttl)? {
                Taken::Granted(grant) => return Ok(granted(grant, earlier)),
                Taken::Found(found) => found,
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
pub(super) fn look<C: Commands>(server: &mut C, key: &str) -> Result<Found, DatastoreError> {
    let answer = server.ask(Method::Range, &range(key))?;
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
pub(super) fn held_by<C: Commands>(
    server: &mut C,
    record: &Record,
) -> Result<HeldBy, DatastoreError> {
    // Whole seconds, cut; and the server takes up to a second to delete the key.
    let left = lease::time_left(server, record.lease)?.unwrap_or_default();
    let expires_in = left + Duration::from_secs(1);
    Ok(record.held().with_expires_in(expires_in))
}

fn granted(grant: Grant, earlier: Earlier) -> AcquireOutcome {
    AcquireOutcome::Granted(grant.with_copy_to_follow(earlier.may_have_run()))
}

fn refused<C: Commands>(
    server: &mut C,
    record: &Record,
    earlier: Earlier,
) -> Result<AcquireOutcome, DatastoreError> {
    if earlier.may_have_run() {
        let lost = Problem::LostCopy;
        return Err(DatastoreError::maybe_executed(ErrorKind::Unreachable, lost));
    }
    held_by(server, record).map(AcquireOutcome::Held)
}

enum Taken {
    Granted(Grant),
    /// Somebody was quicker.
    Found(Found),
}

/// Takes a free key.
fn take<C: Commands>(
    server: &mut C,
    claim: &Claim,
    ttl: Duration,
) -> Result<Taken, DatastoreError> {
    let lease = lease_for(server, claim, ttl)?;
    let value = record::value(claim.owner(), 0, claim.holder());
    let key = claim.key();
    let body = txn(&is_free(key), &put(key, &value, lease), Some(key));
    let answer = server.ask(Method::Txn, &body).map_err(lease_ended)?;
    if !succeeded(&answer) {
        lease::revoke(server, lease);
        let found = Found::of_range(&answer["responses"][0]["response_range"]);
        return Ok(Taken::Found(found));
    }
    let revision = number(&answer["header"]["revision"]);
    if revision <= 0 {
        return Err(server.unexpected(&answer));
    }
    let grant = Grant::new(ttl).with_fence(record::fence(revision));
    Ok(Taken::Granted(grant))
}

/// A lease for a claim: its own, or another one if earlier copies of the claim have those.
fn lease_for<C: Commands>(
    server: &mut C,
    claim: &Claim,
    ttl: Duration,
) -> Result<i64, DatastoreError> {
    for own in leases_of(claim.owner()) {
        match lease::grant(server, own, ttl) {
            Ok(()) => return Ok(own),
            Err(error) if error.kind() == ErrorKind::Stale => {}
            Err(error) => return Err(error),
        }
    }
    let other = random_lease()?;
    lease::grant(server, other, ttl)?;
    Ok(other)
}

/// The same claim once more. It keeps its token, and may only gain time. `None` if the key has
/// changed meanwhile.
fn repeat<C: Commands>(
    server: &mut C,
    claim: &Claim,
    ttl: Duration,
    record: &Record,
) -> Result<Option<Grant>, DatastoreError> {
    let left = lease::time_left(server, record.lease)?.unwrap_or_default();
    let fresh = random_lease()?;
    // What is left was cut to whole seconds.
    lease::grant(server, fresh, ttl.max(left + Duration::from_secs(1)))?;
    let key = claim.key();
    let compare = is_unchanged_since(key, record.modified);
    let body = txn(&compare, &put(key, &record.value, fresh), None);
    let answer = server.ask(Method::Txn, &body).map_err(lease_ended)?;
    let is_done = succeeded(&answer);
    lease::revoke(server, if is_done { record.lease } else { fresh });
    let grant = Grant::new(ttl.max(left)).with_fence(record.fence());
    Ok(is_done.then_some(grant))
}

/// The error of a transaction that found no lease: it did nothing.
pub(super) fn lease_ended(error: DatastoreError) -> DatastoreError {
    match error.kind() {
        ErrorKind::Stale => DatastoreError::not_executed(ErrorKind::Stale, Problem::LeaseEnded),
        _ => error,
    }
}
