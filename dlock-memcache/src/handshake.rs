//! Asks a server, when a connection is opened, which run of its process it is, and whether it can
//! keep locks.

use std::io;

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::{Transport, Wire, escaped, nothing_was_done};
use memcache::exp::{MetaResponse, ReturnCode};

use crate::error::Problem;
use crate::operations::incarnation::Incarnation;
use crate::wire::MAX_LINE;
use crate::wire::answers::unexpected;

/// More lines of statistics than any server sends.
const MAX_STATS: usize = 2000;
/// The uptime at which a server may grant. A server reports an uptime of 2 when it starts. At 4 at
/// least one whole second has passed, so its successor, however soon it comes, starts in a later
/// second.
const MAY_GRANT_AFTER: u64 = 4;

/// The statistics and settings that matter.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pid: Option<u64>,
    time: Option<u64>,
    uptime: Option<u64>,
    version: Option<String>,
    no_cas: bool,
    no_evictions: bool,
    evicted: Option<u64>,
    bytes: Option<u64>,
    most_bytes: Option<u64>,
}

impl Stats {
    /// Reads one line of `stats` or `stats settings`, without its `STAT `.
    pub(crate) fn take(&mut self, name: &str, value: &str) {
        match name {
            "pid" => self.pid = value.parse().ok(),
            "time" => self.time = value.parse().ok(),
            "uptime" => self.uptime = value.parse().ok(),
            "version" => self.version = Some(escaped(value).into_owned()),
            "cas_enabled" => self.no_cas = value == "no",
            // Of the statistics a number, of the settings a switch.
            "evictions" => match value.parse() {
                Ok(evicted) => self.evicted = Some(evicted),
                Err(_) => self.no_evictions = value == "off",
            },
            "bytes" => self.bytes = value.parse().ok(),
            "limit_maxbytes" => self.most_bytes = value.parse().ok(),
            _ => {}
        }
    }

    /// Reads one line of an answer. Returns whether the answer ends with it, or `None` if the line
    /// is unexpected.
    pub(crate) fn take_line(&mut self, line: &str) -> Option<bool> {
        if line == "END" {
            return Some(true);
        }
        let mut words = line.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("STAT"), Some(name), value) => {
                self.take(name, value.unwrap_or(""));
                Some(false)
            }
            // Some servers know only the first of the two commands.
            (Some("ERROR" | "CLIENT_ERROR" | "RESET"), ..) => Some(true),
            _ => None,
        }
    }

    /// The incarnation, and whether it has been up long enough to grant.
    pub(crate) fn incarnation(&self, peer: &str) -> Result<(Incarnation, bool), DatastoreError> {
        let (Some(pid), Some(time), Some(uptime)) = (self.pid, self.time, self.uptime) else {
            let answer = "statistics without pid, time and uptime".to_owned();
            let peer = peer.to_owned();
            return Err(DatastoreError::not_executed(
                ErrorKind::Protocol,
                Problem::Unexpected { peer, answer },
            ));
        };
        let incarnation = Incarnation {
            pid,
            start: time.saturating_sub(uptime),
        };
        if !incarnation.has_tokens() {
            let peer = peer.to_owned();
            return Err(DatastoreError::not_executed(
                ErrorKind::Unsupported,
                Problem::ClockBehind { peer },
            ));
        }
        Ok((incarnation, uptime >= MAY_GRANT_AFTER))
    }

    /// The server's wall clock, in seconds since 1970.
    pub(crate) fn time(&self) -> Option<u64> {
        self.time
    }

    /// How many values it has evicted since its start.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.unwrap_or(0)
    }

    /// How much of its memory has values in it, in percent.
    pub(crate) fn percent_full(&self) -> Option<u64> {
        self.bytes?
            .saturating_mul(100)
            .checked_div(self.most_bytes?)
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

/// Returns whether it is before 1.6. A version in another format is accepted, since the handshake
/// also checks the meta protocol.
fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < (1, 6),
        _ => false,
    }
}

