//! Whole seconds on the wire, and the time that they guarantee.
//!
//! memcached measures time on a clock that a timer advances once a second. An item that it keeps
//! for `T` seconds may be gone after a little more than `T - 2`. One second is lost because the
//! clock may be about to advance when the item comes. Another is lost because each period of the
//! timer is a millisecond too long: when it has fallen behind by a whole second, the clock advances
//! by two. And the item may stay for the whole of `T`. So `T` is the promised time, rounded up,
//! plus two.
//!
//! After a stall (a stopped process, a paused machine) the clock is behind when the next requests
//! are read, and the items that they store live shorter by the length of the stall. Only a later
//! read can detect that: [`Kept::remaining`].

use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind, Time};

use crate::error::Problem;

/// The seconds by which the server may keep an item too short.
const MARGIN: u32 = 2;
/// The server interprets a number above 30 days as a date.
const MOST: u32 = 30 * 86_400;

/// The shortest time that a claim may ask for.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// The longest time that a claim may ask for.
pub const TTL_MAX: Duration = Duration::from_secs((MOST - MARGIN) as u64);
/// How long the server may keep a key after its lease has ended: the margin, and the rounding up.
pub const GRANULARITY: Duration = Duration::from_secs(MARGIN as u64 + 1);

/// The seconds to send so that the server keeps a key for at least `ttl`.
///
/// An extend may ask for less than [`TTL_MIN`]: the rest of a minimum hold.
pub fn seconds(ttl: Duration) -> Result<u32, DatastoreError> {
    if ttl > TTL_MAX {
        return Err(DatastoreError::not_executed(
            ErrorKind::Invalid,
            Problem::Ttl,
        ));
    }
    let whole = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    // TTL_MAX fits, so the conversion cannot fail.
    Ok(u32::try_from(whole).unwrap_or(MOST - MARGIN) + MARGIN)
}

/// The least time for which the server still keeps an item if it reports `seconds`.
pub fn at_least(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds.saturating_sub(MARGIN)))
}

/// What the server has promised to keep, and when it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kept {
    /// The seconds that were sent to it, or that it has reported.
    pub seconds: u32,
    /// The time that was promised because of them.
    pub ttl: Duration,
    /// The time before the request was sent.
    pub sent: Time,
}

