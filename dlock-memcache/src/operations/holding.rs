//! Extending, releasing and checking a lease.

use std::time::Duration;

use dlock_core::{
    Claim, DatastoreError, ErrorKind, Extension, FencingToken, Lease, OwnerToken, ReleaseOutcome,
    Time,
};
use dlock_net::Earlier;

use super::commands::{Commands, Deleted, Item, Key, Replacement, Stored};
use super::record::Record;
use super::revision::{At, RACES, contended, fence_of};
use super::ttl::{self, Kept};
use crate::error::Problem;

/// Gives the lease `ttl` from now, after what `earlier` tries of the same call may have done.
pub async fn extend<C: Commands>(
    server: &mut C,
    lease: &Lease,
    ttl: Duration,
    earlier: Earlier,
) -> Result<Extension, DatastoreError> {
    let key = Key::new(lease.key())?;
    let seconds = ttl::seconds(ttl)?;
    let sent = server.now();
    let kept = Kept { seconds, ttl, sent };
    if is_of_another_incarnation(server, lease) {
        return Ok(Extension::Lost);
    }
    let replacement = |cas, value| Replacement {
        key,
        cas,
        seconds,
        value,
    };
    if let Some(at) = in_order(lease) {
        let by_number = replacement(at.cas, value(lease, lease.fence()));
        match server.replace(&by_number).await? {
            Stored::Done(cas) => return Ok(extended(server, lease, cas, kept, lease.fence())),
            Stored::NotFound => return Ok(Extension::Lost),
            Stored::Other => {}
        }
    }
    // Somebody else's record, or ours under another number: after a lost answer, or a repeated
    // claim.
    for _ in 0..RACES {
        let read_at = server.now();
        let Some(item) = server.get(key).await? else {
            return Ok(Extension::Lost);
        };
        let Some(record) = owned(&item, lease.owner()) else {
            return Ok(Extension::Lost);
        };
        let fence = Some(fence_of(server, &item, &record)?);
        if record.sequence >= lease.sequence() {
            let same = earlier.may_have_run() && record.sequence == lease.sequence();
            let promised = same.then_some(kept);
            return Ok(as_it_is(server, (&item, read_at), &record, fence, promised));
        }
        let found = replacement(item.cas, value(lease, fence));
        if let Stored::Done(cas) = server.replace(&found).await? {
            return Ok(extended(server, lease, cas, kept, fence));
        }
    }
    Err(contended())
}

/// What is to replace the lease's record, if nothing has to be read first, and what it then
/// promises.
pub(crate) fn prepared<'a, C: Commands>(
    server: &C,
    lease: &'a Lease,
    ttl: Duration,
) -> Option<(Replacement<'a>, Kept)> {
    let at = in_order(lease).filter(|at| at.incarnation == server.incarnation())?;
    let (seconds, sent) = (ttl::seconds(ttl).ok()?, server.now());
    let replacement = Replacement {
        key: Key::new(lease.key()).ok()?,
        cas: at.cas,
        seconds,
        value: value(lease, lease.fence()),
    };
    Some((replacement, Kept { seconds, ttl, sent }))
}

/// Where the lease stands, if this call has a higher number than the record saw. A number that was
/// seen before must change nothing, not even where the record still has the number of our grant.
fn in_order(lease: &Lease) -> Option<At> {
    let at = lease.revision::<At>().copied();
    at.filter(|at| at.sequence < lease.sequence())
}

/// The answer to an extend that was carried out.
pub(crate) fn extended<C: Commands>(
    server: &C,
    lease: &Lease,
    cas: u64,
    kept: Kept,
    fence: Option<FencingToken>,
) -> Extension {
    let at = At {
        incarnation: server.incarnation(),
        cas,
        sequence: lease.sequence(),
        kept,
    };
    Extension::Extended(at.grant(fence))
}

/// Frees the key if the lease holds it, after what `earlier` tries of the same call may have done.
pub async fn release<C: Commands>(
    server: &mut C,
    lease: &Lease,
    earlier: Earlier,
) -> Result<ReleaseOutcome, DatastoreError> {
    let key = Key::new(lease.key())?;
    if let Some(at) = lease.revision::<At>() {
        if is_of_another_incarnation(server, lease) {
            return freed(ReleaseOutcome::NotHeld, earlier);
        }
        match server.delete(key, at.cas).await? {
            Deleted::Done => return Ok(ReleaseOutcome::Released),
            Deleted::NotFound => return freed(ReleaseOutcome::NotHeld, earlier),
            Deleted::Other => {}
        }
    }
    freed(delete_owned(server, lease.claim()).await?, earlier)
}

/// What a call that frees a key reports. If an earlier try may have been carried out, and this one
/// finds nothing to free, the first may have freed it: that is not known.
fn freed(outcome: ReleaseOutcome, earlier: Earlier) -> Result<ReleaseOutcome, DatastoreError> {
    if outcome == ReleaseOutcome::NotHeld && earlier.may_have_run() {
        return Err(DatastoreError::maybe_executed(
            ErrorKind::Refused,
            Problem::ReplyLost,
        ));
    }
    Ok(outcome)
}

