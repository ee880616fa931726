//! The end of the current call, shared with every layer that reads or writes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dlock_core::{Claim, Clock, Time};

/// The end of the current call of one connection, on [`Clock::BOOTTIME`].
///
/// Clones are the same deadline, so a layer that wraps a [`Socket`](crate::Socket), such as TLS,
/// can keep a clone of its own. A new deadline has passed already, so nothing blocks before a call
/// sets it.
#[derive(Debug, Clone, Default)]
pub struct Deadline(Arc<AtomicU64>);

impl Deadline {
    /// A deadline at `time`.
    pub fn at(time: Time) -> Self {
        Deadline(Arc::new(AtomicU64::new(time.as_nanos())))
    }

    /// Moves the deadline, for the next call.
    pub fn set(&self, time: Time) {
        self.0.store(time.as_nanos(), Ordering::Relaxed);
    }

    /// The time of the deadline.
    pub fn time(&self) -> Time {
        Time::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// The time that is left for the call; never zero.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] if no time is left.
    pub fn left(&self) -> io::Result<Duration> {
        let left = Clock::BOOTTIME.now().until(self.time());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(left)
    }
}

/// The instant `after` from now, on the clock of deadlines.
pub fn deadline_in(after: Duration) -> Time {
    Clock::BOOTTIME.now().saturating_add(after)
}

/// The end of a call for `claim`: its [`not_after`](Claim::not_after), but at most `call_timeout`
/// from now.
///
/// A claim's times may be on another clock, that of a test. Sockets know only the system's.
pub fn call_deadline(claim: &Claim, call_timeout: Duration) -> Time {
    if claim.clock().is(&Clock::BOOTTIME) {
        // A look at the clock costs more than the rest of this.
        return deadline_in(call_timeout).min(claim.not_after());
    }
    deadline_in(claim.time_left().min(call_timeout))
}

#[cfg(test)]
mod tests {
    use dlock_core::FakeClock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long a call may take, in a claim and with a timeout of this number of seconds.
    fn ends_in(clock: &Clock, claim: u32, call_timeout: u32) -> Duration {
        let claim = Claim::new("dlock:x", clock, SECOND * claim).unwrap();
        let before = Clock::BOOTTIME.now();
        before.until(call_deadline(&claim, SECOND * call_timeout))
    }

    #[test]
    fn a_call_ends_with_its_claim_or_after_its_timeout_on_each_clock() {
        for clock in [Clock::BOOTTIME, FakeClock::new().clock()] {
            // Generous above, for a slow machine.
            let is_about = |seconds: u32, time: Duration| {
                time > SECOND * (seconds - 50) && time < SECOND * (seconds + 50)
            };
            let (by_claim, by_timeout) = (ends_in(&clock, 100, 1000), ends_in(&clock, 1000, 100));
            assert!(is_about(100, by_claim), "{clock:?}: {by_claim:?}");
            assert!(is_about(100, by_timeout), "{clock:?}: {by_timeout:?}");
            let claim = Claim::new("dlock:x", &clock, Duration::ZERO).unwrap();
            assert!(call_deadline(&claim, SECOND) <= Clock::BOOTTIME.now());
        }
    }
}
