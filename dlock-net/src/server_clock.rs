//! What a server's clock shows.

use std::time::Duration;

use dlock_core::{Clock, Time};

/// One part in this many; the clocks of machines differ by a tenth of that.
const CLOCKS_DIFFER_BY: u32 = 1000;

/// The wall clock of a server, in µs since 1970, as one connection knows it from the last reply.
///
/// Before the first reply it shows what our own clock does.
#[derive(Debug, Clone, Copy)]
pub struct ServerClock {
    /// What to add to our clock to get the server's, in µs. Taken when a reply has arrived, so the
    /// server's clock is ahead of it by up to a round trip: a call that must not run after an
    /// instant is refused early rather than late.
    offset: i64,
    /// When it was taken.
    learnt: Time,
}

impl Default for ServerClock {
    fn default() -> Self {
        ServerClock {
            offset: 0,
            learnt: Time::ZERO,
        }
    }
}

impl ServerClock {
    /// A reply has arrived, which states the server's `time`, or does not.
    #[inline]
    pub fn learn(&mut self, time: Option<i64>) {
        self.learn_at(time, Clock::BOOTTIME.now());
    }

    /// The same for a reply that has arrived at `received`.
    #[inline]
    pub fn learn_at(&mut self, time: Option<i64>, received: Time) {
        if let Some(time) = time {
            self.learnt = received;
            self.offset = time.saturating_sub(micros(self.learnt));
        }
    }

    /// What it shows at `time` at the earliest, in µs.
    #[inline]
    pub fn at(&self, time: Time) -> u64 {
        self.at_as_of(time, Clock::BOOTTIME.now())
    }

    /// The same for a caller that knows the time: it is `now`.
    #[inline]
    pub fn at_as_of(&self, time: Time, now: Time) -> u64 {
        server_time(time, self.offset, self.learnt.until(now))
    }
}

/// What the server's clock shows at `time` at the earliest, in µs: since it gave its own, `age`
/// ago, our clock may have run ahead.
#[inline]
fn server_time(time: Time, offset: i64, age: Duration) -> u64 {
    let ahead = i64::try_from((age / CLOCKS_DIFFER_BY).as_micros()).unwrap_or(i64::MAX);
    let shown = micros(time).saturating_add(offset).saturating_sub(ahead);
    u64::try_from(shown).unwrap_or(0)
}

#[inline]
fn micros(time: Time) -> i64 {
    i64::try_from(time.as_nanos() / 1000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_ago_the_server_told_its_time_the_earlier_a_call_ends_there() {
        let time = Time::from_nanos(10_000_000);
        assert_eq!(server_time(time, 5, Duration::ZERO), 10_005);
        assert_eq!(server_time(time, 5, Duration::from_secs(1)), 9_005);
        assert_eq!(server_time(time, 5, Duration::from_secs(3600)), 0);
    }
}
