//! The state of the lease, which the loop that watches the command checks by the clock.

use std::time::{Duration, Instant};

use dlock_core::LockGuard;

/// The state of the lease at a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// There is still time to renew it.
    Lasts,
    /// Only the grace period is left.
    AtRisk,
    /// It has ended.
    Lost,
}

/// How a lease was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// It was not renewed, and its time ran out or nearly did.
    TimeRanOut,
    /// The store no longer has it, although its time is not over.
    KeyGone,
}

/// Checks the remaining time of a lease.
pub(crate) struct LeaseWatch<'a> {
    guard: &'a LockGuard,
    grace: Duration,
    /// The end of the lease, as of the last check that found it valid.
    valid_until: Instant,
    /// The result of the last check.
    state: State,
}

impl<'a> LeaseWatch<'a> {
    /// Watches the lease of `guard`, which is at risk when only `grace` of it is left.
    pub(crate) fn new(guard: &'a LockGuard, grace: Duration) -> Self {
        LeaseWatch {
            guard,
            grace,
            valid_until: Instant::now(),
            state: State::Lasts,
        }
    }

    /// Checks the lease. A lost lease stays lost.
    pub(crate) fn check(&mut self) -> State {
        if self.state != State::Lost {
            let left = self.guard.remaining();
            if !left.is_zero() {
                self.valid_until = Instant::now() + left;
            }
            self.state = match left {
                Duration::ZERO => State::Lost,
                left if left <= self.grace => State::AtRisk,
                _ => State::Lasts,
            };
        }
        self.state
    }

    /// How the lease was lost, or is about to be.
    pub(crate) fn loss(&self) -> Loss {
        loss_at(Instant::now(), self.valid_until, self.state)
    }

    /// When to kill a command that was asked to end: shortly before the lease ends, since a killed
    /// process takes a moment to be gone.
    pub(crate) fn kill_at(&self) -> Instant {
        const MOMENT: Duration = Duration::from_millis(500);
        let left = self.valid_until.saturating_duration_since(Instant::now());
        self.valid_until - MOMENT.min(left / 4)
    }

    /// The time of the next check, even if no event comes before: within a second, sooner if the
    /// lease is short, and no later than the next change of its state.
    pub(crate) fn next_check(&self) -> Instant {
        let now = Instant::now();
        let left = self.valid_until.saturating_duration_since(now);
        let due = match self.state {
            State::Lasts => left.saturating_sub(self.grace),
            State::AtRisk => left,
            // The command was killed. A signal will report its end.
            State::Lost => Duration::from_secs(1),
        };
        // The clock of the lease and this one differ little, and a check that is a little late does
        // no harm.
        now + due.clamp(Duration::from_millis(1), longest(left))
    }
}

/// The longest time without a check: a quarter of the remaining time, within bounds.
fn longest(left: Duration) -> Duration {
    (left / 4).clamp(Duration::from_millis(20), Duration::from_secs(1))
}

fn loss_at(now: Instant, valid_until: Instant, state: State) -> Loss {
    if state == State::Lost && now < valid_until {
        Loss::KeyGone
    } else {
        Loss::TimeRanOut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_is_lost_before_its_time_was_taken_away() {
        let now = Instant::now();
        let (before, after) = (now - Duration::from_secs(1), now + Duration::from_secs(1));
        assert_eq!(loss_at(now, after, State::Lost), Loss::KeyGone);
        assert_eq!(loss_at(now, before, State::Lost), Loss::TimeRanOut);
        assert_eq!(loss_at(now, after, State::AtRisk), Loss::TimeRanOut);
    }

    #[test]
    fn a_lease_is_checked_at_least_once_a_second() {
        assert_eq!(longest(Duration::from_secs(86_400)), Duration::from_secs(1));
        assert_eq!(longest(Duration::from_secs(1)), Duration::from_millis(250));
        assert_eq!(longest(Duration::ZERO), Duration::from_millis(20));
    }
}
