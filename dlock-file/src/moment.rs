//! The present, on the two clocks that records are judged by.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dlock_core::{Clock, Time};

use crate::record::End;

/// The clocks of this boot of the machine.
#[derive(Debug, Clone)]
pub(crate) struct Clocks {
    boot: String,
}

/// A reading of both clocks. Only good for decisions under a shard lock if it was taken under it.
#[derive(Debug)]
pub(crate) struct Moment<'a> {
    boot: &'a str,
    boottime: Time,
    /// Microseconds since 1970.
    pub(crate) wall: u64,
}

impl Clocks {
    /// The clocks of this boot. Where the system does not tell boots apart, the wall clock alone decides.
    pub(crate) fn of_this_boot() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        Clocks {
            boot: boot_name(boot.trim(), &offsets),
        }
    }

    /// The clocks of some other boot.
    #[cfg(test)]
    pub(crate) fn of_boot(boot: &str) -> Self {
        Clocks {
            boot: boot.to_owned(),
        }
    }

    pub(crate) fn now(&self) -> Moment<'_> {
        Moment {
            boot: &self.boot,
            boottime: Clock::BOOTTIME.now(),
            wall: micros(SystemTime::now()),
        }
    }
}

/// The boot id; in a time namespace whose boot-time clock is shifted, also by how much: readings of it and of the host's clock
/// must not be compared.
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

impl Moment<'_> {
    /// The end of a grant of `ttl` from now.
    pub(crate) fn after(&self, ttl: Duration) -> End {
        End {
            boot: self.boot.to_owned(),
            boottime: self.boottime.saturating_add(ttl),
            wall: self.wall.saturating_add(micros_of(ttl)),
        }
    }

    /// How long it is until `end`; `None` if it has come. In the same boot the boot-time clock says so, which nobody can set; after
    /// another boot only the wall clock can.
    pub(crate) fn until(&self, end: &End) -> Option<Duration> {
        let left = if self.is_of_boot(end) {
            self.boottime.until(end.boottime)
        } else {
            Duration::from_micros(end.wall.saturating_sub(self.wall))
        };
        (!left.is_zero()).then_some(left)
    }

    /// Whether `end` came at least `by` ago.
    pub(crate) fn is_past(&self, end: &End, by: Duration) -> bool {
        if self.is_of_boot(end) {
            end.boottime.until(self.boottime) >= by
        } else {
            self.wall.saturating_sub(end.wall) >= micros_of(by)
        }
    }

    /// Whether a file last modified at `modified` was written before this boot. Never where boots cannot be told apart.
    pub(crate) fn is_older_boot(&self, modified: SystemTime) -> bool {
        let since_boot = Duration::from_nanos(self.boottime.as_nanos());
        !self.boot.is_empty() && micros(modified) < self.wall.saturating_sub(micros_of(since_boot))
    }

    /// Whether a file last modified at `modified` has not been for at least `by`.
    pub(crate) fn is_untouched_for(&self, modified: SystemTime, by: Duration) -> bool {
        self.wall.saturating_sub(micros(modified)) >= micros_of(by)
    }

    fn is_of_boot(&self, end: &End) -> bool {
        !self.boot.is_empty() && self.boot == end.boot
    }
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

    fn at(boot: &'static str, boottime: u64, wall: u64) -> Moment<'static> {
        Moment {
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
