//! Until when a lease is valid, and what is due for it next: a value, with the time as an argument.

use std::time::Duration;

use crate::contract::error::DatastoreError;
use crate::contract::grant::valid_until;
use crate::contract::outcome::Extension;
use crate::engine::lease_policy::LeasePolicy;
use crate::time::instant::Time;

/// The schedule of one lease. The policy is the same in each call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseSchedule {
    valid_until: Time,
    /// When `max_hold` ends the lease.
    hold_end: Time,
    stage: Stage,
    risk: Risk,
    renew_at: Time,
    confirm_at: Time,
    /// The end that the store was found to cut short: it is asked for although renewal is off.
    restore: Option<Time>,
}

/// What happens to a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No call is due or under way.
    Rests,
    /// A confirmation is due that was not sent yet: an extend, which matters more, takes its place.
    AwaitsConfirmation,
    /// A call that is due or under way.
    IsCalled,
    /// Its end was declared, for good.
    Lost,
    /// The guard has let go.
    Released,
}

/// Whether the holder knows that only the grace period is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Risk {
    Unreported,
    Reported,
}

/// What is due for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing before [`next_look`](LeaseSchedule::next_look).
    Nothing,
    /// This call; what comes after is known when it was answered.
    Call(Call),
    /// Nothing any more.
    Over,
}

/// A call that the keeper makes for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Extend,
    Confirm,
}

/// What the holder must learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Only the grace period is left.
    AtRisk,
    Lost,
}

/// What became of a lease after a call.
#[derive(Debug, PartialEq, Eq)]
pub enum After {
    /// It is valid for this long.
    Valid(Duration),
    /// It is lost, and was not before.
    Lost,
    /// The store extended what was lost before: it must be released.
    Orphaned,
    /// The guard released it meanwhile, or it was lost before.
    Gone,
}

/// The most that a call which is not urgent may take, so that it does not hold up the renewal of
/// the shortest lease beside it.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    shortest: Duration,
}

impl Room {
    #[cfg(test)]
    pub const WIDE: Room = Room {
        shortest: Duration::MAX,
    };

    /// Beside leases of which `shortest` is the shortest: a lease that comes due when two thirds of
    /// it are left still has half of it after such a call. Never less than 0.1 s: a store that is
    /// far away must be able to answer.
    pub fn beside(shortest: Option<Duration>) -> Self {
        let shortest = shortest.unwrap_or(Duration::MAX);
        Room { shortest }
    }

    /// For a lease of this time to live.
    pub(super) fn of(self, ttl: Duration) -> Duration {
        if ttl > self.shortest {
            (self.shortest / 6).max(Duration::from_millis(100))
        } else {
            Duration::MAX
        }
    }
}

impl LeaseSchedule {
    /// The schedule of a lease that was granted at `now` and is valid until `until`.
    pub fn new(policy: &LeasePolicy, now: Time, until: Time) -> Self {
        let after =
            |time: Option<Duration>| time.map_or(Time::MAX, |time| now.saturating_add(time));
        let hold_end = after(policy.max_hold);
        let valid_until = until.min(hold_end);
        let third = now.until(valid_until) / 3;
        LeaseSchedule {
            valid_until,
            hold_end,
            stage: Stage::Rests,
            risk: Risk::Unreported,
            renew_at: after(policy.renew.then_some(third)),
            confirm_at: after(policy.confirm_after),
            restore: None,
        }
    }

    pub fn valid_until(&self) -> Time {
        self.valid_until
    }

