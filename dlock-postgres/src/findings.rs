//! What endangers locks in a server, for operators: its settings, rights, standbys and clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dlock_core::{DatastoreError, ErrorKind, Finding};
use dlock_net::escaped;

use crate::wire::Row;

/// The oldest version that is supported, as `server_version_num` has it.
const OLDEST: u64 = 130_000;
/// Clocks that NTP keeps differ by less.
const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(1);
/// The part of the connections in percent from which on they are nearly used up.
const NEARLY_ALL: u64 = 90;
/// A transaction that is open for longer keeps dead rows long enough to slow locks down.
const LONG_TRANSACTION: Duration = Duration::from_secs(600);

/// What a server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    version: u64,
    version_text: String,
    /// The time on its clock.
    now: Duration,
    fsync: bool,
    full_page_writes: bool,
    synchronous_commit: String,
    synchronous_standbys: String,
    standbys: u64,
    connections: u64,
    most_connections: u64,
    /// How long the oldest transaction with a snapshot is open, of those that this user sees.
    oldest_transaction: Duration,
    is_unlogged: bool,
    /// Of how many functions of the schema this user has no right to.
    forbidden: u64,
}

impl Facts {
    /// Any user may ask this.
    pub(crate) const SQL: &str = "SELECT current_setting('server_version_num'), \
        current_setting('server_version'), \
        (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, \
        current_setting('fsync'), current_setting('full_page_writes'), \
        current_setting('synchronous_commit'), current_setting('synchronous_standby_names'), \
        (SELECT count(*) FROM pg_stat_replication), \
        (SELECT sum(numbackends) FROM pg_stat_database), \
        current_setting('max_connections')::int \
          - current_setting('superuser_reserved_connections')::int, \
        (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::bigint \
          FROM pg_stat_activity \
          WHERE backend_xmin IS NOT NULL AND backend_type = 'client backend'), \
        (SELECT relpersistence = 'u' FROM pg_class WHERE oid = to_regclass('dlock.locks')), \
        (SELECT count(*) FROM pg_proc WHERE pronamespace = 'dlock'::regnamespace \
          AND NOT has_function_privilege(oid, 'EXECUTE'))";

    pub(crate) fn read(row: &Row) -> Option<Self> {
        let [
            version,
            version_text,
            now,
            fsync,
            full_page_writes,
            synchronous_commit,
            synchronous_standbys,
            standbys,
            connections,
            most_connections,
            oldest_transaction,
            is_unlogged,
            forbidden,
        ] = row.as_slice()
        else {
            return None;
        };
        let number = |column: &Option<String>| column.as_deref()?.parse::<u64>().ok();
        Some(Facts {
            version: number(version)?,
            version_text: version_text.clone()?,
            now: Duration::from_micros(number(now)?),
            fsync: fsync.as_deref()? == "on",
            full_page_writes: full_page_writes.as_deref()? == "on",
            synchronous_commit: synchronous_commit.clone()?,
            synchronous_standbys: synchronous_standbys.clone()?,
            standbys: number(standbys)?,
            connections: number(connections)?,
            most_connections: number(most_connections)?,
            oldest_transaction: Duration::from_secs(number(oldest_transaction)?),
            // `None` without the table; then the schema is not complete.
            is_unlogged: is_unlogged.as_deref() == Some("t"),
            forbidden: number(forbidden)?,
        })
    }

    /// What is wrong. The facts were asked for between `before` and `after`, since 1970.
    pub(crate) fn findings(&self, before: Duration, after: Duration) -> Vec<Finding> {
        let found = [
            self.version(),
            self.rights(),
            self.disk(),
            self.torn_pages(),
            self.unlogged(),
            self.standbys(),
            self.clock(before, after),
            self.connections(),
            self.old_snapshot(),
        ];
        found.into_iter().flatten().collect()
    }

    fn version(&self) -> Option<Finding> {
        (self.version < OLDEST).then(|| {
            Finding::danger(
                format!("the server is PostgreSQL {}", escaped(&self.version_text)),
                "locks are tested with PostgreSQL 13 and newer alone",
                "update it",
            )
        })
    }

    fn rights(&self) -> Option<Finding> {
        (self.forbidden > 0).then(|| {
            Finding::danger(
                format!(
                    "this user may not call {} of the functions of the schema dlock",
                    self.forbidden
                ),
                "calls that need them fail",
                "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dlock to the user",
            )
        })
    }

    fn disk(&self) -> Option<Finding> {
        (!self.fsync).then(|| {
            Finding::danger(
                "fsync is off",
                "after a crash of the machine it may grant locks that are held once more, or lose \
                 the whole database",
                "ALTER SYSTEM RESET fsync, and reload the configuration",
            )
        })
    }

    fn torn_pages(&self) -> Option<Finding> {
        (!self.full_page_writes).then(|| {
            Finding::danger(
                "full_page_writes is off",
                "a crash of the machine in the middle of a write may damage the table of the locks",
                "ALTER SYSTEM RESET full_page_writes, and reload the configuration",
            )
        })
    }

