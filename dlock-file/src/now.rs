//! The present time on the two clocks by which records are judged.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dlock_core::{Clock, Time};
use rustix::time::{ClockId, clock_gettime};

use crate::record::End;

/// The clocks of the machine since its last boot.
#[derive(Debug, Clone)]
pub(crate) struct Clocks {
    boot: String,
    /// An offset of the wall clock, in microseconds.
    #[cfg(test)]
    wall_ahead: i64,
}

/// A reading of both clocks. For a decision under a shard lock it must be taken under that lock.
#[derive(Debug)]
pub(crate) struct Now<'a> {
    boot: &'a str,
    boottime: Time,
    /// Microseconds since 1970.
    pub(crate) wall: u64,
}

impl Clocks {
    /// The clocks of this boot. If the system cannot distinguish boots, only the wall
    /// clock is used.
    pub(crate) fn of_this_boot() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        Clocks {
            boot: boot_name(boot.trim(), &offsets),
            #[cfg(test)]
            wall_ahead: 0,
        }
    }

    /// The same with a wall clock that is `seconds` ahead, or behind if negative.
    #[cfg(test)]
    pub(crate) fn with_wall_ahead(mut self, seconds: i64) -> Self {
        self.wall_ahead = seconds * 1_000_000;
        self
    }

    /// The clocks of some other boot.
    #[cfg(test)]
    pub(crate) fn of_boot(boot: &str) -> Self {
        Clocks {
            boot: boot.to_owned(),
            wall_ahead: 0,
        }
    }

    pub(crate) fn now(&self) -> Now<'_> {
        let wall = wall();
        #[cfg(test)]
        let wall = wall.saturating_add_signed(self.wall_ahead);
        Now {
            boot: &self.boot,
            boottime: Clock::BOOTTIME.now(),
            wall,
        }
    }
}

/// The boot id. In a time namespace with a shifted boot-time clock the offset is appended, because
/// readings of that clock must not be compared with the host's.
fn boot_name(boot: &str, offsets: &str) -> String {
    let shift = offsets.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("boottime")).then(|| words.collect::<Vec<_>>().join("."))
    });
    match shift {
        Some(shift) if shift != "0.0" && !boot.is_empty() => format!("{boot}+{shift}"),
        _ => boot.to_owned(),
    }
}

impl Now<'_> {
    /// The end of a grant of `ttl` from now.
    pub(crate) fn after(&self, ttl: Duration) -> End {
        End {
            boot: self.boot.to_owned(),
            boottime: self.boottime.saturating_add(ttl),
            wall: self.wall.saturating_add(micros_of(ttl)),
        }
    }

    /// The time until `end`; `None` if it has come. Within one boot the boot-time clock decides,
    /// which nobody can set. After a restart only the wall clock can.
    pub(crate) fn until(&self, end: &End) -> Option<Duration> {
        let left = if self.is_of_boot(end) {
            self.boottime.until(end.boottime)
        } else {
            Duration::from_micros(end.wall.saturating_sub(self.wall))
        };
        (!left.is_zero()).then_some(left)
    }

    /// Returns whether `end` was at least `by` ago.
    pub(crate) fn is_past(&self, end: &End, by: Duration) -> bool {
        if self.is_of_boot(end) {
            end.boottime.until(self.boottime) >= by
        } else {
            self.wall.saturating_sub(end.wall) >= micros_of(by)
        }
    }

    /// Returns whether a file last modified at `modified` was written before this boot. It is
    /// `false` if boots cannot be told apart.
    pub(crate) fn is_older_boot(&self, modified: SystemTime) -> bool {
        let since_boot = Duration::from_nanos(self.boottime.as_nanos());
        !self.boot.is_empty() && micros(modified) < self.wall.saturating_sub(micros_of(since_boot))
    }

    /// Returns whether a file last modified at `modified` was not modified for at least `by`. A
    /// time more than `by` in the future means nothing, so it counts as old.
    pub(crate) fn is_untouched_for(&self, modified: SystemTime, by: Duration) -> bool {
        self.wall.abs_diff(micros(modified)) >= micros_of(by)
    }

    fn is_of_boot(&self, end: &End) -> bool {
        !self.boot.is_empty() && self.boot == end.boot
    }
}

/// The wall clock, read from the kernel directly: a library that fakes the time of this process
/// (`faketime`) must not change its tokens and ends of leases.
fn wall() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let micros = u64::try_from(now.tv_nsec / 1000).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(micros)
}

fn micros(time: SystemTime) -> u64 {
    micros_of(time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

fn micros_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: &'static str, boottime: u64, wall: u64) -> Now<'static> {
        Now {
            boot,
            boottime: Time::from_nanos(boottime * 1_000_000_000),
            wall: wall * 1_000_000,
        }
    }

    const TEN: Duration = Duration::from_secs(10);

    #[test]
    fn in_the_same_boot_the_wall_clock_does_not_matter() {
        let end = at("a", 100, 5000).after(TEN);
        assert_eq!(at("a", 109, 9999).until(&end), Some(TEN / 10));
        assert_eq!(at("a", 110, 0).until(&end), None);
        assert!(at("a", 120, 0).is_past(&end, TEN) && !at("a", 119, 9999).is_past(&end, TEN));
    }

    #[test]
    fn after_another_boot_only_the_wall_clock_matters() {
        let end = at("a", 100, 5000).after(TEN);
        assert_eq!(at("b", 500, 5009).until(&end), Some(TEN / 10));
        assert_eq!(at("b", 1, 5010).until(&end), None);
        assert!(at("b", 1, 5020).is_past(&end, TEN) && !at("b", 500, 5019).is_past(&end, TEN));
    }

    #[test]
    fn where_boots_cannot_be_told_apart_only_the_wall_clock_matters() {
        let end = at("", 100, 5000).after(TEN);
        assert_eq!(at("", 500, 5009).until(&end), Some(TEN / 10));
        assert!(!at("", 500, 5009).is_older_boot(UNIX_EPOCH));
    }

    #[test]
    fn a_file_from_before_the_boot_is_known_by_its_age() {
        let now = at("a", 100, 5000);
        assert!(now.is_older_boot(UNIX_EPOCH + Duration::from_secs(4899)));
        assert!(!now.is_older_boot(UNIX_EPOCH + Duration::from_secs(4900)));
        assert!(!now.is_older_boot(UNIX_EPOCH + Duration::from_secs(4901)));
    }

    #[test]
    fn a_shifted_boot_clock_counts_as_another_boot() {
        let none = "monotonic           0         0\nboottime            0         0\n";
        let shifted = "monotonic           0         0\nboottime            86400         0\n";
        assert_eq!(boot_name("id", none), "id");
        assert_eq!(boot_name("id", ""), "id");
        assert_eq!(boot_name("id", shifted), "id+86400.0");
        assert_eq!(boot_name("", shifted), "");
    }
}
