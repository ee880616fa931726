//! What an acquire decides: one state machine without I/O, clock or sleep.
//!
//! A driver carries out the [`Action`] and reports the [`Event`]; `now` is an argument. So every path runs in tests in no
//! time, and a second driver (async) decides the same.
//!
//! The rules:
//!
//! - One owner token for the whole acquisition, so that a claim whose answer was lost can be repeated: it is idempotent.
//! - An answer that was lost is asked for again at once, one time. Later only as a waiter retries.
//! - From then on, until its own end, the lost request may yet be carried out. A later refusal does not disprove it. So every
//!   failing end after it abandons the claim, and not before the lost request's own end. A winner has to do the same after a
//!   release that comes earlier than that.
//! - A grant that arrives after its lease's end is no grant. It is released; a waiter starts over under a new token, since a
//!   late copy of that release must not hit its next grant.
//! - The first refusal asks the store for a wake-up. If it has one, the claim is repeated before the sleep, since the key may have
//!   become free in between.
//! - The lost copy may also win while the waiter sleeps, and nobody would be woken for it. So a waiter claims again at the latest when the
//!   copy's time is over.
//! - Transient errors are retried while there is time to wait; then the last answer is reported, be it a refusal or the error.

use std::time::Duration;

use crate::lease::valid_until;
use crate::{AcquireError, Attempt, Backoff, DatastoreError, ErrorKind, Grant, Held, Time};

/// How long a waiter who can be woken sleeps when it was told nothing about the holder's lease.
const UNINFORMED: Duration = Duration::from_secs(1);
/// A call with less than this part of its usual time says nothing about the store when it fails.
const TOO_SHORT: u32 = 10;
/// The least sleep: a lease that ends "now" must not make a waiter spin.
const SHORTEST: Duration = Duration::from_millis(1);

/// What the acquisition is about.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// When the caller wants an answer; [`Time::MAX`] for "whenever".
    pub(crate) deadline: Time,
    /// Whether a refusal is waited out.
    pub(crate) waits: bool,
    /// Whether the mark of a job that was done ends the wait.
    pub(crate) until_done: bool,
    /// The most that one call may take.
    pub(crate) call_timeout: Duration,
    /// How to poll.
    pub(crate) retry: Backoff,
    /// Where the jitter starts.
    pub(crate) seed: u64,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The claim sent at `sent` was answered.
    Answered {
        sent: Time,
        reply: Result<Attempt, DatastoreError>,
    },
    /// The store was asked to wake us; whether it will.
    Watched(bool),
    /// The sleep is over.
    Woken,
    /// The claim was abandoned, or the late grant released.
    Undone,
    /// The caller does not want it any more.
    Cancelled,
}

/// What to do next.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Claim, with a fresh owner token or the same as before.
    Claim { not_after: Time, fresh: bool },
    /// Ask the store for a wake-up.
    Watch,
    /// Sleep until then, or until woken where that is allowed.
    Sleep { until: Time, wakeable: bool },
    /// Make sure that the claim holds nothing.
    Abandon,
    /// Release this grant, which came too late.
    Discard(Grant),
    /// It is over.
    Finish,
}

/// A grant that is valid.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) grant: Grant,
    pub(crate) until: Time,
    /// Until when a lost copy of the claim may yet be carried out. Harmless while the lease lasts; after a release it would
    /// take the key again, for nobody.
    pub(crate) lost_request: Option<Time>,
}

/// One acquisition under way.
#[derive(Debug)]
pub(crate) struct Acquisition {
    plan: Plan,
    outcome: Outcome,
    state: State,
    watching: Watching,
    /// Until when a request whose answer was lost may be carried out.
    lost_request: Option<Time>,
    /// Whether the lost answer was asked for again.
    asked_again: bool,
    pauses: Pauses,
}

#[derive(Debug)]
enum Outcome {
    Open,
    Won(Granted),
    Held(Held),
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
    /// Waiting for the lost request's end before it is abandoned.
    LettingPass {
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
    pub(crate) fn start(plan: Plan, now: Time) -> (Self, Action) {
        let pauses = Pauses {
            next: plan.retry.initial,
            max: plan.retry.max,
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

    /// Takes in what happened and says what to do next.
    pub(crate) fn on(&mut self, now: Time, event: Event) -> Action {
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
            (Event::Woken | Event::Cancelled, &State::LettingPass { until }) => {
                self.let_pass(now, until)
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
            // A driver that reports what was not asked for: nothing better than to stop cleanly.
            _ => self.end(now),
        }
    }

    /// Whether the claim must still be abandoned if the acquisition is given up now.
    #[cfg(test)]
    pub(crate) fn needs_abandon(&self) -> bool {
        self.lost_request.is_some() || matches!(self.state, State::Claiming { .. })
    }

    /// How it ended.
    pub(crate) fn into_outcome(self) -> Result<Granted, AcquireError> {
        match self.outcome {
            Outcome::Won(granted) => Ok(granted),
            Outcome::Held(held) => Err(AcquireError::Held(held)),
            Outcome::Failed(error) => Err(AcquireError::Datastore(error)),
            Outcome::Cancelled => Err(AcquireError::Cancelled),
            Outcome::TooLate | Outcome::Open => Err(AcquireError::Datastore(
                DatastoreError::not_executed(
                    ErrorKind::Timeout,
                    "the grant arrived after its lease had ended and was released",
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
        reply: Result<Attempt, DatastoreError>,
    ) -> Action {
        match reply {
            Ok(Attempt::Granted(grant)) => {
                let until = valid_until(sent, grant.ttl);
                let copy = grant.copy_may_follow.then_some(not_after);
                let lost_request = self.lost_request.take().max(copy);
                if now < until {
                    self.outcome = Outcome::Won(Granted {
                        grant: grant.with_copy_to_follow(lost_request.is_some()),
                        until,
                        lost_request,
                    });
                    return self.finish();
                }
                self.lost_request = lost_request;
                self.outcome = Outcome::TooLate;
                self.state = State::Undoing;
                Action::Discard(grant)
            }
            Ok(Attempt::Held(held)) => {
                self.asked_again = false;
                let done = held.holder().is_some_and(crate::Holder::is_done);
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

    /// Whether a waiter's last claim failed only since its own deadline left the store no time to answer. The refusal before it is the
    /// better answer then.
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
        let told = match &self.outcome {
            // A store that says "now" and refuses all the same is within its granularity: that is no reason to spin.
            Outcome::Held(held) => held
                .retry_in()
                .or(held.expires_in())
                .filter(|told| !told.is_zero()),
            _ => None,
        };
        let failed = matches!(self.outcome, Outcome::Failed(_));
        let pause = if self.watching == Watching::Yes && !failed {
            told.unwrap_or(UNINFORMED)
        } else {
            let pause = self.pauses.draw();
            told.map_or(pause, |told| told.min(pause))
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

    /// Ends without a grant, abandoning what may yet be carried out.
    fn end(&mut self, now: Time) -> Action {
        match self.lost_request {
            Some(until) => self.let_pass(now, until),
            None => self.finish(),
        }
    }

    fn let_pass(&mut self, now: Time, until: Time) -> Action {
        if now < until {
            self.state = State::LettingPass { until };
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
        // Not before the lost request of the old token is undone: who starts over forgets it.
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

/// Pauses that double, each with a random part of up to half taken off.
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
        // xorshift64 (Marsaglia, "Xorshift RNGs", 2003): jitter needs no better.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let part = u32::try_from(self.random % 1024).unwrap_or(0);
        pause - pause / 2 * part / 1024
    }
}

#[cfg(test)]
mod tests;
