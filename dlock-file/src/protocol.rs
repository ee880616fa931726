//! What a claim, an extend and a release make of a record: no file, no lock, no clock.

use std::time::Duration;

use dlock_core::{
    Attempt, Claim, Extension, FencingToken, Held, Holder, Lease, OwnerToken, Released,
};

use crate::moment::Moment;
use crate::record::{Holding, Record};

/// What a crash of the machine may take along without anybody noticing: no machine is back within this time.
const SHORTER_THAN_A_RESTART: Duration = Duration::from_secs(1);
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
        Some(live) if live.holding.owner == claim.owner() => Ok(repeated(live, claim, ttl, now)),
        Some(live) => Ok(Verdict::unchanged(Attempt::Held(live.to_held()))),
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
            Ok(Verdict::written(granted, record, is_done(claim.holder())))
        }
    }
}

/// The same claim once more: it never has less time than before.
fn repeated(mut live: Live, claim: &Claim, ttl: Duration, now: &Moment<'_>) -> Verdict<Attempt> {
    let fence = FencingToken::new(live.fence);
    if live.left >= ttl {
        return Verdict::unchanged(Attempt::granted(live.left, fence));
    }
    live.holding.ends = now.after(ttl);
    let granted = Attempt::granted(ttl, fence);
    Verdict::written(granted, live.into_record(), is_done(claim.holder()))
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
    let durable = must_outlive_the_process(lease, ttl);
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
    freed(Live::of_owner(stored, claim.owner(), now))
}

/// Who holds the key.
pub(crate) fn look(stored: Option<Record>, now: &Moment<'_>) -> Verdict<Option<Held>> {
    let live = stored.and_then(|record| Live::of(record, now));
    Verdict::unchanged(live.map(|live| live.to_held()))
}

/// A release in the name of whoever holds the key under `fence`.
pub(crate) fn break_lease(
    stored: Option<Record>,
    fence: FencingToken,
    now: &Moment<'_>,
) -> Verdict<Released> {
    let live = stored.and_then(|record| Live::of(record, now));
    freed(live.filter(|live| live.fence == fence.get()))
}

fn freed(live: Option<Live>) -> Verdict<Released> {
    let Some(live) = live else {
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

    fn to_held(&self) -> Held {
        Held::new()
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

/// The clock keeps tokens rising when the record is gone, the record when the clock was set back.
fn next_fence(last: Option<u64>, wall: u64) -> Option<u64> {
    match last {
        None => Some(wall),
        Some(last) => Some(last.checked_add(1)?.max(wall)),
    }
}

/// Whether an extend must be on the disk when it returns. A lease that is being renewed need not: with the machine its holder is gone.
/// What core keeps for after the holder's end is the mark of a job that was done, and the rest of `min_hold`: an extend for another time
/// than the one before. (So is the last renewal before `max_hold`: one sync too many.)
fn must_outlive_the_process(lease: &Lease, ttl: Duration) -> bool {
    ttl >= SHORTER_THAN_A_RESTART && (ttl != lease.grant().ttl || is_done(lease.holder()))
}

fn is_done(holder: &str) -> bool {
    Holder::from_text(holder).is_some_and(|holder| holder.is_done())
}