/// Asks for the statistics, the settings and the meta protocol in one round trip. An error means
/// that nothing was done.
pub(crate) fn read_stats<S: Transport>(wire: &mut Wire<S>) -> Result<Stats, DatastoreError> {
    let mut read = || {
        wire.send(b"stats\r\nstats settings\r\nmn\r\n")?;
        let mut stats = Stats::default();
        for _ in 0..2 {
            read_stat_lines(wire, &mut stats)?;
        }
        let line = wire.line(MAX_LINE)?;
        let no_operation = MetaResponse::parse_header(line);
        if no_operation.is_ok_and(|answer| answer.rc() == ReturnCode::Mn) {
            wire.finish();
            return Ok(stats);
        }
        // Report an old version as such. If the version is unknown, report the missing meta
        // protocol.
        stats.check(wire.peer())?;
        let peer = wire.peer().to_owned();
        Err(DatastoreError::not_executed(
            ErrorKind::Unsupported,
            Problem::NoMeta { peer },
        ))
    };
    read().map_err(nothing_was_done)
}

fn read_stat_lines<S: Transport>(
    wire: &mut Wire<S>,
    stats: &mut Stats,
) -> Result<(), DatastoreError> {
    for _ in 0..MAX_STATS {
        let line = String::from_utf8_lossy(wire.line(MAX_LINE)?).into_owned();
        match stats.take_line(&line) {
            Some(true) => return Ok(()),
            Some(false) => {}
            None => return Err(unexpected(wire.peer(), &line)),
        }
    }
    Err(wire.failed(io::Error::new(
        io::ErrorKind::InvalidData,
        "statistics without end",
    )))
}

/// The error of a server that sent something before it was asked.
#[cfg(feature = "tokio")]
pub(crate) fn no_memcached() -> DatastoreError {
    DatastoreError::not_executed(
        ErrorKind::Protocol,
        "the server's answer to the handshake is not that of memcached",
    )
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
    fn a_server_may_grant_once_a_whole_second_has_passed_since_its_start() {
        for (uptime, grants) in [("2", false), ("3", false), ("4", true), ("99", true)] {
            let stats = stats(&[("pid", "7"), ("time", "1800000000"), ("uptime", uptime)]);
            assert_eq!(stats.incarnation("x").unwrap().1, grants, "{uptime}");
        }
    }

    #[test]
    fn an_incarnation_is_the_process_and_the_second_of_its_start() {
        let incarnation = |pid, time, uptime| {
            let stats = stats(&[("pid", pid), ("time", time), ("uptime", uptime)]);
            stats.incarnation("x").unwrap().0
        };
        assert_eq!(
            incarnation("7", "1800000000", "10"),
            incarnation("7", "1800000010", "20")
        );
        assert_ne!(
            incarnation("7", "1800000000", "10"),
            incarnation("8", "1800000000", "10")
        );
        assert_ne!(
            incarnation("7", "1800000000", "10"),
            incarnation("7", "1800000000", "9")
        );
    }

    #[test]
    fn statistics_that_lack_something_are_an_error() {
        let error = stats(&[("pid", "7"), ("time", "x")]).incarnation("here:1");
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(!error.may_have_executed());
    }

    #[test]
    fn a_server_whose_clock_is_before_the_zero_of_tokens_is_refused() {
        // As on a machine without a battery clock, before it has learnt the time.
        let error =
            stats(&[("pid", "7"), ("time", "86400"), ("uptime", "99")]).incarnation("here:1");
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert!(reason.contains("set its clock"), "{reason}");
    }

    #[test]
    fn servers_that_report_no_settings_are_judged_by_the_rest() {
        for refusal in ["ERROR", "CLIENT_ERROR bad command line", "RESET"] {
            let read = |version: &str, no_operation: &str| {
                let stats = format!("STAT version {version}\r\nEND\r\n{refusal}\r\n");
                let handshake = stats + no_operation + "\r\n";
                read_stats(&mut crate::fuzzing::wire(handshake.as_bytes(), 0))
            };
            read("1.6.18", "MN").unwrap().check("here:1").unwrap();
            let error = read("1.2.8", "ERROR").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            let reason = std::error::Error::source(&error).unwrap().to_string();
            assert!(reason.contains("memcached 1.2.8"), "{reason}");
        }
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
}
