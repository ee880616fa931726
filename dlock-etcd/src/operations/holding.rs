//! Extends, releases, and what operators do to a holder.

use std::slice;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{
    Claim, DatastoreError, ErrorKind, Extension, FencingToken, HeldBy, Lease, OwnerToken,
    ReleaseOutcome,
};
use dlock_net::{Earlier, nothing_was_done};
use serde_json::Value;

use super::commands::{Commands, Method};
use super::grant::{foreign_key, held_by, look, move_key};
use super::lease::{self, random_lease};
use super::queue;
use super::record::{self, Found, Record};
use super::requests::{delete, is_between, is_created_at, put, succeeded, txn};
use super::unanswered::Unanswered;
use crate::error::Problem;

/// Moves the key to a new lease of `ttl`, if the owner holds it and this call is newer than those
/// before.
///
/// etcd's keep-alive would not do: it only repeats the time that was granted first, it has no place
/// for the number of the call or for the holder, and a late copy of it would lengthen the lease.
///
/// # Errors
///
/// As the server says.
pub(crate) async fn extend<C: Commands>(
    server: &mut C,
    held: &Lease,
    ttl: Duration,
) -> Result<Extension, DatastoreError> {
    let (key, owner) = (held.key(), held.owner());
    let fresh = random_lease()?;
    // Alone it changes nothing, and it ends by itself.
    lease::grant_new(server, fresh, ttl)
        .await
        .map_err(nothing_was_done)?;
    let value = record::value(owner, held.sequence(), held.holder());
    let newest = record::start(owner, held.sequence());
    let compare = is_between(key, &record::below_all_of(owner), &newest);
    let body = txn(&compare, &put(key, &value, fresh), Some(key));
    let answer = move_key(server, key, fresh, &body).await?;
    let response = &answer["responses"][0];
    if succeeded(&answer) {
        end_lease_of(server, &response["response_put"]["prev_kv"]).await;
        return Ok(held.extended(ttl));
    }
    lease::revoke(server, fresh).await;
    match Found::of_range(&response["response_range"]) {
        // A newer call came before this one.
        Found::Lock(record) if record.owner == owner => {
            let left = lease::time_left(server, record.lease).await?;
            Ok(left.map_or(Extension::Lost, |left| held.extended(left)))
        }
        _ => Ok(Extension::Lost),
    }
}

/// Deletes the key, if the owner holds it.
///
/// # Errors
///
/// As the server says.
pub(crate) async fn release<C: Commands>(
    server: &mut C,
    held: &Lease,
    earlier: Earlier,
) -> Result<ReleaseOutcome, DatastoreError> {
    let is_ours = delete_owned(server, held.key(), held.owner()).await?;
    if !is_ours && earlier.may_have_run() {
        let lost = Problem::ReplyLost;
        return Err(DatastoreError::maybe_executed(ErrorKind::Unreachable, lost));
    }
    Ok(ReleaseOutcome::from(is_ours))
}

/// Takes back a claim that may have been carried out, or may yet be: without its lease it cannot,
/// and a lease that is ended never comes back. `place` is that which it may have in the queue.
///
/// # Errors
///
/// As the server says.
pub(crate) async fn abandon<C: Commands>(
    server: &mut C,
    claim: &Claim,
    unanswered: &Unanswered,
    place: Option<&Arc<str>>,
) -> Result<(), DatastoreError> {
    if let Some(place) = place {
        queue::leave(server, slice::from_ref(place)).await?;
    }
    for lease in unanswered.leases_of(claim.owner()) {
        lease::end(server, lease).await?;
        unanswered.remove(lease);
    }
    // It may hold the key by another lease.
    delete_owned(server, claim.key(), claim.owner())
        .await
        .map(|_| ())
}

/// Who holds the key; `None` if nobody does.
///
/// # Errors
///
/// Not executed.
pub(crate) async fn holder<C: Commands>(
    server: &mut C,
    key: &str,
) -> Result<Option<HeldBy>, DatastoreError> {
    match look(server, key).await? {
        Found::Nothing => Ok(None),
        Found::Foreign => Err(foreign_key()),
        Found::Lock(record) => held_by(server, &record).await.map(Some),
    }
}

/// Deletes the key, if its holder has this fencing token.
///
/// # Errors
///
/// As the server says.
pub(crate) async fn delete_fenced<C: Commands>(
    server: &mut C,
    key: &str,
    fence: FencingToken,
    earlier: Earlier,
) -> Result<ReleaseOutcome, DatastoreError> {
    if look(server, key).await? == Found::Foreign {
        return Err(foreign_key());
    }
    // A key that does not exist counts as created at 0.
    let is_revision = i64::try_from(fence.get()).is_ok_and(|revision| revision > 0);
    let compare = is_created_at(key, &fence.get().to_string());
    let is_done = is_revision && delete_if(server, key, &compare).await?;
    if !is_done && earlier.may_have_run() {
        let lost = Problem::ReplyLost;
        return Err(DatastoreError::maybe_executed(ErrorKind::Unreachable, lost));
    }
    Ok(ReleaseOutcome::from(is_done))
}

async fn delete_owned<C: Commands>(
    server: &mut C,
    key: &str,
    owner: OwnerToken,
) -> Result<bool, DatastoreError> {
    let (low, high) = (record::below_all_of(owner), record::above_all_of(owner));
    delete_if(server, key, &is_between(key, &low, &high)).await
}

/// Deletes the key, and the lease that it had, if what is compared is so.
async fn delete_if<C: Commands>(
    server: &mut C,
    key: &str,
    compare: &Value,
) -> Result<bool, DatastoreError> {
    let answer = server
        .ask(Method::Txn, &txn(compare, &delete(key), None))
        .await?;
    let is_done = succeeded(&answer);
    if is_done {
        let deleted = &answer["responses"][0]["response_delete_range"]["prev_kvs"][0];
        end_lease_of(server, deleted).await;
    }
    Ok(is_done)
}

/// Ends the lease of a record that is no more.
async fn end_lease_of<C: Commands>(server: &mut C, key: &Value) {
    if let Some(record) = Record::of(key) {
        lease::revoke(server, record.lease).await;
    }
}

#[cfg(test)]
mod tests;