/// Deletes the key if it is the claimant's, under whatever number.
pub async fn delete_owned<C: Commands>(
    server: &mut C,
    claim: &Claim,
) -> Result<ReleaseOutcome, DatastoreError> {
    let key = Key::new(claim.key())?;
    for _ in 0..RACES {
        let Some(item) = server.get(key).await? else {
            return Ok(ReleaseOutcome::NotHeld);
        };
        if owned(&item, claim.owner()).is_none() {
            return Ok(ReleaseOutcome::NotHeld);
        }
        match server.delete(key, item.cas).await? {
            Deleted::Done => return Ok(ReleaseOutcome::Released),
            Deleted::NotFound => return Ok(ReleaseOutcome::NotHeld),
            Deleted::Other => {}
        }
    }
    Err(contended())
}

/// Deletes the key if its holder has this fencing token, after what `earlier` tries of the same
/// call may have done.
pub(crate) async fn delete_fenced<C: Commands>(
    server: &mut C,
    key: Key<'_>,
    fence: FencingToken,
    earlier: Earlier,
) -> Result<ReleaseOutcome, DatastoreError> {
    for _ in 0..RACES {
        let Some(item) = server.get(key).await? else {
            return freed(ReleaseOutcome::NotHeld, earlier);
        };
        let Some(record) = Record::parse(&item.value) else {
            return freed(ReleaseOutcome::NotHeld, earlier);
        };
        if fence_of(server, &item, &record)? != fence {
            return freed(ReleaseOutcome::NotHeld, earlier);
        }
        match server.delete(key, item.cas).await? {
            Deleted::Done => return Ok(ReleaseOutcome::Released),
            Deleted::NotFound => return freed(ReleaseOutcome::NotHeld, earlier),
            Deleted::Other => {}
        }
    }
    Err(contended())
}

/// Reads for how long the server really keeps the lease.
pub async fn confirm<C: Commands>(
    server: &mut C,
    lease: &Lease,
) -> Result<Extension, DatastoreError> {
    let mut answers = confirm_many(server, &[lease]).await?;
    answers.pop().unwrap_or_else(|| Err(broken()))
}

/// The same for many leases in one trip, in their order.
pub async fn confirm_many<C: Commands>(
    server: &mut C,
    leases: &[&Lease],
) -> Result<Vec<Result<Extension, DatastoreError>>, DatastoreError> {
    let mut keys = Vec::with_capacity(leases.len());
    for lease in leases {
        if !is_of_another_incarnation(server, lease) {
            keys.push(Key::new(lease.key())?);
        }
    }
    let read_at = server.now();
    let mut items = if keys.is_empty() {
        Vec::new()
    } else {
        server.get_many(&keys).await?
    }
    .into_iter();
    let answers = leases.iter().map(|lease| {
        if is_of_another_incarnation(server, lease) {
            return Ok(Extension::Lost);
        }
        let item = items.next().unwrap_or_else(|| Err(broken()))?;
        confirmed(server, lease, item, read_at)
    });
    Ok(answers.collect())
}

/// Whether the lease was granted by another incarnation of the server: then it is lost.
fn is_of_another_incarnation<C: Commands>(server: &C, lease: &Lease) -> bool {
    let at = lease.revision::<At>();
    at.is_some_and(|at| at.incarnation != server.incarnation())
}

/// What the item that was read at `read_at` means for the lease.
fn confirmed<C: Commands>(
    server: &C,
    lease: &Lease,
    item: Option<Item>,
    read_at: Time,
) -> Result<Extension, DatastoreError> {
    let Some(item) = item else {
        return Ok(Extension::Lost);
    };
    let Some(record) = owned(&item, lease.owner()) else {
        return Ok(Extension::Lost);
    };
    let fence = Some(fence_of(server, &item, &record)?);
    let at = lease.revision::<At>().copied();
    let promised = at.filter(|at| at.cas == item.cas).map(|at| at.kept);
    Ok(as_it_is(server, (&item, read_at), &record, fence, promised))
}

fn broken() -> DatastoreError {
    DatastoreError::not_executed(
        ErrorKind::Unreachable,
        "the connection broke before this answer",
    )
}

/// The answer "extended" for as long as the server surely keeps the record, as the item read at
/// `read_at` shows. `promised` is the time that was sent when exactly this record was stored, if it
/// is known.
fn as_it_is<C: Commands>(
    server: &C,
    (item, read_at): (&Item, Time),
    record: &Record<'_>,
    fence: Option<FencingToken>,
    promised: Option<Kept>,
) -> Extension {
    let seconds = item.seconds.unwrap_or(u32::MAX);
    let ttl = match promised {
        Some(promised) => promised.remaining(seconds, read_at),
        None => ttl::at_least(seconds),
    };
    let at = At {
        incarnation: server.incarnation(),
        cas: item.cas,
        sequence: record.sequence,
        kept: Kept {
            seconds,
            ttl,
            sent: read_at,
        },
    };
    Extension::Extended(at.grant(fence))
}

fn value(lease: &Lease, fence: Option<FencingToken>) -> String {
    Record {
        owner: lease.owner(),
        fence,
        sequence: lease.sequence(),
        holder: lease.holder(),
    }
    .to_value()
}

fn owned(item: &Item, owner: OwnerToken) -> Option<Record<'_>> {
    Record::parse(&item.value).filter(|record| record.owner == owner)
}
