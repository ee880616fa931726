//! From a claim to a grant, on one connection.

use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Claim, DatastoreError, ErrorKind, Extension, Grant, HeldBy, Lease, OwnerToken,
    Time,
};
use dlock_net::{Earlier, may_have_executed};

use super::commands::{Commands, Item, Key, Replacement, Stored};
use super::holding;
use super::record::Record;
use super::revision::{At, RACES, contended, fence_of, kept_until};
use super::ttl::{self, Kept};
use crate::error::Problem;

/// How long after a grant the server's clock has caught up after a stall. Its timer is due at once,
/// but on a busy machine the thread that serves it may wait for its turn while another answers
/// requests: 50 ms were not always enough.
pub(crate) const CONFIRM_AFTER: Duration = Duration::from_millis(200);
/// How often a server that has just started is asked whether it grants now.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What is claimed.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub claim: &'a Claim,
    pub ttl: Duration,
    /// Whether a grant is verified before it is reported.
    pub verify: bool,
}

/// Claims a key, after what `earlier` tries may have done. `given_up` returns whether this process
/// abandoned the claim with that token.
pub async fn acquire<C: Commands>(
    server: &mut C,
    wanted: &Wanted<'_>,
    given_up: impl Fn(OwnerToken) -> bool + Send + Sync,
    earlier: Earlier,
) -> Result<AcquireOutcome, DatastoreError> {
    let outcome = if wanted.verify {
        Box::pin(acquire_verified(server, wanted, &given_up)).await
    } else {
        claim_key(server, wanted, &given_up).await
    };
    if !earlier.may_have_run() {
        return outcome;
    }
    match outcome? {
        AcquireOutcome::Granted(grant) => {
            Ok(AcquireOutcome::Granted(grant.with_copy_to_follow(true)))
        }
        // The copy that was sent on the connection which broke may still be on its way, and win
        // after this holder.
        AcquireOutcome::Held(_) => Err(DatastoreError::maybe_executed(
            ErrorKind::Unreachable,
            Problem::LostCopy,
        )),
    }
}

/// Claims, and verifies before the grant is reported that the server really keeps the key for as
/// long as it promised. If not, the claim is repeated.
async fn acquire_verified<C: Commands>(
    server: &mut C,
    wanted: &Wanted<'_>,
    given_up: &(impl Fn(OwnerToken) -> bool + Send + Sync),
) -> Result<AcquireOutcome, DatastoreError> {
    let mut is_stored = false;
    loop {
        let claimed = claim_key(server, wanted, given_up).await;
        // A second turn that fails leaves what the first one has stored.
        let granted = match claimed.map_err(|error| match is_stored {
            true => may_have_executed(error),
            false => error,
        })? {
            AcquireOutcome::Granted(granted) => granted,
            held @ AcquireOutcome::Held(_) => return Ok(held),
        };
        is_stored = true;
        if server.time_left() <= CONFIRM_AFTER {
            return Err(DatastoreError::maybe_executed(
                ErrorKind::Timeout,
                Problem::Unverified,
            ));
        }
        server.pause(CONFIRM_AFTER).await;
        let lease = Lease::new(wanted.claim.clone(), granted);
        let confirmed = holding::confirm(server, &lease).await;
        if let Extension::Extended(seen) = confirmed.map_err(may_have_executed)?
            && kept_until(&seen) >= kept_until(lease.grant())
        {
            return Ok(AcquireOutcome::Granted(lease.grant().clone()));
        }
    }
}

async fn claim_key<C: Commands>(
    server: &mut C,
    wanted: &Wanted<'_>,
    given_up: &(impl Fn(OwnerToken) -> bool + Send + Sync),
) -> Result<AcquireOutcome, DatastoreError> {
    let Wanted { claim, ttl, .. } = *wanted;
    let key = Key::new(claim.key())?;
    let seconds = ttl::seconds(ttl)?;
    if server.leads_to_several() {
        let peer = server.peer().to_owned();
        return Err(DatastoreError::not_executed(
            ErrorKind::Unsupported,
            Problem::SeveralServers { peer },
        ));
    }
    wait_until_it_may_grant(server, claim).await?;
    let fresh = Record {
        owner: claim.owner(),
        fence: None,
        sequence: 0,
        holder: claim.holder(),
    }
    .to_value();
    for _ in 0..RACES {
        let sent = server.now();
        let kept = Kept { seconds, ttl, sent };
        match server.add(key, seconds, &fresh).await? {
            Stored::Done(0) => return Err(refuse_without_cas(server, key).await),
            Stored::Done(cas) => return granted(server, cas, kept),
            Stored::Other | Stored::NotFound => {}
        }
        let read_at = server.now();
        let Some(item) = server.get(key).await? else {
            continue; // It ended just now.
        };
        let record = Record::parse(&item.value);
        match &record {
            Some(record) if record.owner == claim.owner() => {
                let raised = hold_longer(server, key, (&item, read_at), record, ttl);
                if let Some(grant) = raised.await? {
                    return Ok(AcquireOutcome::Granted(grant));
                }
            }
            Some(record) if given_up(record.owner) => {
                // Our own claim that the server carried out after we had given it up; nobody
                // believes to hold by it.
                let replacement = Replacement {
                    key,
                    cas: item.cas,
                    seconds,
                    value: fresh.clone(),
                };
                if let Stored::Done(cas) = server.replace(&replacement).await? {
                    return granted(server, cas, kept);
                }
            }
            record => return Ok(AcquireOutcome::Held(held(server, &item, record.as_ref()))),
        }
    }
    Err(contended())
}