    fn unlogged(&self) -> Option<Finding> {
        self.is_unlogged.then(|| {
            Finding::danger(
                "the table dlock.locks is unlogged",
                "after a crash it is empty, and so it is after a failover: every lock that is held \
                 is granted once more",
                "ALTER TABLE dlock.locks SET LOGGED",
            )
        })
    }

    fn standbys(&self) -> Option<Finding> {
        let remedy = "set synchronous_standby_names, and leave synchronous_commit on; or accept \
                      that a failover may grant a lock twice, with a higher fencing token";
        if self.synchronous_standbys.is_empty() {
            return (self.standbys > 0).then(|| {
                Finding::warning(
                    format!(
                        "{} standbys are connected, and synchronous_standby_names is empty",
                        self.standbys
                    ),
                    "a standby that takes over may lack the last grants, and grants the locks once \
                     more",
                    remedy,
                )
            });
        }
        let is_local = matches!(self.synchronous_commit.as_str(), "off" | "local");
        is_local.then(|| {
            Finding::warning(
                format!(
                    "synchronous_commit is {}, although synchronous_standby_names is set",
                    escaped(&self.synchronous_commit)
                ),
                "a grant is answered before a standby has it, and a failover grants the lock once \
                 more",
                remedy,
            )
        })
    }

    fn clock(&self, before: Duration, after: Duration) -> Option<Finding> {
        let (ahead, behind) = (
            self.now.saturating_sub(after),
            before.saturating_sub(self.now),
        );
        let off = ahead.max(behind);
        let word = if ahead > behind { "ahead of" } else { "behind" };
        (off > CLOCKS_DIFFER_BY).then(|| {
            Finding::warning(
                format!("the clock of the server is {} s {word} ours", off.as_secs()),
                "leases run on the clock of the server: when NTP sets it, or a standby with another \
                 clock takes over, leases end early or late",
                "have NTP keep the clocks of the server, of its standbys and of this host",
            )
        })
    }

    fn connections(&self) -> Option<Finding> {
        let percent = self.connections.saturating_mul(100) / self.most_connections.max(1);
        (percent >= NEARLY_ALL).then(|| {
            Finding::warning(
                format!(
                    "{} of the {} connections that the server allows are in use",
                    self.connections, self.most_connections
                ),
                "a holder that needs a new connection to renew its lease may get none, and loses \
                 the lock",
                "raise max_connections, or put a pooler before the server",
            )
        })
    }

    fn old_snapshot(&self) -> Option<Finding> {
        (self.oldest_transaction >= LONG_TRANSACTION).then(|| {
            Finding::warning(
                format!(
                    "a transaction has been open for {} minutes",
                    self.oldest_transaction.as_secs() / 60
                ),
                "while its snapshot is open no old version of a row can be removed, and calls on \
                 locks that are taken often become slower and slower",
                "end it; set idle_in_transaction_session_timeout",
            )
        })
    }
}

/// The finding that an error is with which a server was refused, or the error if the server could
/// not be reached.
pub(crate) fn of_refusal(error: DatastoreError) -> Result<Vec<Finding>, DatastoreError> {
    match error.kind() {
        ErrorKind::Unsupported | ErrorKind::Refused => Ok(vec![Finding::danger(
            error.to_string(),
            "no lock can be acquired",
            "do what it says; the page of PostgreSQL has the schema, the rights and the options",
        )]),
        _ => Err(error),
    }
}

/// The time since 1970 on our clock.
pub(crate) fn unix_now() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            version: 150_018,
            fsync: true,
            full_page_writes: true,
            synchronous_commit: "on".into(),
            now: Duration::from_secs(100),
            most_connections: 97,
            ..Facts::default()
        }
    }

    fn found(facts: &Facts) -> Vec<String> {
        let at = |seconds| Duration::from_secs(seconds);
        let found = facts.findings(at(90), at(110)).into_iter();
        found.map(|finding| finding.what).collect()
    }

    #[test]
    fn a_slow_answer_is_no_clock_that_is_off() {
        let seconds = Duration::from_secs;
        for (now, off) in [
            (100, None),
            (90, None),
            (89, None),
            (111, None),
            (88, Some("2 s behind")),
            (113, Some("3 s ahead of")),
        ] {
            let now = seconds(now);
            let found = found(&Facts { now, ..good() });
            assert_eq!(found.len(), usize::from(off.is_some()), "{now:?}");
            assert!(found.iter().all(|found| found.contains(off.unwrap())));
        }
    }

    #[test]
    fn an_old_server_and_an_old_snapshot_are_found() {
        assert_eq!(found(&good()), Vec::<String>::new());
        let old = Facts {
            version: 120_022,
            version_text: "12.22".into(),
            ..good()
        };
        assert_eq!(found(&old), ["the server is PostgreSQL 12.22"]);
        let open = Facts {
            oldest_transaction: Duration::from_secs(660),
            ..good()
        };
        assert_eq!(found(&open), ["a transaction has been open for 11 minutes"]);
    }
}
