//! What endangers locks in a server, for operators: evictions, little memory, a clock that is off.
//! A server that cannot keep locks at all, with `-C` for example, is refused by the handshake.

use std::ops::RangeInclusive;
use std::time::{SystemTime, UNIX_EPOCH};

use dlock_core::Finding;

use crate::handshake::Stats;

/// The server's clock has whole seconds, which it reads once a second.
const CLOCKS_DIFFER_BY: u64 = 2;
/// The part of the memory in percent from which on it is nearly full. Evictions begin sooner than
/// at 100, since values of each size have their own pages.
const NEARLY_FULL: u64 = 80;

/// What the statistics say, which were read while the wall clock showed the seconds `asked`.
pub(crate) fn of(stats: &Stats, peer: &str, asked: &RangeInclusive<u64>) -> Vec<Finding> {
    let findings = [
        evictions(stats, peer),
        memory(stats, peer),
        clock(stats, peer, asked),
    ];
    findings.into_iter().flatten().collect()
}

/// Our wall clock, in seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

fn evictions(stats: &Stats, peer: &str) -> Option<Finding> {
    let evicted = stats.evicted();
    (evicted > 0).then(|| {
        Finding::danger(
            format!("{peer} has evicted {evicted} values since its start"),
            "an evicted lock is free for other processes while its holder works",
            "give locks a memcached of their own, or this one more memory (-m)",
        )
    })
}

fn memory(stats: &Stats, peer: &str) -> Option<Finding> {
    let percent = stats.percent_full().filter(|full| *full >= NEARLY_FULL)?;
    Some(Finding::warning(
        format!("the memory of {peer} is {percent} % full"),
        "a full memcached evicts values, locks among them",
        "give locks a memcached of their own, or this one more memory (-m)",
    ))
}

fn clock(stats: &Stats, peer: &str, asked: &RangeInclusive<u64>) -> Option<Finding> {
    let time = stats.time()?;
    let ahead = time.saturating_sub(*asked.end());
    let behind = asked.start().saturating_sub(time);
    let (off, word) = match ahead > behind {
        true => (ahead, "ahead of"),
        false => (behind, "behind"),
    };
    (off > CLOCKS_DIFFER_BY).then(|| {
        Finding::warning(
            format!("the clock of {peer} is {off} s {word} ours"),
            "fencing tokens begin at the time at which the server was started: after a restart \
             with a clock that is behind they fall",
            "have NTP keep the clocks of the server and of this host",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(lines: &[(&str, &str)]) -> Vec<String> {
        let mut stats = Stats::default();
        for (name, value) in lines {
            stats.take(name, value);
        }
        let found = of(&stats, "here:1", &(1000..=1010)).into_iter();
        found.map(|finding| finding.what).collect()
    }

    #[test]
    fn a_switch_of_the_same_name_is_no_count_of_evictions() {
        let lines = [("evictions", "3"), ("evictions", "on")];
        assert_eq!(
            found(&lines),
            ["here:1 has evicted 3 values since its start"]
        );
        assert!(found(&[("evictions", "0"), ("evictions", "on")]).is_empty());
    }

    #[test]
    fn little_memory_is_found() {
        let full = [("bytes", "85"), ("limit_maxbytes", "100")];
        assert_eq!(found(&full), ["the memory of here:1 is 85 % full"]);
        assert!(found(&[("bytes", "70"), ("limit_maxbytes", "100")]).is_empty());
        assert!(found(&[("bytes", "85"), ("limit_maxbytes", "0")]).is_empty());
    }

    #[test]
    fn a_clock_that_is_off_is_found_and_a_slow_answer_is_none() {
        for time in ["998", "1000", "1010", "1012"] {
            assert!(found(&[("time", time)]).is_empty(), "{time}");
        }
        assert_eq!(
            found(&[("time", "990")]),
            ["the clock of here:1 is 10 s behind ours"]
        );
        assert_eq!(
            found(&[("time", "1013")]),
            ["the clock of here:1 is 3 s ahead of ours"]
        );
    }
}
