//! From a claim to a grant, on one connection.

use std::thread;
use std::time::Duration;

use dlock_core::{
    Attempt, Claim, Clock, DatastoreError, ErrorKind, FencingToken, Grant, Held, OwnerToken,
    Revision, Time,
};

use crate::error::Problem;
use crate::life::Life;
use crate::protocol::{Connection, Key};
use crate::record::Record;
use crate::reply::{Item, Stored};
use crate::ttl::{self, Kept};

/// How often a key may change between two commands before a call gives up.
pub(crate) const RACES: usize = 4;
/// How often a server that has just started is asked whether it grants now.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What a grant of this store carries: the record's number, and what to hold the server to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    pub(crate) life: Life,
    pub(crate) cas: u64,
    /// The highest call number that the record saw.
    pub(crate) sequence: u64,
    pub(crate) kept: Kept,
}

impl At {
    pub(crate) fn grant(self, fence: Option<FencingToken>) -> Grant {
        let grant = Grant::new(self.kept.ttl).with_revision(Revision::new(self));
        match fence {
            Some(fence) => grant.with_fence(fence),
            None => grant,
        }
    }
}

pub(crate) fn now() -> Time {
    // The server keeps real time, whatever clock a test gives to the lease.
    Clock::BOOTTIME.now()
}

/// Claims `claim.key()` for at least `ttl`. `given_up` says of a token whether this process abandoned it.
pub(crate) fn acquire(
    link: &mut Connection,
    claim: &Claim,
    ttl: Duration,
    given_up: impl Fn(OwnerToken) -> bool,
) -> Result<Attempt, DatastoreError> {
    let key = Key::new(claim.key())?;
    let seconds = ttl::seconds(ttl)?;
    wait_until_grown_up(link, claim)?;
    let fresh = Record {
        owner: claim.owner(),
        fence: None,
        sequence: 0,
        holder: claim.holder(),
    }
    .to_value();
    for _ in 0..RACES {
        let sent = now();
        let kept = Kept { seconds, ttl, sent };
        match link.add(key, seconds, &fresh)? {
            Stored::Done(0) => return Err(refuse_without_cas(link, key)),
            Stored::Done(cas) => return granted(link, cas, kept),
            Stored::Other | Stored::NotFound => {}
        }
        let looked = now();
        let Some(item) = link.get(key)? else {
            continue; // It ended just now.
        };
        let record = Record::parse(&item.value);
        match &record {
            Some(record) if record.owner == claim.owner() => {
                if let Some(grant) = hold_longer(link, key, (&item, looked), record, ttl)? {
                    return Ok(Attempt::Granted(grant));
                }
            }
            Some(record) if given_up(record.owner) => {
                // Our own claim that the server carried out after we had given it up; nobody believes to hold by it.
                if let Stored::Done(cas) = link.replace(key, item.cas, seconds, &fresh)? {
                    return granted(link, cas, kept);
                }
            }
            record => return Ok(Attempt::Held(held(link, &item, record.as_ref()))),
        }
    }
    Err(DatastoreError::not_executed(
        ErrorKind::Refused,
        Problem::Contended,
    ))
}

/// The grant of a record that was stored for the first time.
fn granted(link: &Connection, cas: u64, kept: Kept) -> Result<Attempt, DatastoreError> {
    let fence = link.life().fence(link.peer(), cas)?;
    let at = At {
        life: link.life(),
        cas,
        sequence: 0,
        kept,
    };
    Ok(Attempt::Granted(at.grant(Some(fence))))
}

/// Answers a claim that holds the key already, as a look at the time `looked` showed: the same fencing token, and at least `ttl` from now. `None` if the record
/// changed meanwhile.
fn hold_longer(
    link: &mut Connection,
    key: Key<'_>,
    (item, looked): (&Item, Time),
    record: &Record<'_>,
    ttl: Duration,
) -> Result<Option<Grant>, DatastoreError> {
    let fence = fence_of(link, item, record)?;
    let (life, sequence) = (link.life(), record.sequence);
    let reported = item.seconds.unwrap_or(0);
    let left = ttl::at_least(reported);
    if left >= ttl {
        let kept = Kept {
            seconds: reported,
            ttl: left,
            sent: looked,
        };
        let cas = item.cas;
        let at = At {
            life,
            cas,
            sequence,
            kept,
        };
        return Ok(Some(at.grant(Some(fence))));
    }
    let (seconds, sent) = (ttl::seconds(ttl)?, now());
    // The holder stays: a late copy of the claim may come after an extend that described it anew.
    let again = Record {
        fence: Some(fence),
        ..record.clone()
    };
    let stored = link.replace(key, item.cas, seconds, &again.to_value())?;
    Ok(match stored {
        Stored::Done(cas) => {
            let kept = Kept { seconds, ttl, sent };
            let at = At {
                life,
                cas,
                sequence,
                kept,
            };
            Some(at.grant(Some(fence)))
        }
        Stored::NotFound | Stored::Other => None,
    })
}

/// The fencing token of a record: written in it, or, if it was never written again, the one that follows from its number.
pub(crate) fn fence_of(
    link: &Connection,
    item: &Item,
    record: &Record<'_>,
) -> Result<FencingToken, DatastoreError> {
    match record.fence {
        Some(fence) => Ok(fence),
        None => link.life().fence(link.peer(), item.cas),
    }
}

/// Who holds a key.
pub(crate) fn held(link: &Connection, item: &Item, record: Option<&Record<'_>>) -> Held {
    let mut held = Held::new();
    if let Some(seconds) = item.seconds {
        held = held.with_expires_in(Duration::from_secs(u64::from(seconds)));
    }
    let Some(record) = record else {
        return held; // Somebody else's client; it may still be a lock of theirs.
    };
    if let Ok(fence) = fence_of(link, item, record) {
        held = held.with_fence(fence);
    }
    held.with_holder_text(record.holder)
}

/// Waits, within the call, until the server is old enough to grant.
fn wait_until_grown_up(link: &mut Connection, claim: &Claim) -> Result<(), DatastoreError> {
    while !link.is_grown_up()? {
        let left = claim.time_left().min(link.time_left());
        if left <= ASK_AGAIN {
            let peer = link.peer().to_owned();
            return Err(DatastoreError::not_executed(
                ErrorKind::Unreachable,
                Problem::JustStarted { peer },
            ));
        }
        thread::sleep(ASK_AGAIN);
    }
    Ok(())
}

/// Takes back what was stored on a server without CAS numbers, as far as that can be done there.
fn refuse_without_cas(link: &mut Connection, key: Key<'_>) -> DatastoreError {
    let peer = link.peer().to_owned();
    let removed = link.delete_unconditionally(key);
    let kind = ErrorKind::Unsupported;
    match removed {
        Ok(()) => DatastoreError::not_executed(kind, Problem::NoCas { peer }),
        Err(_) => DatastoreError::maybe_executed(kind, Problem::NoCas { peer }),
    }
}
