//! The decisions of a claim, an extend and a release about a record, without files, locks or
//! clocks.

use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Claim, Extension, FencingToken, HeldBy, Holder, Lease, OwnerToken,
    ReleaseOutcome,
};

use crate::now::Now;
use crate::queue::Waiter;
use crate::record::{Record, StoredGrant};

/// No machine restarts within this time. So a shorter lease may be lost in a crash of the machine:
/// it would have ended before the restart.
const SHORTER_THAN_A_RESTART: Duration = Duration::from_secs(1);
/// The answer of a call, and the record that must be written before it is given.
#[derive(Debug)]
pub(crate) struct Decision<A> {
    pub(crate) answer: A,
    pub(crate) write: Option<Write>,
    /// The waiter that is notified after that, which most decisions have not.
    pub(crate) turn: Option<Box<Turn>>,
}

/// A waiter that is notified.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) waiter: Waiter,
    /// Whether the written record hands it the key. Otherwise it should claim again because the
    /// lease ends earlier than it knows.
    pub(crate) is_handed: bool,
    /// What is written if the hand-over cannot be: on a full disk its record may be too long.
    pub(crate) otherwise: Option<Write>,
}

/// A record that replaces the stored one.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) record: Record,
    /// Whether the record must be synced to the disk before the call returns.
    pub(crate) durable: bool,
}

impl<A> Decision<A> {
    pub(crate) fn unchanged(answer: A) -> Self {
        Decision {
            answer,
            write: None,
            turn: None,
        }
    }

    pub(crate) fn written(answer: A, record: Record, durable: bool) -> Self {
        Decision {
            write: Some(Write { record, durable }),
            ..Self::unchanged(answer)
        }
    }
}

/// The last fencing token was the highest possible number.
#[derive(Debug)]
pub(crate) struct FencesUsedUp;

/// Decides a claim for `ttl`.
pub(crate) fn acquire(
    stored: Option<Record>,
    claim: &Claim,
    ttl: Duration,
    now: &Now<'_>,
) -> Result<Decision<AcquireOutcome>, FencesUsedUp> {
    let last_fence = stored.as_ref().map(|record| record.fence);
    match stored.and_then(|record| Live::of(record, now)) {
        Some(live) if live.holding.owner == claim.owner() => Ok(repeated(live, claim, ttl, now)),
        Some(live) => Ok(Decision::unchanged(AcquireOutcome::Held(live.to_held()))),
        None => {
            let holder = claim.holder();
            let record = granted(claim.key(), last_fence, claim.owner(), holder, ttl, now)?;
            let granted = AcquireOutcome::granted(ttl, FencingToken::new(record.fence));
            Ok(Decision::written(granted, record, is_done(claim.holder())))
        }
    }
}

/// The record of a new grant.
pub(crate) fn granted(
    key: &str,
    last_fence: Option<u64>,
    owner: OwnerToken,
    holder: &str,
    ttl: Duration,
    now: &Now<'_>,
) -> Result<Record, FencesUsedUp> {
    Ok(Record {
        key: key.to_owned(),
        fence: next_fence(last_fence, now.wall).ok_or(FencesUsedUp)?,
        holding: Some(StoredGrant {
            owner,
            is_handed: false,
            sequence: 0,
            ends: now.after(ttl),
            holder: holder.to_owned(),
        }),
    })
}

/// How long the key stays held if its holder does nothing; `None` if nobody holds it.
pub(crate) fn time_left(stored: Option<&Record>, now: &Now<'_>) -> Option<Duration> {
    now.until(&stored?.holding.as_ref()?.ends)
}

pub(crate) fn is_free(stored: Option<&Record>, now: &Now<'_>) -> bool {
    time_left(stored, now).is_none()
}

/// Decides a claim of the owner that the record names: a repeated one, which never shortens the
/// lease, or that of a waiter that was handed the key. Nobody relied on the hand-over, so its lease
/// begins now: it would otherwise outlast a shorter time to live if the holder dies.
fn repeated(
    mut live: Live,
    claim: &Claim,
    ttl: Duration,
    now: &Now<'_>,
) -> Decision<AcquireOutcome> {
    let fence = FencingToken::new(live.fence);
    if live.left >= ttl && !live.holding.is_handed {
        return Decision::unchanged(AcquireOutcome::granted(live.left, fence));
    }
    live.holding.is_handed = false;
    live.holding.ends = now.after(ttl);
    let granted = AcquireOutcome::granted(ttl, fence);
    Decision::written(granted, live.into_record(), is_done(claim.holder()))
}