/// The grant of a record that was stored for the first time.
fn granted<C: Commands>(
    server: &C,
    cas: u64,
    kept: Kept,
) -> Result<AcquireOutcome, DatastoreError> {
    let incarnation = server.incarnation();
    let fence = incarnation.fence(server.peer(), cas)?;
    let at = At {
        incarnation,
        cas,
        sequence: 0,
        kept,
    };
    Ok(AcquireOutcome::Granted(at.grant(Some(fence))))
}

/// Answers a claim that holds the key already, as the item read at `read_at` shows: the same
/// fencing token, and at least `ttl` from now. `None` if the record changed meanwhile.
async fn hold_longer<C: Commands>(
    server: &mut C,
    key: Key<'_>,
    (item, read_at): (&Item, Time),
    record: &Record<'_>,
    ttl: Duration,
) -> Result<Option<Grant>, DatastoreError> {
    let fence = fence_of(server, item, record)?;
    let (incarnation, sequence) = (server.incarnation(), record.sequence);
    let reported = item.seconds.unwrap_or(0);
    let left = ttl::at_least(reported);
    if left >= ttl {
        let kept = Kept {
            seconds: reported,
            ttl: left,
            sent: read_at,
        };
        let cas = item.cas;
        let at = At {
            incarnation,
            cas,
            sequence,
            kept,
        };
        return Ok(Some(at.grant(Some(fence))));
    }
    let (seconds, sent) = (ttl::seconds(ttl)?, server.now());
    // The holder stays: a late copy of the claim may come after an extend that described it anew.
    let again = Record {
        fence: Some(fence),
        ..record.clone()
    };
    let replacement = Replacement {
        key,
        cas: item.cas,
        seconds,
        value: again.to_value(),
    };
    Ok(match server.replace(&replacement).await? {
        Stored::Done(cas) => {
            let kept = Kept { seconds, ttl, sent };
            let at = At {
                incarnation,
                cas,
                sequence,
                kept,
            };
            Some(at.grant(Some(fence)))
        }
        Stored::NotFound | Stored::Other => None,
    })
}

/// Who holds a key, as the server knows; `None` if it is free.
pub(crate) async fn holder<C: Commands>(
    server: &mut C,
    key: Key<'_>,
) -> Result<Option<HeldBy>, DatastoreError> {
    let item = server.get(key).await?;
    Ok(item.map(|item| held(server, &item, Record::parse(&item.value).as_ref())))
}

/// Who holds a key.
fn held<C: Commands>(server: &C, item: &Item, record: Option<&Record<'_>>) -> HeldBy {
    let mut held = HeldBy::new();
    if let Some(seconds) = item.seconds {
        held = held.with_expires_in(Duration::from_secs(u64::from(seconds)));
    }
    let Some(record) = record else {
        return held; // Somebody else's client; it may still be a lock of theirs.
    };
    if let Ok(fence) = fence_of(server, item, record) {
        held = held.with_fence(fence);
    }
    held.with_holder_text(record.holder)
}

/// Waits, within the call, until the server is old enough to grant.
async fn wait_until_it_may_grant<C: Commands>(
    server: &mut C,
    claim: &Claim,
) -> Result<(), DatastoreError> {
    while !server.may_grant().await? {
        let mut left = claim.time_left().min(server.time_left());
        if left > ASK_AGAIN {
            server.pause(ASK_AGAIN).await;
            left = claim.time_left().min(server.time_left());
            if !left.is_zero() {
                continue;
            }
        }
        let peer = server.peer().to_owned();
        return Err(DatastoreError::not_executed(
            ErrorKind::Unreachable,
            Problem::JustStarted { peer },
        ));
    }
    Ok(())
}

/// Takes back what was stored on a server without CAS numbers, as far as that can be done there.
async fn refuse_without_cas<C: Commands>(server: &mut C, key: Key<'_>) -> DatastoreError {
    let peer = server.peer().to_owned();
    let removed = server.delete_unconditionally(key).await;
    let kind = ErrorKind::Unsupported;
    match removed {
        Ok(()) => DatastoreError::not_executed(kind, Problem::NoCas { peer }),
        Err(_) => DatastoreError::maybe_executed(kind, Problem::NoCas { peer }),
    }
}
