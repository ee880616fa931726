//! Whose turn it is: the decisions about a key that has waiters.
//!
//! A key that becomes free is handed to its first waiter: the record says that the waiter holds it,
//! for a moment. The waiter's process is notified, and the waiter claims, which gives it a lease of
//! the time that it asks for. A hand-over takes the waiter off the queue for good. So a waiter that
//! misses its turn makes the others wait only once.
//!
//! A process may die between any two steps. The record is written first: then the key is the
//! waiter's, whether or not its line is crossed out and its process notified. Each waiter claims
//! from time to time, and so finds a hand-over of which no notification came.

use std::time::Duration;

use dlock_core::{AcquireOutcome, Claim, Extension, FencingToken, HeldBy, Lease, ReleaseOutcome};

use crate::now::Now;
use crate::operations::{self, Decision, FencesUsedUp, Turn, Write};
use crate::queue::{Queue, Waiter};
use crate::record::Record;

/// How long a waiter that was handed the key may take to claim it: longer than the first waiter
/// sleeps, so that one whose notification was lost does not miss its turn. In the tests of this
/// crate it is longer, so that they pass on an overloaded machine.
const HAND_OVER: Duration = Duration::from_millis(if cfg!(test) { 20_000 } else { 1200 });
/// How long the first waiter sleeps at most, and each one behind it that much longer.
const FIRST_SLEEP: Duration = Duration::from_secs(1);
/// How long any waiter sleeps at most.
const LONGEST_SLEEP: Duration = Duration::from_secs(20);
/// How long after the holder's lease a waiter claims, for each waiter before it: if they are dead,
/// it takes over.
const AFTER_THE_LEASE: Duration = Duration::from_millis(20);
/// How long a waiter sleeps that could not enter the queue.
const UNQUEUED: Duration = Duration::from_millis(100);

/// Decides a claim. A claimant that waits and is woken through the pipe `pipe` enters the queue if
/// it is refused.
pub(crate) fn acquire(
    stored: Option<Record>,
    claim: &Claim,
    ttl: Duration,
    now: &Now<'_>,
    queue: &mut Queue<'_>,
    pipe: Option<String>,
) -> Result<Decision<AcquireOutcome>, FencesUsedUp> {
    let left = operations::time_left(stored.as_ref(), now);
    let is_free = !queue.is_empty() && left.is_none();
    let first = is_free.then(|| queue.first(Some(claim.owner()))).flatten();
    let mut decision = match first.filter(|first| first.owner != claim.owner()) {
        // A newcomer does not overtake.
        Some(first) => {
            let last_fence = stored.map(|record| record.fence);
            let (record, held) = handed(claim.key(), last_fence, &first, now)?;
            let mut decision = Decision::written(AcquireOutcome::Held(held), record, false);
            decision.turn = Some(Box::new(Turn {
                waiter: first,
                is_handed: true,
                otherwise: None,
            }));
            decision
        }
        None => operations::acquire(stored, claim, ttl, now)?,
    };
    if let Some(pipe) = pipe {
        match decision.answer {
            AcquireOutcome::Granted(_) => {
                queue.remove(claim.owner());
                tell_of_earlier_end(&mut decision, left, ttl, queue);
            }
            AcquireOutcome::Held(held) => {
                let retry_in = wait(claim, &held, queue, pipe);
                decision.answer = AcquireOutcome::Held(held.with_retry_in(retry_in));
            }
        }
    }
    Ok(decision)
}

/// Decides an extend.
pub(crate) fn extend(
    stored: Option<Record>,
    lease: &Lease,
    ttl: Duration,
    now: &Now<'_>,
    queue: &mut Queue<'_>,
) -> Decision<Extension> {
    if queue.is_empty() {
        return operations::extend(stored, lease, ttl, now);
    }
    let before = operations::time_left(stored.as_ref(), now);
    let mut decision = operations::extend(stored, lease, ttl, now);
    tell_of_earlier_end(&mut decision, before, ttl, queue);
    decision
}

/// If the key that was held for `before` is held for `ttl` now, and that is shorter, the first
/// waiter must learn of it.
fn tell_of_earlier_end<A>(
    decision: &mut Decision<A>,
    before: Option<Duration>,
    ttl: Duration,
    queue: &mut Queue<'_>,
) {
    if decision.write.is_some() && before > Some(ttl) {
        decision.turn = queue.first(None).map(|waiter| {
            Box::new(Turn {
                waiter,
                is_handed: false,
                otherwise: None,
            })
        });
    }
}