    /// Whether nobody believes in the lease any more.
    fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Lost | Stage::Released)
    }

    pub fn is_at_risk(&self) -> bool {
        self.risk == Risk::Reported
    }

    /// Declares the loss, for good.
    pub fn lose(&mut self) {
        if self.stage != Stage::Released {
            self.stage = Stage::Lost;
        }
    }

    /// The guard lets go. The answer to a call that is under way is ignored.
    pub fn release(&mut self) {
        self.stage = Stage::Released;
    }

    /// What is due at `now`, and what the holder must learn.
    pub fn due(&mut self, policy: &LeasePolicy, now: Time) -> (Due, Option<Notice>) {
        if self.is_over() {
            return (Due::Over, None);
        }
        if now >= self.valid_until {
            self.lose();
            return (Due::Over, Some(Notice::Lost));
        }
        let notice = if self.risk == Risk::Unreported && now >= self.risk_at(policy) {
            self.risk = Risk::Reported;
            Some(Notice::AtRisk)
        } else {
            None
        };
        let call = match self.stage {
            Stage::Rests | Stage::AwaitsConfirmation if now >= self.renew_at => {
                self.stage = Stage::IsCalled;
                Due::Call(Call::Extend)
            }
            Stage::Rests if now >= self.confirm_at => {
                self.stage = Stage::AwaitsConfirmation;
                Due::Call(Call::Confirm)
            }
            _ => Due::Nothing,
        };
        (call, notice)
    }

    /// When something is due next.
    pub fn next_look(&self, policy: &LeasePolicy) -> Time {
        let call = match self.stage {
            Stage::Rests => self.renew_at.min(self.confirm_at),
            Stage::AwaitsConfirmation => self.renew_at,
            Stage::IsCalled | Stage::Lost | Stage::Released => Time::MAX,
        };
        let end = match self.risk {
            Risk::Unreported => self.risk_at(policy),
            Risk::Reported => self.valid_until,
        };
        call.min(end)
    }

    fn risk_at(&self, policy: &LeasePolicy) -> Time {
        self.valid_until.saturating_sub(policy.grace)
    }

    /// How long after it was due a renewal was sent at `sent`.
    pub fn renewal_lag(&self, sent: Time) -> Duration {
        self.renew_at.until(sent)
    }

    /// Whether the confirmation that was due is to be sent: not if there is nothing to confirm any
    /// more, or an extend took its place.
    pub fn send_confirm(&mut self) -> bool {
        let is_awaited = self.stage == Stage::AwaitsConfirmation;
        if is_awaited {
            self.stage = Stage::IsCalled;
        }
        is_awaited
    }

    /// The time to ask for in an extend that is sent at `now`: clipped so that the lease ends with
    /// `max_hold`, or where it ended before the store was found to keep it shorter. `None` if the
    /// lease is over, or there is no time worth asking for.
    pub fn send(&mut self, policy: &LeasePolicy, now: Time) -> Option<Duration> {
        if self.is_over() {
            return None;
        }
        let end = match self.restore {
            Some(end) if !policy.renew => end,
            _ => self.hold_end,
        };
        let ttl = now.until(end).min(policy.ttl);
        if ttl >= policy.ttl_min {
            return Some(ttl);
        }
        // No more calls: it runs out.
        (self.stage, self.renew_at, self.confirm_at) = (Stage::Rests, Time::MAX, Time::MAX);
        None
    }

    /// The end of a call of the keeper that starts at `now`: a third of what is left, so that one
    /// dead server does not take up the time in which another try could succeed. While half of its
    /// time is left, no longer than a shorter lease can wait.
    pub fn call_end(&self, policy: &LeasePolicy, now: Time, room: Room) -> Time {
        let left = now.until(self.valid_until);
        let most = if left > policy.ttl / 2 {
            policy.call_timeout.min(room.of(policy.ttl))
        } else {
            policy.call_timeout
        };
        now.saturating_add(most.min(left / 3))
    }

    /// Takes in at `now` the answer to an extend for `asked` that was sent at `sent`.
    pub fn extended(
        &mut self,
        policy: &LeasePolicy,
        (sent, now): (Time, Time),
        asked: Duration,
        answer: &Result<Extension, DatastoreError>,
    ) -> After {
        match self.stage {
            Stage::Released => return After::Gone,
            Stage::Lost if matches!(answer, Ok(Extension::Extended(_))) => return After::Orphaned,
            Stage::Lost => return After::Gone,
            _ => self.stage = Stage::Rests,
        }
        match answer {
            Ok(Extension::Extended(grant)) => {
                let until = valid_until(sent, grant.ttl).min(self.hold_end);
                self.restore = None;
                // Asked for less than the full time: there is nothing more to ask for.
                let is_last = asked < policy.ttl || !policy.renew;
                self.renew_at = if is_last {
                    Time::MAX
                } else {
                    sent.saturating_add(sent.until(until) / 3)
                };
                if let Some(after) = policy.confirm_after {
                    self.confirm_at = now.saturating_add(after);
                }
                self.set_valid_until(policy, now, until)
            }
            Ok(Extension::Lost) => {
                self.lose();
                After::Lost
            }
            Err(_) => {
                self.renew_at = now.saturating_add(retry_in(policy));
                After::Valid(now.until(self.valid_until))
            }
        }
    }

    /// Takes in at `now` what the store really keeps, asked for at `sent`. It can shorten the
    /// lease, never lengthen it.
    pub fn confirmed(
        &mut self,
        policy: &LeasePolicy,
        (sent, now): (Time, Time),
        answer: &Result<Extension, DatastoreError>,
    ) -> After {
        if self.is_over() {
            return After::Gone;
        }
        (self.stage, self.confirm_at) = (Stage::Rests, Time::MAX);
        match answer {
            Ok(Extension::Extended(grant)) => {
                let before = self.valid_until;
                let until = valid_until(sent, grant.ttl).min(before);
                if until < before {
                    (self.restore, self.renew_at) = (Some(before), now);
                }
                self.set_valid_until(policy, now, until)
            }
            Ok(Extension::Lost) => {
                self.lose();
                After::Lost
            }
            Err(_) => {
                self.confirm_at = now.saturating_add(retry_in(policy));
                After::Valid(now.until(self.valid_until))
            }
        }
    }

    fn set_valid_until(&mut self, policy: &LeasePolicy, now: Time, until: Time) -> After {
        self.valid_until = until;
        let left = now.until(until);
        if left.is_zero() {
            self.lose();
            return After::Lost;
        }
        if left > policy.grace {
            self.risk = Risk::Unreported;
        }
        After::Valid(left)
    }
}

fn retry_in(policy: &LeasePolicy) -> Duration {
    (policy.ttl / 10).clamp(Duration::from_millis(1), Duration::from_secs(1))
}

#[cfg(test)]
mod tests;
