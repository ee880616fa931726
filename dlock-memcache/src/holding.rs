//! Extending, releasing and checking a lease, on one connection.

use std::time::Duration;

use dlock_core::{
    Claim, DatastoreError, ErrorKind, Extension, FencingToken, Lease, OwnerToken, Released, Time,
};

use crate::error::Problem;
use crate::grant::{At, RACES, fence_of, now};
use crate::protocol::{Connection, Key, push_replace};
use crate::record::Record;
use crate::reply::{Deleted, Item, Stored};
use crate::ttl::{self, Kept};

/// Gives the lease `ttl` from now. `again` says that the same call may have been carried out before, over a connection that broke.
pub(crate) fn extend(
    link: &mut Connection,
    lease: &Lease,
    ttl: Duration,
    again: bool,
) -> Result<Extension, DatastoreError> {
    let key = Key::new(lease.key())?;
    let seconds = ttl::seconds(ttl)?;
    let sent = now();
    let kept = Kept { seconds, ttl, sent };
    let at = lease.revision::<At>().copied();
    if at.is_some_and(|at| at.life != link.life()) {
        return Ok(Extension::Lost);
    }
    // A number that was seen before must change nothing, not even where the record still has the number of our grant.
    if let Some(at) = at.filter(|at| at.sequence < lease.sequence()) {
        let value = value(lease, lease.fence());
        match link.replace(key, at.cas, seconds, &value)? {
            Stored::Done(cas) => return Ok(extended(link, lease, cas, kept, lease.fence())),
            Stored::NotFound => return Ok(Extension::Lost),
            Stored::Other => {}
        }
    }
    // Somebody else's record, or ours under another number: after a lost answer, or a repeated claim.
    for _ in 0..RACES {
        let looked = now();
        let Some(item) = link.get(key)? else {
            return Ok(Extension::Lost);
        };
        let Some(record) = owned(&item, lease.owner()) else {
            return Ok(Extension::Lost);
        };
        let fence = Some(fence_of(link, &item, &record)?);
        if record.sequence >= lease.sequence() {
            let same = again && record.sequence == lease.sequence();
            let promised = same.then_some(kept);
            return Ok(as_it_is(link, (&item, looked), &record, fence, promised));
        }
        if let Stored::Done(cas) = link.replace(key, item.cas, seconds, &value(lease, fence))? {
            return Ok(extended(link, lease, cas, kept, fence));
        }
    }
    Err(contended())
}

/// Appends the request that extends the lease, and says what it promises, if nothing has to be looked at first.
pub(crate) fn push_extend(
    requests: &mut Vec<u8>,
    link: &Connection,
    lease: &Lease,
    ttl: Duration,
) -> Option<Kept> {
    let at = lease.revision::<At>()?;
    let in_order = at.life == link.life() && at.sequence < lease.sequence();
    if !in_order {
        return None;
    }
    let key = Key::new(lease.key()).ok()?;
    let (seconds, sent) = (ttl::seconds(ttl).ok()?, now());
    let value = value(lease, lease.fence());
    push_replace(requests, key, at.cas, seconds, &value);
    Some(Kept { seconds, ttl, sent })
}

/// The answer to an extend that was carried out.
pub(crate) fn extended(
    link: &Connection,
    lease: &Lease,
    cas: u64,
    kept: Kept,
    fence: Option<FencingToken>,
) -> Extension {
    let at = At {
        life: link.life(),
        cas,
        sequence: lease.sequence(),
        kept,
    };
    Extension::Extended(at.grant(fence))
}

/// Frees the key if the lease holds it.
pub(crate) fn release(link: &mut Connection, lease: &Lease) -> Result<Released, DatastoreError> {
    let key = Key::new(lease.key())?;
    if let Some(at) = lease.revision::<At>() {
        if at.life != link.life() {
            return Ok(Released::NotOurs);
        }
        match link.delete(key, at.cas)? {
            Deleted::Done => return Ok(Released::Ours),
            Deleted::NotFound => return Ok(Released::NotOurs),
            Deleted::Other => {}
        }
    }
    delete_owned(link, lease.claim())
}

/// Deletes the key if it is the claimant's, under whatever number.
pub(crate) fn delete_owned(
    link: &mut Connection,
    claim: &Claim,
) -> Result<Released, DatastoreError> {
    let key = Key::new(claim.key())?;
    for _ in 0..RACES {
        let Some(item) = link.get(key)? else {
            return Ok(Released::NotOurs);
        };
        if owned(&item, claim.owner()).is_none() {
            return Ok(Released::NotOurs);
        }
        match link.delete(key, item.cas)? {
            Deleted::Done => return Ok(Released::Ours),
            Deleted::NotFound => return Ok(Released::NotOurs),
            Deleted::Other => {}
        }
    }
    Err(contended())
}

/// Deletes the key if its holder has this fencing token.
pub(crate) fn delete_fenced(
    link: &mut Connection,
    key: Key<'_>,
    fence: FencingToken,
) -> Result<Released, DatastoreError> {
    for _ in 0..RACES {
        let Some(item) = link.get(key)? else {
            return Ok(Released::NotOurs);
        };
        let Some(record) = Record::parse(&item.value) else {
            return Ok(Released::NotOurs);
        };
        if fence_of(link, &item, &record)? != fence {
            return Ok(Released::NotOurs);
        }
        match link.delete(key, item.cas)? {
            Deleted::Done => return Ok(Released::Ours),
            Deleted::NotFound => return Ok(Released::NotOurs),
            Deleted::Other => {}
        }
    }
    Err(contended())
}

/// Looks for how long the server really keeps the lease.
pub(crate) fn confirm(link: &mut Connection, lease: &Lease) -> Result<Extension, DatastoreError> {
    let key = Key::new(lease.key())?;
    let at = lease.revision::<At>().copied();
    if at.is_some_and(|at| at.life != link.life()) {
        return Ok(Extension::Lost);
    }
    let looked = now();
    let Some(item) = link.get(key)? else {
        return Ok(Extension::Lost);
    };
    let Some(record) = owned(&item, lease.owner()) else {
        return Ok(Extension::Lost);
    };
    let fence = Some(fence_of(link, &item, &record)?);
    let promised = at.filter(|at| at.cas == item.cas).map(|at| at.kept);
    Ok(as_it_is(link, (&item, looked), &record, fence, promised))
}

/// The answer "extended" for as long as the server surely keeps the record, as a look at the time `looked` showed. `promised` is what the
/// server was told when it stored exactly this record, if we know.
fn as_it_is(
    link: &Connection,
    (item, looked): (&Item, Time),
    record: &Record<'_>,
    fence: Option<FencingToken>,
    promised: Option<Kept>,
) -> Extension {
    let seconds = item.seconds.unwrap_or(u32::MAX);
    let ttl = match promised {
        Some(promised) => promised.remaining(seconds, looked),
        None => ttl::at_least(seconds),
    };
    let at = At {
        life: link.life(),
        cas: item.cas,
        sequence: record.sequence,
        kept: Kept {
            seconds,
            ttl,
            sent: looked,
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

fn contended() -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Refused, Problem::Contended)
}
