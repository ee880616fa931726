//! Instants of the clock that leases are measured on.

use std::fmt;
use std::time::Duration;

/// An instant of a [`Clock`](crate::Clock), in nanoseconds since that clock's zero point.
///
/// The zero point means nothing by itself (for the system clock it is the start of the machine), so
/// compare an instant only with instants of the same clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The clock's zero point.
    pub const ZERO: Time = Time(0);
    /// Later than every instant that a clock will show: "for ever".
    pub const MAX: Time = Time(u64::MAX);

    /// The instant `nanos` nanoseconds after the clock's zero point.
    pub const fn from_nanos(nanos: u64) -> Self {
        Time(nanos)
    }

    /// Nanoseconds since the clock's zero point.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The instant `by` later; [`Time::MAX`] on overflow.
    pub fn saturating_add(self, by: Duration) -> Self {
        Time(self.0.saturating_add(nanos(by)))
    }

    /// The instant `by` earlier; [`Time::ZERO`] if that would be before the zero point.
    pub fn saturating_sub(self, by: Duration) -> Self {
        Time(self.0.saturating_sub(nanos(by)))
    }

    /// The time from this instant until `later`; zero if `later` is not later.
    pub fn until(self, later: Time) -> Duration {
        Duration::from_nanos(later.0.saturating_sub(self.0))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Time({:?})", Duration::from_nanos(self.0))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        assert_eq!(Time::from_nanos(5).saturating_add(Duration::MAX), Time::MAX);
        assert_eq!(
            Time::from_nanos(5).saturating_sub(Duration::MAX),
            Time::ZERO
        );
        assert_eq!(Time::from_nanos(5).until(Time::ZERO), Duration::ZERO);
        assert_eq!(
            Time::from_nanos(5).until(Time::from_nanos(7)),
            Duration::from_nanos(2)
        );
    }
}
