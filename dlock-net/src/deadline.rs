//! The end of the current call, where every read and write can see it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dlock_core::{Claim, Clock, Time};

/// The end of the current call of one connection, on [`Clock::BOOTTIME`].
///
/// Clones are the same deadline: a layer that wraps a [`Socket`](crate::Socket), such as TLS, keeps one and need not reach through. A
/// new one has passed already, so that nothing blocks before a call set it.
#[derive(Debug, Clone, Default)]
pub struct Deadline(Arc<AtomicU64>);

impl Deadline {
    /// A deadline at `time`.
    pub fn at(time: Time) -> Self {
        Deadline(Arc::new(AtomicU64::new(time.as_nanos())))
    }

    /// Moves it, for the next call.
    pub fn set(&self, time: Time) {
        self.0.store(time.as_nanos(), Ordering::Relaxed);
    }

    /// When it is.
    pub fn time(&self) -> Time {
        Time::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// What is left of the call; never zero.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] when nothing is.
    pub fn left(&self) -> io::Result<Duration> {
        let left = Clock::BOOTTIME.now().until(self.time());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(left)
    }
}

/// The instant `after` from now, on the clock that deadlines are on.
pub fn deadline_in(after: Duration) -> Time {
    Clock::BOOTTIME.now().saturating_add(after)
}

/// When a call for `claim` must have ended: by its [`not_after`](Claim::not_after), and no later than `call_timeout` from now.
///
/// A claim's times may be on another clock (that of a test); sockets know only the system's.
pub fn call_deadline(claim: &Claim, call_timeout: Duration) -> Time {
    deadline_in(claim.time_left().min(call_timeout))
}