/// Decides a release by the owner of `claim`, which also waits no longer.
pub(crate) fn release(
    stored: Option<Record>,
    claim: &Claim,
    now: &Now<'_>,
    queue: &mut Queue<'_>,
) -> Decision<ReleaseOutcome> {
    if queue.is_empty() {
        return operations::release(stored, claim, now);
    }
    queue.remove(claim.owner());
    let before = Before::of(stored.as_ref(), now);
    let decision = operations::release(stored, claim, now);
    pass_on(decision, before, claim.key(), now, queue)
}

/// Decides a release on behalf of the holder with the token `fence`.
pub(crate) fn break_lease(
    stored: Option<Record>,
    key: &str,
    fence: FencingToken,
    now: &Now<'_>,
    queue: &mut Queue<'_>,
) -> Decision<ReleaseOutcome> {
    let before = Before::of(stored.as_ref(), now);
    let decision = operations::break_lease(stored, fence, now);
    pass_on(decision, before, key, now, queue)
}

/// A key before a release.
#[derive(Clone, Copy)]
struct Before {
    is_free: bool,
    last_fence: Option<u64>,
}

impl Before {
    fn of(stored: Option<&Record>, now: &Now<'_>) -> Self {
        Before {
            is_free: operations::is_free(stored, now),
            last_fence: stored.map(|record| record.fence),
        }
    }
}

/// If the key is free after the decision, hands it to the first waiter.
fn pass_on(
    mut decision: Decision<ReleaseOutcome>,
    before: Before,
    key: &str,
    now: &Now<'_>,
    queue: &mut Queue<'_>,
) -> Decision<ReleaseOutcome> {
    let is_free = before.is_free || decision.answer == ReleaseOutcome::Released;
    if is_free
        && let Some(first) = queue.first(None)
        // If the tokens are used up, the waiter's own claim reports it.
        && let Ok((record, _)) = handed(key, before.last_fence, &first, now)
    {
        let otherwise = decision.write.replace(Write {
            record,
            durable: false,
        });
        decision.turn = Some(Box::new(Turn {
            waiter: first,
            is_handed: true,
            otherwise,
        }));
    }
    decision
}

/// The record of a key that is handed to the waiter, and how others are refused then.
fn handed(
    key: &str,
    last_fence: Option<u64>,
    waiter: &Waiter,
    now: &Now<'_>,
) -> Result<(Record, HeldBy), FencesUsedUp> {
    let Waiter { owner, holder, .. } = waiter;
    let mut record = operations::granted(key, last_fence, *owner, holder, HAND_OVER, now)?;
    if let Some(holding) = &mut record.holding {
        holding.is_handed = true;
    }
    let held = HeldBy::new()
        .with_expires_in(HAND_OVER)
        .with_fence(FencingToken::new(record.fence))
        .with_holder_text(holder);
    Ok((record, held))
}

/// Puts a refused claimant in the queue, unless it is there. Returns when it should claim again if
/// it is not woken.
fn wait(claim: &Claim, held: &HeldBy, queue: &mut Queue<'_>, pipe: String) -> Duration {
    // The dead before it go, so that it knows its place.
    queue.first(Some(claim.owner()));
    if queue.place_of(claim.owner()).is_none() {
        let waiter = Waiter {
            owner: claim.owner(),
            pipe,
            holder: claim.holder().to_owned(),
        };
        // Without a queue it polls.
        let _ = queue.enter(&waiter);
    }
    match queue.place_of(claim.owner()) {
        Some(place) => sleep_at(place, held.expires_in()),
        None => UNQUEUED,
    }
}

/// How long the waiter behind `place` others sleeps if it is not woken.
fn sleep_at(place: usize, left: Option<Duration>) -> Duration {
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    let sleep = FIRST_SLEEP
        .saturating_mul(place.saturating_add(1))
        .min(LONGEST_SLEEP);
    left.map_or(sleep, |left| {
        let takes_over = left.saturating_add(AFTER_THE_LEASE.saturating_mul(place));
        sleep.min(takes_over)
    })
}
