//! The decisions of an acquire: a state machine without I/O, clock or sleep.
//!
//! The [flow](crate::engine::acquire) carries out each [`Action`] and reports the resulting
//! [`Event`]; `now` is an argument. So tests run every path without waiting.
//!
//! The rules:
//!
//! - An acquisition has one owner token. Claims are idempotent, so a claim whose answer was lost
//!   can be repeated.
//! - After a lost answer the claim is repeated at once, one time. After that it is repeated only as
//!   a waiter retries.
//! - Until its own `not_after`, the lost request may still be carried out; a later refusal does not
//!   disprove that. So an acquisition that fails after it waits for that time and then abandons the
//!   claim. A winner that releases before that time does the same.
//! - A grant that arrives after the end of its lease counts as none and is released. A waiter then
//!   starts over under a new token, since a late copy of that release must not end its next grant.
//! - After the first refusal a waiter asks the store for a wake-up. If the store agrees, the waiter
//!   repeats the claim before it sleeps, since the key may have become free in between.
//! - The lost request may also win while the waiter sleeps, and the store would not wake it for
//!   that. So a waiter claims again when the time of the lost request is over, if not earlier.
//! - Transient errors are retried until the deadline. Then the last answer is returned: the refusal
//!   or the error.

use std::time::Duration;

use crate::acquire_error::AcquireError;
use crate::contract::error::{DatastoreError, ErrorKind};
use crate::contract::grant::Grant;
use crate::contract::grant::valid_until;
use crate::contract::outcome::{AcquireOutcome, HeldBy};
use crate::time::backoff::Backoff;
use crate::time::instant::Time;

/// How long a waiter with a wake-up sleeps if it does not know the end of the holder's lease.
const UNKNOWN_LEASE: Duration = Duration::from_secs(1);
/// If a call had less than one part in this many of its usual time, its failure says nothing about
/// the store.
const TOO_SHORT: u32 = 10;
/// The shortest sleep: a lease that ends "now" must not make a waiter spin.
const SHORTEST: Duration = Duration::from_millis(1);

/// The parameters of an acquisition.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The caller's deadline; [`Time::MAX`] if it has none.
    pub deadline: Time,
    /// Whether the caller waits after a refusal.
    pub waits: bool,
    /// Whether the wait ends when the key holds the mark of a job that is done.
    pub until_done: bool,
    /// The most that one call may take.
    pub call_timeout: Duration,
    /// The pauses between polls.
    pub retry: Backoff,
    /// The seed of the jitter.
    pub seed: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The claim sent at `sent` was answered.
    Answered {
        sent: Time,
        reply: Result<AcquireOutcome, DatastoreError>,
    },
    /// The store was asked for a wake-up. The value is whether it will send one.
    Watched(bool),
    /// The sleep is over.
    Woken,
    /// The claim was abandoned, or the late grant released.
    Undone,
    /// The caller has cancelled the wait.
    Cancelled,
}

impl Event {
    /// Returns whether a cancellation may take the place of this event: it leaves nothing to do but
    /// to wait.
    pub fn gives_way(&self, waits: bool) -> bool {
        match self {
            Event::Watched(_) | Event::Woken => true,
            Event::Answered { reply, .. } => waits && matches!(reply, Ok(AcquireOutcome::Held(_))),
            Event::Undone | Event::Cancelled => false,
        }
    }
}

/// What to do next.
#[derive(Debug, Clone)]
pub enum Action {
    /// Claim the key, with a fresh owner token or the same as before.
    Claim { not_after: Time, fresh: bool },
    /// Ask the store for a wake-up.
    Watch,
    /// Sleep until `until`, or until woken if `wakeable`.
    Sleep { until: Time, wakeable: bool },
    /// Make sure that the claim holds nothing.
    Abandon,
    /// Release this grant, which came too late.
    Discard(Grant),
    /// The acquisition is over.
    Finish,
}

/// A grant that is valid.
#[derive(Debug)]
pub struct Granted {
    pub grant: Grant,
    pub valid_until: Time,
    /// The time until which a claim whose answer was lost may still be carried out. That is
    /// harmless while the lease lasts; after a release it would take the key again, with no owner
    /// left to release it.
    pub lost_request: Option<Time>,
}

