//! Which life of the server a connection talks to.

use dlock_core::{DatastoreError, ErrorKind, FencingToken};

use crate::error::Problem;

/// CAS numbers below this many per second of a server's life never reach the next second's fencing tokens.
const CAS_BITS: u32 = 24;
/// A server reports an uptime of 2 when it starts. At 4 at least one whole second has passed, so that its successor, however
/// quickly it comes, starts in a later second.
const GROWN_UP: u64 = 4;

/// One run of the server process: CAS numbers start again at 1 with the next, so a number means something only together with
/// the life that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pid: u64,
    start: u64,
}

/// What a server says of itself.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pid: Option<u64>,
    time: Option<u64>,
    uptime: Option<u64>,
    version: Option<String>,
    no_cas: bool,
    no_evictions: bool,
}

impl Stats {
    /// Takes a line of `stats` or `stats settings`, without its `STAT `.
    pub(crate) fn take(&mut self, name: &str, value: &str) {
        match name {
            "pid" => self.pid = value.parse().ok(),
            "time" => self.time = value.parse().ok(),
            "uptime" => self.uptime = value.parse().ok(),
            "version" => self.version = Some(value.to_owned()),
            "cas_enabled" => self.no_cas = value == "no",
            "evictions" => self.no_evictions = value == "off",
            _ => {}
        }
    }

    /// The life, and whether it is old enough to grant.
    pub(crate) fn life(&self, peer: &str) -> Result<(Life, bool), DatastoreError> {
        let (Some(pid), Some(time), Some(uptime)) = (self.pid, self.time, self.uptime) else {
            let answer = "statistics without pid, time and uptime".to_owned();
            let peer = peer.to_owned();
            return Err(DatastoreError::not_executed(
                ErrorKind::Protocol,
                Problem::Odd { peer, answer },
            ));
        };
        let start = time.saturating_sub(uptime);
        Ok((Life { pid, start }, uptime >= GROWN_UP))
    }

    /// Refuses a server that cannot keep locks.
    pub(crate) fn check(&self, peer: &str) -> Result<(), DatastoreError> {
        let peer = peer.to_owned();
        let problem = if let Some(version) = self.version.as_ref().filter(|v| is_too_old(v)) {
            let version = version.clone();
            Problem::TooOld { peer, version }
        } else if self.no_cas {
            Problem::NoCas { peer }
        } else if self.no_evictions {
            Problem::NoEvictions { peer }
        } else {
            return Ok(());
        };
        Err(DatastoreError::not_executed(
            ErrorKind::Unsupported,
            problem,
        ))
    }
}

/// Whether it is before 1.6. A version that is written in another way is given the benefit of the doubt: the meta protocol is
/// asked for as well.
fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < (1, 6),
        _ => false,
    }
}

impl Life {
    /// The fencing token of the grant that the server numbered `cas`. Added rather than put side by side: should a life
    /// ever count past its second's share, its tokens still rise.
    pub(crate) fn fence(self, peer: &str, cas: u64) -> Result<FencingToken, DatastoreError> {
        self.start
            .checked_shl(CAS_BITS)
            .filter(|shifted| shifted >> CAS_BITS == self.start)
            .and_then(|shifted| shifted.checked_add(cas))
            .map(FencingToken::new)
            .ok_or_else(|| {
                let peer = peer.to_owned();
                DatastoreError::maybe_executed(ErrorKind::Protocol, Problem::FenceOverflow { peer })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(lines: &[(&str, &str)]) -> Stats {
        let mut stats = Stats::default();
        for (name, value) in lines {
            stats.take(name, value);
        }
        stats
    }

    #[test]
    fn a_life_is_old_enough_once_a_whole_second_has_passed() {
        for (uptime, grants) in [("2", false), ("3", false), ("4", true), ("99", true)] {
            let stats = stats(&[("pid", "7"), ("time", "1000"), ("uptime", uptime)]);
            assert_eq!(stats.life("x").unwrap().1, grants, "{uptime}");
        }
    }

    #[test]
    fn a_life_is_its_process_and_the_second_it_started_in() {
        let life = |pid, time, uptime| {
            let stats = stats(&[("pid", pid), ("time", time), ("uptime", uptime)]);
            stats.life("x").unwrap().0
        };
        assert_eq!(life("7", "1000", "10"), life("7", "1010", "20"));
        assert_ne!(life("7", "1000", "10"), life("8", "1000", "10"));
        assert_ne!(life("7", "1000", "10"), life("7", "1000", "9"));
    }

    #[test]
    fn statistics_that_lack_something_are_an_error() {
        let error = stats(&[("pid", "7"), ("time", "x")]).life("here:1");
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(!error.may_have_executed());
    }

    #[test]
    fn servers_that_cannot_keep_locks_are_refused() {
        for (name, value, refused) in [
            ("version", "1.6.18", false),
            ("version", "1.10.0", false),
            ("version", "2.0", false),
            ("version", "something else", false),
            ("version", "1.5.22", true),
            ("version", "1.4.39-beta", true),
            ("cas_enabled", "no", true),
            ("cas_enabled", "yes", false),
            ("evictions", "off", true),
            ("evictions", "on", false),
        ] {
            let checked = stats(&[(name, value)]).check("here:1");
            assert_eq!(checked.is_err(), refused, "{name} {value}");
        }
    }

    #[test]
    fn tokens_rise_within_a_life_and_from_life_to_life() {
        let first = Life {
            pid: 1,
            start: 1_800_000_000,
        };
        let second = Life {
            pid: 1,
            start: 1_800_000_001,
        };
        let fence = |life: Life, cas| life.fence("x", cas).unwrap();
        assert!(fence(first, 1) < fence(first, 2));
        assert!(fence(first, (1 << CAS_BITS) - 1) < fence(second, 0));
        assert!(fence(first, 1 << CAS_BITS) < fence(first, (1 << CAS_BITS) + 1));
    }

    #[test]
    fn a_token_that_would_overflow_is_an_error() {
        let now = Life {
            pid: 1,
            start: 1_800_000_000,
        };
        assert!(now.fence("x", u64::MAX).is_err());
        let absurd = Life {
            pid: 1,
            start: u64::MAX / 2,
        };
        assert!(absurd.fence("x", 1).is_err());
    }
}
