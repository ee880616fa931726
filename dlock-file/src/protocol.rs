//! What a claim, an extend and a release make of a record: no file, no lock, no clock.

use std::time::Duration;

use dlock_core::{Attempt, Claim, Extension, FencingToken, Held, Lease, OwnerToken, Released};

use crate::moment::Moment;
use crate::record::{Holding, Record};

/// What a crash of the machine may take along without anybody noticing: no machine is back within this time.
const SHORTER_THAN_A_RESTART: Duration = Duration::from_secs(1);
/// From this length on a claim is taken to be meant to outlive its process.
const LONG_CLAIM: Duration = Duration::from_secs(3600);

/// A call's answer, and what has to be written before it may be given.
#[derive(Debug)]
pub(crate) struct Verdict<A> {
    pub(crate) answer: A,
    pub(crate) write: Option<Write>,
}

/// A record that takes the place of the stored one.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) record: Record,
    /// Whether it must be on the disk when the call returns.
    pub(crate) durable: bool,
}

impl<A> Verdict<A> {
    fn unchanged(answer: A) -> Self {
        let write = None;
        Verdict { answer, write }
    }

    fn written(answer: A, record: Record, durable: bool) -> Self {
        let write = Some(Write { record, durable });
        Verdict { answer, write }
    }
}

/// There is no higher fencing token than the last.
#[derive(Debug)]
pub(crate) struct FencesUsedUp;

/// A claim of `ttl`.
pub(crate) fn acquire(
    stored: Option<Record>,
    claim: &Claim,
    ttl: Duration,
    now: &Moment<'_>,
) -> Result<Verdict<Attempt>, FencesUsedUp> {
    let last_fence = stored.as_ref().map(|record| record.fence);
    match stored.and_then(|record| Live::of(record, now)) {
        Some(live) if live.holding.owner == claim.owner() => Ok(repeated(live, ttl, now)),
        Some(live) => {
            let held = Held::new()
                .with_expires_in(live.left)
                .with_fence(FencingToken::new(live.fence))
                .with_holder_text(&live.holding.holder);
            Ok(Verdict::unchanged(Attempt::Held(held)))
        }
        None => {
            let fence = next_fence(last_fence, now.wall).ok_or(FencesUsedUp)?;
            let holding = Holding {
                owner: claim.owner(),
                sequence: 0,
                ends: now.after(ttl),
                holder: claim.holder().to_owned(),
            };
            let record = Record {
                key: claim.key().to_owned(),
                fence,
                holding: Some(holding),
            };
            let granted = Attempt::granted(ttl, FencingToken::new(fence));
            Ok(Verdict::written(granted, record, ttl >= LONG_CLAIM))
        }
    }
}

/// The same claim once more: it never has less time than before.
fn repeated(mut live: Live, ttl: Duration, now: &Moment<'_>) -> Verdict<Attempt> {
    let fence = FencingToken::new(live.fence);
    if live.left >= ttl {
        return Verdict::unchanged(Attempt::granted(live.left, fence));
    }
    live.holding.ends = now.after(ttl);
    let granted = Attempt::granted(ttl, fence);
    Verdict::written(granted, live.into_record(), ttl >= LONG_CLAIM)
}

/// An extend to `ttl` from now.
pub(crate) fn extend(
    stored: Option<Record>,
    lease: &Lease,
    ttl: Duration,
    now: &Moment<'_>,
) -> Verdict<Extension> {
    let Some(mut live) = Live::of_owner(stored, lease.owner(), now) else {
        return Verdict::unchanged(Extension::Lost);
    };
    if lease.sequence() <= live.holding.sequence {
        return Verdict::unchanged(lease.extended(live.left));
    }
    let durable = must_outlive_the_process(lease, &live.holding, ttl);
    live.holding.sequence = lease.sequence();
    live.holding.ends = now.after(ttl);
    if live.holding.holder != lease.holder() {
        live.holding.holder = lease.holder().to_owned();
    }
    Verdict::written(lease.extended(ttl), live.into_record(), durable)
}

/// A release by whoever made `claim`.
pub(crate) fn release(
    stored: Option<Record>,
    claim: &Claim,
    now: &Moment<'_>,
) -> Verdict<Released> {
    let Some(live) = Live::of_owner(stored, claim.owner(), now) else {
        return Verdict::unchanged(Released::NotOurs);
    };
    // The record stays, for its fence.
    let free = Record {
        key: live.key,
        fence: live.fence,
        holding: None,
    };
    Verdict::written(Released::Ours, free, false)
}

/// A record whose lease is not over.
struct Live {
    key: String,
    fence: u64,
    holding: Holding,
    left: Duration,
}

impl Live {
    fn of(record: Record, now: &Moment<'_>) -> Option<Self> {
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

    fn of_owner(stored: Option<Record>, owner: OwnerToken, now: &Moment<'_>) -> Option<Self> {
        Self::of(stored?, now).filter(|live| live.holding.owner == owner)
    }

    fn into_record(self) -> Record {
        Record {
            key: self.key,
            fence: self.fence,
            holding: Some(self.holding),
        }
    }
}

/// The clock keeps tokens rising when the record is gone, the record when the clock was set back.
fn next_fence(last: Option<u64>, wall: u64) -> Option<u64> {
    match last {
        None => Some(wall),
        Some(last) => Some(last.checked_add(1)?.max(wall)),
    }
}

/// Whether an extend must be on the disk when it returns. A lease that is being renewed need not: with the machine its holder is gone.
/// What core keeps for after the holder's end (`min_hold`, the mark of `once`) is asked for by an extend which is not like the
/// one before: another time, or another description. A needless yes costs one sync.
fn must_outlive_the_process(lease: &Lease, stored: &Holding, ttl: Duration) -> bool {
    let unlike = ttl != lease.grant().ttl || lease.holder() != stored.holder;
    unlike && ttl >= SHORTER_THAN_A_RESTART
}