/// An acquisition in progress.
#[derive(Debug)]
pub struct Acquisition {
    plan: Plan,
    outcome: Outcome,
    state: State,
    watching: Watching,
    /// The `not_after` of the last request whose answer was lost.
    lost_request: Option<Time>,
    /// Whether the claim was repeated after the lost answer.
    asked_again: bool,
    pauses: Pauses,
}

#[derive(Debug)]
enum Outcome {
    Open,
    Won(Granted),
    Held(HeldBy),
    Failed(DatastoreError),
    TooLate,
    Cancelled,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Claiming {
        not_after: Time,
    },
    AskingForWatch,
    Sleeping,
    /// Waiting for the `not_after` of the lost request, to abandon the claim then.
    OutlivingLostRequest {
        until: Time,
    },
    Undoing,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watching {
    NotAsked,
    Yes,
    No,
}

impl Acquisition {
    pub fn start(plan: Plan, now: Time) -> (Self, Action) {
        let pauses = Pauses {
            next: plan.retry.initial(),
            max: plan.retry.max(),
            random: plan.seed | 1,
        };
        let mut acquisition = Acquisition {
            plan,
            outcome: Outcome::Open,
            state: State::Over,
            watching: Watching::NotAsked,
            lost_request: None,
            asked_again: false,
            pauses,
        };
        let action = acquisition.claim(now);
        (acquisition, action)
    }

    /// Processes an event and returns the next action.
    pub fn on(&mut self, now: Time, event: Event) -> Action {
        match (event, &self.state) {
            (Event::Answered { sent, reply }, State::Claiming { not_after }) => {
                let not_after = *not_after;
                self.answered(now, sent, not_after, reply)
            }
            (Event::Watched(yes), State::AskingForWatch) => {
                self.watching = if yes { Watching::Yes } else { Watching::No };
                if yes {
                    self.claim_or_end(now)
                } else {
                    self.sleep(now)
                }
            }
            (Event::Woken, State::Sleeping) => self.claim_or_end(now),
            (Event::Woken | Event::Cancelled, &State::OutlivingLostRequest { until }) => {
                self.outlive_lost_request(now, until)
            }
            (Event::Undone, State::Undoing) if self.starts_over(now) => {
                self.watching = Watching::NotAsked;
                let Action::Claim { not_after, .. } = self.claim(now) else {
                    return self.finish();
                };
                Action::Claim {
                    not_after,
                    fresh: true,
                }
            }
            (Event::Undone, State::Undoing) => self.end(now),
            (
                Event::Cancelled,
                State::Sleeping | State::AskingForWatch | State::Claiming { .. },
            ) => {
                self.outcome = Outcome::Cancelled;
                self.end(now)
            }
            // The flow never reports an event that it was not asked for; if it did, stop cleanly.
            _ => self.end(now),
        }
    }

    /// Returns whether the claim would have to be abandoned if the acquisition ended now.
    #[cfg(test)]
    pub fn needs_abandon(&self) -> bool {
        self.lost_request.is_some() || matches!(self.state, State::Claiming { .. })
    }

    /// The result of a finished acquisition.
    pub fn into_outcome(self) -> Result<Granted, AcquireError> {
        match self.outcome {
            Outcome::Won(granted) => Ok(granted),
            Outcome::Held(held) => Err(AcquireError::Held(held)),
            Outcome::Failed(error) => Err(AcquireError::Datastore(error)),
            Outcome::Cancelled => Err(AcquireError::Cancelled),
            Outcome::TooLate | Outcome::Open => Err(AcquireError::Datastore(
                DatastoreError::not_executed(
                    ErrorKind::Timeout,
                    "the grant arrived after its lease had ended, so it was released",
                )
                .during("acquire"),
            )),
        }
    }

