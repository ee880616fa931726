//! The clock that leases are measured on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "tokio")]
use crate::time::fake::Sleeper;
use crate::time::fake::{Enlisted, Fake};
use crate::time::instant::Time;
use crate::time::signal::Signal;
use crate::time::{suspension, system};

/// The source of time of a [`Store`](crate::store::Store).
///
/// [`Clock::BOOTTIME`], the default, goes on while the machine is suspended, so a lease that ends
/// meanwhile is over when the process wakes. (`std::time::Instant` would stop.) On Linux it is
/// `CLOCK_BOOTTIME`, on Apple systems `CLOCK_MONOTONIC`, which includes suspended time there.
/// Elsewhere it is the larger of the times that have passed by `Instant` and by `SystemTime`.
///
/// Tests take one from a [`FakeClock`](crate::time::fake_clock::FakeClock).
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    Boottime,
    Fake(Arc<Fake>),
}

impl Clock {
    /// The system's clock that goes on while the machine is suspended.
    pub const BOOTTIME: Clock = Clock(Source::Boottime);

    /// The present instant.
    pub fn now(&self) -> Time {
        match &self.0 {
            Source::Boottime => system::now(),
            Source::Fake(fake) => fake.now(),
        }
    }

    /// Sleeps until `signal` is notified or `until` has come, and consumes the notification.
    /// Returns whether there was one.
    pub fn sleep_until(&self, signal: &Signal, until: Time) -> bool {
        match &self.0 {
            Source::Fake(fake) if fake.jumps() => fake.jump(signal, until),
            _ => self.sleep_until_realtime(signal, until),
        }
    }

    /// As [`sleep_until`](Self::sleep_until), for threads whose sleep does not move a
    /// [jumping](crate::FakeClock::jumping) clock.
    pub(crate) fn sleep_until_realtime(&self, signal: &Signal, until: Time) -> bool {
        match &self.0 {
            Source::Boottime if until == Time::MAX => signal.wait(Duration::MAX, || Duration::MAX),
            Source::Boottime => suspension::sleep_until(signal, until),
            Source::Fake(fake) => fake.sleep_until_realtime(signal, until),
        }
    }
}

/// For the fake clock and the threads of the keeper.
impl Clock {
    pub(crate) fn fake(fake: Arc<Fake>) -> Self {
        Clock(Source::Fake(fake))
    }

    /// Registers a thread that renews leases: a fake clock waits for such threads when it is
    /// advanced.
    pub(crate) fn enlist(&self) -> Enlisted {
        match &self.0 {
            Source::Boottime => Enlisted::none(),
            Source::Fake(fake) => Enlisted::of(fake),
        }
    }

    /// Registers the task that renews leases as asleep on `signal` until the result is dropped.
    #[cfg(feature = "tokio")]
    pub(crate) fn renewal_sleeps(&self, signal: &Signal) -> Option<Sleeper<'_>> {
        match &self.0 {
            Source::Boottime => None,
            Source::Fake(fake) => Some(fake.renewal_sleeps(signal)),
        }
    }

    /// Returns whether a sleep moves the clock instead of waiting.
    #[cfg(feature = "tokio")]
    pub(crate) fn jumps(&self) -> bool {
        matches!(&self.0, Source::Fake(fake) if fake.jumps())
    }

    /// Returns whether both always show the same time.
    #[doc(hidden)]
    pub fn is(&self, other: &Clock) -> bool {
        match (&self.0, &other.0) {
            (Source::Boottime, Source::Boottime) => true,
            (Source::Fake(this), Source::Fake(that)) => Arc::ptr_eq(this, that),
            _ => false,
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::BOOTTIME
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::Boottime => "Clock::BOOTTIME",
            Source::Fake(_) => "Clock(fake)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_runs_and_a_sleep_ends() {
        let start = Clock::BOOTTIME.now();
        let end = start.saturating_add(Duration::from_millis(20));
        assert!(!Clock::BOOTTIME.sleep_until(&Signal::new(), end));
        assert!(Clock::BOOTTIME.now() >= end);
    }
}
