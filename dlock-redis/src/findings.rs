//! What endangers locks in a server, for operators: its settings, memory, replicas and clock.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dlock_core::{DatastoreError, Finding, Time};
use dlock_net::{Transport, deadline_in, escaped};
use redis::{Cmd, Value};

use crate::connection::Connection;
use crate::operations;
use crate::server::{By, Server};
use crate::servers::{Servers, Target};

/// More than any server says of itself.
const LONGEST: u64 = 1024 * 1024;
/// The oldest version that is supported.
const OLDEST: u32 = 6;
/// Clocks that NTP keeps differ by less.
const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(1);
/// The part of the memory in percent from which on it is nearly full.
const NEARLY_FULL: u64 = 90;

/// What is found on all servers that have keys, and about the messages to waiters.
pub(crate) fn findings(
    servers: &Servers,
    call_timeout: Duration,
) -> Result<Vec<Finding>, DatastoreError> {
    let mut findings = Vec::new();
    for place in 0.. {
        let deadline = deadline_in(call_timeout);
        match servers.target(place, deadline)? {
            None => break,
            Some(Target::One(server)) => findings.extend(of_server(&server, deadline)?),
            Some(Target::Node(node)) => findings.extend(of_server(&node.server, deadline)?),
        }
    }
    let connection = servers.open(deadline_in(call_timeout))?;
    let peer = connection.peer().to_owned();
    if connection.subscribe("findings")?.is_none() {
        findings.push(Finding::warning(
            format!("this user of {peer} may not subscribe to dlock:wake:*"),
            "its claims do not queue: they ask again and again, and are granted the lock only when \
             nobody else waits",
            "give the user the rights that the page of Redis lists: &dlock:wake:* +subscribe",
        ));
    }
    Ok(findings)
}

fn of_server(server: &Server, deadline: Time) -> Result<Vec<Finding>, DatastoreError> {
    let waits_for_replicas = server.replicas.is_some();
    server.call_many(deadline, By::Pool, |connection, _| {
        let facts = Facts::ask(connection)?;
        Ok(facts.findings(connection.peer(), waits_for_replicas))
    })
}

/// What a server says of itself. What it does not say is missing: an old server does not know the
/// name, or the user lacks the right.
#[derive(Debug, Default)]
struct Facts {
    /// The lines of INFO; `None` without the right to it.
    info: Option<HashMap<String, String>>,
    /// `save` and `min-replicas-to-write`.
    settings: HashMap<String, String>,
    /// By how much its clock is ahead (`true`) or behind.
    clock_off: Option<(Duration, bool)>,
}

impl Facts {
    fn ask<S: Transport>(connection: &mut Connection<S>) -> Result<Self, DatastoreError> {
        let before = unix_now();
        let time = connection.ask(&redis::cmd("TIME"), LONGEST)?;
        let clock_off = clock_off(&time, before, unix_now());
        let info = match connection.ask(&redis::cmd("INFO"), LONGEST)? {
            Value::BulkString(text) => Some(lines(&String::from_utf8_lossy(&text))),
            _ => None,
        };
        let mut settings = HashMap::new();
        for name in ["save", "min-replicas-to-write"] {
            let mut command = Cmd::new();
            command.arg("CONFIG").arg("GET").arg(name);
            if let Some(value) = setting(&connection.ask(&command, LONGEST)?) {
                settings.insert(name.to_owned(), value);
            }
        }
        Ok(Facts {
            info,
            settings,
            clock_off,
        })
    }

    fn findings(&self, peer: &str, waits_for_replicas: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        findings.extend(self.clock(peer));
        if self.info.is_none() {
            findings.push(Finding::warning(
                format!("this user of {peer} may not call INFO"),
                "eviction, persistence, replicas and version of the server are not checked",
                "check it once as a user with +info and +config|get",
            ));
            return findings;
        }
        findings.extend(self.version(peer));
        if self.info("role") == Some("slave") {
            findings.push(Finding::danger(
                format!("{peer} is a replica"),
                "it refuses claims, and learns of locks late",
                "give the address of the primary, or those of the sentinels",
            ));
            return findings;
        }
        findings.extend(self.eviction(peer));
        findings.extend(self.memory(peer));
        findings.extend(self.persistence(peer));
        findings.extend(self.disk(peer));
        if !waits_for_replicas {
            findings.extend(self.replicas(peer));
        }
        findings
    }

