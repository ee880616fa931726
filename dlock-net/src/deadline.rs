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
    deadline_in(claim.time_left().min(call_timeout))
}