impl Kept {
    /// The least time for which the server keeps the key from `now` on, if it reported `seconds` to
    /// a request sent at `now`, however long the answer took.
    ///
    /// The promise stands if no more of the server's seconds have passed than are possible in that
    /// time. If more have passed, its clock was behind when the key was stored, and only the
    /// seconds that it reports now count.
    pub fn remaining(&self, seconds: u32, now: Time) -> Duration {
        let age = self.sent.until(now);
        let promised = self.ttl.saturating_sub(age);
        let passed = self.seconds.saturating_sub(seconds);
        let reported = at_least(seconds);
        if age < Duration::from_secs(1) {
            if passed <= 1 {
                return promised;
            }
            // Its clock has advanced since the request was sent, so it is behind by at most the
            // time since then plus one second.
            let surely = Duration::from_secs(u64::from(seconds.saturating_sub(1)));
            return promised.min(surely.saturating_sub(age));
        }
        promised.min(reported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_time_is_rounded_up_and_gets_the_margin() {
        for (millis, seconds_on_the_wire) in [
            (0, 2),
            (1, 3),
            (999, 3),
            (1000, 3),
            (1001, 4),
            (1500, 4),
            (30_000, 32),
        ] {
            assert_eq!(
                seconds(Duration::from_millis(millis)).unwrap(),
                seconds_on_the_wire,
                "{millis}"
            );
        }
        assert_eq!(seconds(TTL_MAX).unwrap(), MOST);
    }

    #[test]
    fn the_declared_limits_are_thirty_days_less_the_margin_and_three_seconds() {
        assert_eq!(TTL_MAX, Duration::from_secs(2_591_998));
        assert_eq!(GRANULARITY, Duration::from_secs(3));
    }

    #[test]
    fn no_time_becomes_a_date_or_wraps() {
        for ttl in [
            TTL_MAX + Duration::from_nanos(1),
            Duration::from_secs(30 * 86_400),
            Duration::from_secs(1 << 32),
            Duration::MAX,
        ] {
            let error = seconds(ttl).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!error.may_have_executed());
        }
    }

    fn kept(ttl: u64) -> Kept {
        Kept {
            seconds: seconds(Duration::from_secs(ttl)).unwrap(),
            ttl: Duration::from_secs(ttl),
            sent: Time::from_nanos(1_000_000_000_000),
        }
    }

    #[test]
    fn a_server_that_kept_time_keeps_its_promise() {
        let kept = kept(10);
        let soon = kept.sent.saturating_add(Duration::from_millis(50));
        for seconds in [12, 11] {
            assert_eq!(
                kept.remaining(seconds, soon),
                Duration::from_millis(9950),
                "{seconds}"
            );
        }
    }

    #[test]
    fn of_a_server_that_was_behind_only_the_reported_seconds_count() {
        let kept = kept(10);
        let soon = kept.sent.saturating_add(Duration::from_millis(50));
        assert_eq!(kept.remaining(10, soon), Duration::from_millis(8950));
        assert_eq!(kept.remaining(6, soon), Duration::from_millis(4950));
        assert_eq!(kept.remaining(1, soon), Duration::ZERO);
        assert_eq!(kept.remaining(0, soon), Duration::ZERO);
    }

    #[test]
    fn a_late_confirmation_never_promises_more_than_was_promised() {
        let kept = kept(10);
        let later = kept.sent.saturating_add(Duration::from_secs(4));
        assert_eq!(kept.remaining(12, later), Duration::from_secs(6));
        assert_eq!(kept.remaining(8, later), Duration::from_secs(6));
        assert_eq!(kept.remaining(7, later), Duration::from_secs(5));
    }

    #[test]
    fn from_a_second_on_only_what_the_server_reports_counts() {
        // As after an earlier read, which promised more than the seconds alone guarantee.
        let kept = Kept {
            seconds: 11,
            ttl: Duration::from_millis(9900),
            sent: Time::from_nanos(1_000_000_000_000),
        };
        let reported = |seconds, millis| {
            let read_at = kept.sent.saturating_add(Duration::from_millis(millis));
            kept.remaining(seconds, read_at)
        };
        assert_eq!(reported(10, 999), Duration::from_millis(8901));
        assert_eq!(reported(10, 1000), Duration::from_secs(8));
    }

    /// The server's clock as described at the top, in milliseconds of real time.
    struct Server {
        /// When the timer fires first. Then it fires once in a little more than a second.
        phase: u64,
        late: u64,
        /// The start and end of the stop of the process.
        stopped: (u64, u64),
    }

    impl Server {
        /// The cached second as it is when the process runs at `now`.
        fn second(&self, now: u64) -> u64 {
            let (mut fires, mut second) = (self.phase, 0);
            while fires <= now {
                // A timer that is due while the process is stopped fires when it continues, after
                // the waiting requests.
                let at = if (self.stopped.0..=self.stopped.1).contains(&fires) {
                    self.stopped.1 + 1
                } else {
                    fires
                };
                if at > now {
                    break;
                }
                second = at / 1000;
                fires = at + 1000 + self.late;
            }
            second
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        /// For every phase of the timer, drift and stall, a confirmed time is never longer than the
        /// server keeps the key.
        #[test]
        fn a_confirmed_lease_is_never_longer_than_the_servers(
            phase in 0u64..1000,
            late in 0u64..3,
            stop in 5_000u64..7_000,
            stall in 0u64..12_000,
            sent_after in 0u64..14_000,
            later in 2u64..1_500,
            slow in prop_oneof![Just(0u64), 0u64..3_000],
            ttl in 1u64..12,
        ) {
            let server = Server { phase, late, stopped: (stop, stop + stall) };
            let sent = stop - 1000 + sent_after;
            // A request that comes while the process is stopped runs when it continues.
            let runs = if (stop..=stop + stall).contains(&sent) { stop + stall } else { sent };
            let wire = seconds(Duration::from_secs(ttl)).unwrap();
            let end = server.second(runs) + u64::from(wire);
            let gone = (runs..).find(|now| server.second(*now) >= end).unwrap();

            let time = |millis: u64| Time::from_nanos(millis * 1_000_000);
            let kept = Kept { seconds: wire, ttl: Duration::from_secs(ttl), sent: time(sent) };
            // The confirmation is sent later, and answered after another while.
            let look = runs + later;
            let answered = look + slow;
            let answered = if (stop..=stop + stall).contains(&answered) { stop + stall } else { answered };
            let reported = end.saturating_sub(server.second(answered));
            if reported > 0 {
                let left = kept.remaining(u32::try_from(reported).unwrap(), time(look));
                prop_assert!(
                    look + u64::try_from(left.as_millis()).unwrap() <= gone + 1,
                    "read at {}, left {:?}, gone at {}", look, left, gone
                );
            }
        }
    }
}
