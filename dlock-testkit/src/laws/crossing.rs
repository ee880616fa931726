//! Laws 4 and 7 when a call and the end of its lease coincide.
//!
//! A store that compares in one step and writes in another is nearly always right. It fails only
//! if, between the two steps, the lease ends and somebody else is granted the key. So these cases
//! sweep a call over the last moments of a short lease, while a competitor claims the key in a
//! loop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dlock_core::{AcquireOutcome, Extension};

use crate::case::{Case, Law, Sample, broken, check, now};
use crate::client::{Client, Holding};
use crate::threads::in_lanes;
use crate::{Subject, Verdict};

/// The last part of a lease, over which calls are swept.
const SWEPT: Duration = Duration::from_millis(24);
const STEPS: u32 = 24;
/// How often the whole sweep is made. Two or three of its one-millisecond steps hit a gap of two
/// milliseconds.
const SWEEPS: u32 = 2;
/// The time to live: longer than the sweep, but short, since there are many leases.
const BRIEF: Duration = Duration::from_millis(30);

/// A lease near its end, and a competitor for the key.
struct Crossing<'c> {
    case: &'c Case<'c>,
    holder: Client<'c>,
    holding: Holding,
}

impl<'c> Crossing<'c> {
    fn new(case: &'c Case<'c>) -> Self {
        let holder = case.client(&case.key());
        let holding = holder.take(brief(case), "nobody had claimed the key");
        Crossing {
            case,
            holder,
            holding,
        }
    }

    /// Makes `call` this long before the lease ends. Meanwhile the competitor claims the key, until
    /// the call has returned and once more after that. Returns the results of both.
    fn run<R>(
        &self,
        before_end: Duration,
        call: impl FnOnce() -> R,
    ) -> (R, Option<(Client<'c>, Holding)>) {
        let end = self.holding.received;
        let end = end.saturating_add(self.holding.lease.grant().ttl);
        let returned = AtomicBool::new(false);
        thread::scope(|scope| {
            let competitor = scope.spawn(|| {
                let client = self.case.client(self.holder.key());
                loop {
                    let is_last = returned.load(Ordering::SeqCst);
                    let answer = client.ask(self.case.long());
                    if let AcquireOutcome::Granted(grant) = answer.value {
                        let lease = dlock_core::Lease::new(client.claim(), grant);
                        let (sent, received) = (answer.sent, answer.received);
                        let holding = Holding {
                            lease,
                            sent,
                            received,
                        };
                        return Some((client, holding));
                    }
                    if is_last {
                        return None;
                    }
                    thread::sleep(Duration::from_micros(50));
                }
            });
            // The call reaches the store after half its latency.
            let lead = before_end + self.case.latency() / 2;
            self.case.sleep_until(end.saturating_sub(lead));
            let result = call();
            returned.store(true, Ordering::SeqCst);
            match competitor.join() {
                Ok(won) => (result, won),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// Makes all crossings, one after the other, or in parallel if leases take long to end.
fn swept(case: &Case<'_>, crossing: impl Fn(Duration) + Sync) {
    let steps: Vec<u32> = (0..STEPS * SWEEPS).collect();
    let lanes = if brief(case) > BRIEF * 4 {
        steps.len()
    } else {
        1
    };
    in_lanes(lanes, &steps, |_, step| {
        crossing(SWEPT * (step % STEPS) / STEPS);
    });
}

/// The time to live of these cases.
fn brief(case: &Case<'_>) -> Duration {
    case.live(BRIEF.max(case.latency() * 4))
}

/// A release that is carried out after its lease has ended does not free the key of the next
/// holder.
pub fn a_release_at_the_end_frees_nobody_elses_key(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Own);
    swept(&case, |before_end| {
        let crossing = Crossing::new(&case);
        let (_, won) = crossing.run(before_end, || {
            crossing.holder.release(&crossing.holding.lease)
        });
        if let Some((client, holding)) = won {
            let since = format!(
                "the key came to the next holder about {before_end:?} after a release of the \
                 former one, whose lease ended then"
            );
            client.prolong(&holding.lease, case.long(), &since);
            client.frees(&holding.lease, &since);
        }
    });
    Verdict::Kept
}

/// An extend that is carried out after its lease has ended does not take the key from the next
/// holder.
pub fn an_extend_at_the_end_takes_nobody_elses_key(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    swept(&case, |before_end| {
        let crossing = Crossing::new(&case);
        let (answer, won) = crossing.run(before_end, || {
            crossing.holder.extend(&crossing.holding.lease, case.long())
        });
        match (answer.value, won) {
            (Extension::Extended(_), Some(_)) => broken!(
                case,
                "about {before_end:?} before its end a lease was extended to half an hour, and \
                 meanwhile somebody else was granted its key"
            ),
            (Extension::Lost, Some((client, holding))) => {
                let since = format!(
                    "the key came to the next holder, and an extend of the former one, sent about \
                     {before_end:?} before its lease ended, was answered `Lost`"
                );
                client.prolong(&holding.lease, case.long(), &since);
            }
            (_, None) => {}
        }
    });
    Verdict::Kept
}

/// An extend sent just after its lease has ended is `Lost`, even if nobody else has taken the key.
pub fn an_extend_just_after_the_end_is_lost(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Extend);
    for late in [1, 5, 15, 30] {
        case.sampled("an extend just after its lease ended", || {
            let key = case.key();
            let holder = case.client(&key);
            let ttl = case.short();
            let holding = holder.take(ttl, "nobody had claimed the key");
            // Without the slack for an overloaded machine: by the store's own declaration the lease
            // is over.
            let over = holding.received.saturating_add(
                holding.lease.grant().ttl + case.traits.granularity + dlock_core::drift(ttl),
            );
            case.sleep_until(over.saturating_add(Duration::from_millis(late)));
            if over.until(now()) > Duration::from_millis(late + 20) {
                return Sample::TooSlow;
            }
            check!(case, now() > over, "the clock stands still");
            let since = format!("the lease had ended {late} ms before");
            holder.lost(&holding.lease, &since);
            case.client(&key).take(case.long(), &since);
            Sample::Judged
        });
    }
    Verdict::Kept
}