/// Decides an extend to `ttl` from now.
pub(crate) fn extend(
    stored: Option<Record>,
    lease: &Lease,
    ttl: Duration,
    now: &Now<'_>,
) -> Decision<Extension> {
    let Some(mut live) = Live::of_owner(stored, lease.owner(), now) else {
        return Decision::unchanged(Extension::Lost);
    };
    if lease.sequence() <= live.holding.sequence {
        return Decision::unchanged(lease.extended(live.left));
    }
    let durable = must_outlive_the_process(lease, ttl);
    live.holding.is_handed = false;
    live.holding.sequence = lease.sequence();
    live.holding.ends = now.after(ttl);
    if live.holding.holder != lease.holder() {
        live.holding.holder = lease.holder().to_owned();
    }
    Decision::written(lease.extended(ttl), live.into_record(), durable)
}

/// Decides a release by the owner of `claim`.
pub(crate) fn release(
    stored: Option<Record>,
    claim: &Claim,
    now: &Now<'_>,
) -> Decision<ReleaseOutcome> {
    freed(Live::of_owner(stored, claim.owner(), now))
}

/// The present holder of the key.
pub(crate) fn holder(stored: Option<Record>, now: &Now<'_>) -> Decision<Option<HeldBy>> {
    let live = stored.and_then(|record| Live::of(record, now));
    Decision::unchanged(live.map(|live| live.to_held()))
}

/// Decides a release on behalf of the holder with the token `fence`.
pub(crate) fn break_lease(
    stored: Option<Record>,
    fence: FencingToken,
    now: &Now<'_>,
) -> Decision<ReleaseOutcome> {
    let live = stored.and_then(|record| Live::of(record, now));
    freed(live.filter(|live| live.fence == fence.get()))
}

fn freed(live: Option<Live>) -> Decision<ReleaseOutcome> {
    let Some(live) = live else {
        return Decision::unchanged(ReleaseOutcome::NotHeld);
    };
    // The record stays, to remember its token.
    let free = Record {
        key: live.key,
        fence: live.fence,
        holding: None,
    };
    Decision::written(ReleaseOutcome::Released, free, false)
}

/// A record whose lease has not ended.
struct Live {
    key: String,
    fence: u64,
    holding: StoredGrant,
    left: Duration,
}

impl Live {
    fn of(record: Record, now: &Now<'_>) -> Option<Self> {
        let Record {
            key,
            fence,
            holding,
        } = record;
        let holding = holding?;
        let left = now.until(&holding.ends)?;
        Some(Live {
            key,
            fence,
            holding,
            left,
        })
    }

    fn of_owner(stored: Option<Record>, owner: OwnerToken, now: &Now<'_>) -> Option<Self> {
        Self::of(stored?, now).filter(|live| live.holding.owner == owner)
    }

    fn to_held(&self) -> HeldBy {
        HeldBy::new()
            .with_expires_in(self.left)
            .with_fence(FencingToken::new(self.fence))
            .with_holder_text(&self.holding.holder)
    }

    fn into_record(self) -> Record {
        Record {
            key: self.key,
            fence: self.fence,
            holding: Some(self.holding),
        }
    }
}

/// The next token. The clock makes tokens rise after the record was deleted, and the record makes
/// them rise after the clock was set back.
fn next_fence(last: Option<u64>, wall: u64) -> Option<u64> {
    match last {
        None => Some(wall),
        Some(last) => Some(last.checked_add(1)?.max(wall)),
    }
}

/// Returns whether an extend must be synced to the disk. A plain renewal need not be: a crash of
/// the machine ends its holder too. But the mark of a done job and the rest of a `min_hold` must
/// outlive the holder. They are recognised as extends for another time than the one before. (The
/// last renewal before `max_hold` is also one, and is synced needlessly.)
fn must_outlive_the_process(lease: &Lease, ttl: Duration) -> bool {
    ttl >= SHORTER_THAN_A_RESTART && (ttl != lease.grant().ttl || is_done(lease.holder()))
}

fn is_done(holder: &str) -> bool {
    Holder::from_text(holder).is_some_and(|holder| holder.is_done())
}