    fn info(&self, name: &str) -> Option<&str> {
        self.info.as_ref()?.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> u64 {
        self.info(name)
            .and_then(|number| number.parse().ok())
            .unwrap_or(0)
    }

    fn clock(&self, peer: &str) -> Option<Finding> {
        let (off, is_ahead) = self.clock_off?;
        let word = if is_ahead { "ahead of" } else { "behind" };
        Some(Finding::warning(
            format!("the clock of {peer} is {} s {word} ours", off.as_secs()),
            "leases run on the clock of the server: when NTP sets it, or a replica with another \
             clock takes over, leases end early or late",
            "have NTP keep the clocks of the server, of its replicas and of this host",
        ))
    }

    fn version(&self, peer: &str) -> Option<Finding> {
        let version = self.info("redis_version")?;
        let major: u32 = version.split('.').next()?.parse().ok()?;
        (major < OLDEST).then(|| {
            Finding::danger(
                format!("{peer} is Redis {}", escaped(version)),
                "locks are tested with Redis 6.0 and newer alone",
                "update it",
            )
        })
    }

    fn eviction(&self, peer: &str) -> Option<Finding> {
        let policy = self.info("maxmemory_policy")?;
        if policy == "noeviction" {
            return None;
        }
        let what = format!("maxmemory-policy of {peer} is {}", escaped(policy));
        let why = "when its memory is short, the server deletes a lock that is held, and another \
                   process gets it";
        let remedy =
            "CONFIG SET maxmemory-policy noeviction, and write it into the configuration file";
        Some(match self.number("maxmemory") {
            // Nothing is evicted as long as the memory is not limited.
            0 => Finding::warning(what, why, remedy),
            _ => Finding::danger(what, why, remedy),
        })
    }

    fn memory(&self, peer: &str) -> Option<Finding> {
        let (used, most) = (self.number("used_memory"), self.number("maxmemory"));
        let percent = used.saturating_mul(100).checked_div(most)?;
        (percent >= NEARLY_FULL).then(|| {
            Finding::warning(
                format!("{peer} uses {percent} % of its maxmemory"),
                "a full server refuses claims, or evicts locks",
                "raise maxmemory, or keep other data elsewhere",
            )
        })
    }

    fn persistence(&self, peer: &str) -> Option<Finding> {
        if self.info("aof_enabled") == Some("1") {
            return None;
        }
        let remedy = "CONFIG SET appendonly yes, and write it into the configuration file";
        Some(match self.settings.get("save").map(String::as_str) {
            Some("") => Finding::danger(
                format!("{peer} keeps nothing on its disk: no appendonly, no save"),
                "after a restart it grants every lock that is held once more",
                remedy,
            ),
            Some(_) => Finding::warning(
                format!("{peer} keeps snapshots alone: no appendonly"),
                "after a crash it grants the locks once more that are younger than the snapshot",
                remedy,
            ),
            None => Finding::warning(
                format!("{peer} has no appendonly, and this user may not call CONFIG GET save"),
                "if it keeps no snapshots either, a restart grants every lock that is held once \
                 more",
                remedy,
            ),
        })
    }

    fn disk(&self, peer: &str) -> Option<Finding> {
        let failed = |name: &&&str| self.info(name) == Some("err");
        let names = ["aof_last_write_status", "rdb_last_bgsave_status"];
        let name = names.iter().find(failed)?;
        Some(Finding::danger(
            format!("{peer} could not write to its disk: {name} is err"),
            "it refuses claims until it can write, or loses the locks in a restart",
            "look into its log; its disk may be full",
        ))
    }

    fn replicas(&self, peer: &str) -> Option<Finding> {
        let replicas = self.number("connected_slaves");
        let wanted = self.settings.get("min-replicas-to-write");
        // INFO has this line if the setting is not 0.
        let is_set = wanted.map_or(self.info("min_slaves_good_slaves").is_some(), |n| n != "0");
        (replicas > 0 && !is_set).then(|| {
            Finding::danger(
                format!("{peer} has {replicas} replicas, and min-replicas-to-write is 0"),
                "cut off from its replicas it goes on to grant locks that they do not know, while \
                 the one that takes over grants them too",
                "CONFIG SET min-replicas-to-write 1 on all nodes, or add ?wait_replicas=1 to the \
                 URL",
            )
        })
    }
}

fn unix_now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// By how much the server's clock differs from ours at least, if that is too much. It was read
/// between `before` and `after`.
fn clock_off(time: &Value, before: Duration, after: Duration) -> Option<(Duration, bool)> {
    let micros = u64::try_from(operations::time(time).ok()?).ok()?;
    let server = Duration::from_micros(micros);
    let (ahead, behind) = (server.saturating_sub(after), before.saturating_sub(server));
    let off = ahead.max(behind);
    (off > CLOCKS_DIFFER_BY).then_some((off, ahead > behind))
}

/// The lines `name:value` of INFO.
fn lines(text: &str) -> HashMap<String, String> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.trim().to_owned());
    lines.map(owned).collect()
}

/// The value of a setting; `None` if the server does not say it.
fn setting(reply: &Value) -> Option<String> {
    match reply {
        Value::Array(parts) => match parts.as_slice() {
            [_, Value::BulkString(value)] => String::from_utf8(value.clone()).ok(),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(micros: i64) -> Value {
        let part = |number: i64| Value::BulkString(number.to_string().into_bytes());
        Value::Array(vec![part(micros / 1_000_000), part(micros % 1_000_000)])
    }

    #[test]
    fn a_slow_answer_is_no_clock_that_is_off() {
        let seconds = Duration::from_secs;
        for (server, off) in [
            (100_000_000, None),
            (90_000_000, None),
            (89_000_000, None),
            (111_000_000, None),
            (88_000_000, Some((seconds(2), false))),
            (113_000_000, Some((seconds(3), true))),
        ] {
            let found = clock_off(&time(server), seconds(90), seconds(110));
            assert_eq!(found, off, "{server}");
        }
    }

    #[test]
    fn what_the_server_does_not_say_is_not_taken_for_good() {
        let facts = Facts::default().findings("here", false);
        assert_eq!(facts.len(), 1, "{facts:?}");
        assert!(facts[0].what.contains("may not call INFO"), "{facts:?}");
        let info = "redis_version:7.0.15\r\nrole:master\r\nconnected_slaves:2\r\naof_enabled:0\r\n";
        let facts = Facts {
            info: Some(lines(info)),
            ..Facts::default()
        };
        let found: Vec<_> = facts.findings("here", false);
        let found: Vec<_> = found.iter().map(|found| found.what.as_str()).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("may not call CONFIG GET"), "{found:?}");
        assert!(found[1].contains("min-replicas-to-write"), "{found:?}");
    }
}