    fn answered(
        &mut self,
        now: Time,
        sent: Time,
        not_after: Time,
        reply: Result<AcquireOutcome, DatastoreError>,
    ) -> Action {
        match reply {
            Ok(AcquireOutcome::Granted(grant)) => {
                let valid_until = valid_until(sent, grant.ttl);
                let copy = grant.copy_may_follow.then_some(not_after);
                let lost_request = self.lost_request.take().max(copy);
                if now < valid_until {
                    self.outcome = Outcome::Won(Granted {
                        grant: grant.with_copy_to_follow(lost_request.is_some()),
                        valid_until,
                        lost_request,
                    });
                    return self.finish();
                }
                self.lost_request = lost_request;
                self.outcome = Outcome::TooLate;
                self.state = State::Undoing;
                Action::Discard(grant)
            }
            Ok(AcquireOutcome::Held(held)) => {
                self.asked_again = false;
                let done = held
                    .holder()
                    .is_some_and(crate::contract::holder::Holder::is_done);
                let stop = !self.plan.waits || (self.plan.until_done && done);
                self.outcome = Outcome::Held(held);
                if stop {
                    self.end(now)
                } else if self.watching == Watching::NotAsked {
                    self.state = State::AskingForWatch;
                    Action::Watch
                } else {
                    self.sleep(now)
                }
            }
            Err(error) => {
                let lost = error.may_have_executed();
                let retry = error.is_transient() && self.plan.waits;
                if !self.was_cut_short(sent, not_after, &error) {
                    self.outcome = Outcome::Failed(error.during("acquire"));
                }
                if lost {
                    self.lost_request = self.lost_request.max(Some(not_after));
                    if !std::mem::replace(&mut self.asked_again, true) && now < self.plan.deadline {
                        return self.claim(now);
                    }
                }
                if retry {
                    self.sleep(now)
                } else {
                    self.end(now)
                }
            }
        }
    }

    /// Returns whether a waiter's last claim failed only because its deadline left the store no
    /// time to answer. Then the refusal before it is the better answer.
    fn was_cut_short(&self, sent: Time, not_after: Time, error: &DatastoreError) -> bool {
        matches!(self.outcome, Outcome::Held(_))
            && matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Stale)
            && sent.until(not_after) < self.plan.call_timeout / TOO_SHORT
    }

    fn claim(&mut self, now: Time) -> Action {
        let not_after = now
            .saturating_add(self.plan.call_timeout)
            .min(self.plan.deadline);
        self.state = State::Claiming { not_after };
        Action::Claim {
            not_after,
            fresh: false,
        }
    }

    fn claim_or_end(&mut self, now: Time) -> Action {
        if now < self.plan.deadline {
            self.claim(now)
        } else {
            self.end(now)
        }
    }

    fn sleep(&mut self, now: Time) -> Action {
        if now >= self.plan.deadline {
            return self.end(now);
        }
        let hint = match &self.outcome {
            // A store that says "free now" but refuses is within its granularity: do not spin on
            // it.
            Outcome::Held(held) => held
                .retry_in()
                .or(held.expires_in())
                .filter(|hint| !hint.is_zero()),
            _ => None,
        };
        let failed = matches!(self.outcome, Outcome::Failed(_));
        let pause = if self.watching == Watching::Yes && !failed {
            hint.unwrap_or(UNKNOWN_LEASE)
        } else {
            let pause = self.pauses.draw();
            hint.map_or(pause, |hint| hint.min(pause))
        };
        self.state = State::Sleeping;
        let mut until = now
            .saturating_add(pause.max(SHORTEST))
            .min(self.plan.deadline);
        if let Some(end) = self.lost_request.filter(|end| now <= *end) {
            until = until.min(end.saturating_add(SHORTEST));
        }
        Action::Sleep {
            until,
            wakeable: true,
        }
    }

    /// Ends without a grant; first abandons the claim if a lost request may still be carried out.
    fn end(&mut self, now: Time) -> Action {
        match self.lost_request {
            Some(until) => self.outlive_lost_request(now, until),
            None => self.finish(),
        }
    }

    fn outlive_lost_request(&mut self, now: Time, until: Time) -> Action {
        if now < until {
            self.state = State::OutlivingLostRequest { until };
            return Action::Sleep {
                until,
                wakeable: false,
            };
        }
        self.lost_request = None;
        self.state = State::Undoing;
        Action::Abandon
    }

    fn starts_over(&self, now: Time) -> bool {
        // The lost request of the old token must be undone first: starting over forgets the token.
        matches!(self.outcome, Outcome::TooLate)
            && self.lost_request.is_none()
            && self.plan.waits
            && now < self.plan.deadline
    }

    fn finish(&mut self) -> Action {
        self.state = State::Over;
        Action::Finish
    }
}

/// Pauses that double, each shortened at random by up to half.
#[derive(Debug)]
struct Pauses {
    next: Duration,
    max: Duration,
    random: u64,
}

impl Pauses {
    fn draw(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.max);
        // xorshift64 (Marsaglia, "Xorshift RNGs", 2003): good enough for jitter.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let part = u32::try_from(self.random % 1024).unwrap_or(0);
        pause - pause / 2 * part / 1024
    }
}

#[cfg(test)]
mod tests;
