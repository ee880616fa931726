//! The servers that contenders use, and their counters.

use std::path::Path;
use std::time::Duration;

use dlock_core::Lock;
use dlock_memcache::MemcacheDatastore;
use dlock_postgres::MIGRATION;
use dlock_test_servers::{EtcdServer, MemcachedServer, PostgresServer, RedisServer};
use tempfile::TempDir;

use crate::Failure;
use crate::cores::Cores;

/// Commands that dlock and its peers send to Redis directly. Redis also counts those that the
/// scripts call.
const SENT: [&str; 9] = [
    "evalsha",
    "eval",
    "evalsha_ro",
    "eval_ro",
    "subscribe",
    "unsubscribe",
    "ssubscribe",
    "ping",
    "auth",
];
/// The additional command of a library that acquires without a script.
const PLAIN_ACQUIRE: &str = "set";

/// A fresh memcached grants nothing for its first seconds.
const GRANTS_WITHIN: Duration = Duration::from_secs(10);

/// Where locks are kept.
pub(crate) enum Servers {
    Redis(RedisServer),
    Memcached(MemcachedServer),
    Postgres(PostgresServer),
    Etcd(EtcdServer),
    Folder(TempDir),
}

/// A PostgreSQL server with dlock's schema. It forces its data to a disk, as by default, but the
/// disk is memory.
pub(crate) fn postgres() -> PostgresServer {
    let server = PostgresServer::start_in_memory(&[("fsync", "on"), ("full_page_writes", "on")]);
    server.sql(MIGRATION);
    server
}

/// Waits until a fresh memcached grants a lock.
pub(crate) fn wait_until_it_grants(server: &MemcachedServer) -> Result<(), Failure> {
    let lock = Lock::new(MemcacheDatastore::open(&server.url())?, "first");
    lock.acquire_within(GRANTS_WITHIN)?.release()?;
    Ok(())
}

impl Servers {
    /// The URL for the contenders.
    pub(crate) fn url(&self) -> String {
        match self {
            Servers::Redis(server) => server.url(),
            Servers::Memcached(server) => server.url(),
            Servers::Postgres(server) => server.url(),
            Servers::Etcd(server) => server.url(),
            Servers::Folder(folder) => url_of(folder.path()),
        }
    }

    pub(crate) fn pin(&self, cores: Cores) -> Result<(), Failure> {
        match self {
            Servers::Redis(server) => cores.pin_server(server.pid()),
            Servers::Memcached(server) => cores.pin_server(server.pid()),
            // The backends are its children, which inherit it.
            Servers::Postgres(server) => cores.pin_server(server.pid()),
            Servers::Etcd(server) => cores.pin_server(server.pid()),
            Servers::Folder(_) => Ok(()),
        }
    }

    /// The number of commands that clients have sent so far; `None` without a server that counts
    /// them. `plain` means that they claim without a script.
    pub(crate) fn commands(&self, plain: bool) -> Option<u64> {
        match self {
            Servers::Redis(server) => {
                let calls = server.calls().into_iter();
                let sent = calls.filter(|(name, _)| is_sent(name, plain));
                Some(sent.map(|(_, calls)| calls).sum())
            }
            Servers::Memcached(server) => {
                let stats = server.stats();
                let names = [
                    "cmd_get",
                    "cmd_set",
                    "cmd_touch",
                    "delete_hits",
                    "delete_misses",
                ];
                let count = |name: &str| stats.get(name)?.parse::<u64>().ok();
                Some(names.into_iter().filter_map(count).sum())
            }
            Servers::Postgres(_) | Servers::Etcd(_) | Servers::Folder(_) => None,
        }
    }

    /// The number of open connections, except the one that asks; `None` without a server
    /// that counts them.
    pub(crate) fn connections(&self) -> Option<u64> {
        match self {
            Servers::Redis(server) => {
                let clients = server.command(["INFO", "clients"]).text()?;
                let connected = clients
                    .lines()
                    .find_map(|line| line.strip_prefix("connected_clients:"))?;
                connected.trim().parse::<u64>().ok()?.checked_sub(1)
            }
            Servers::Memcached(server) => {
                let open = server.stats().get("curr_connections")?.parse::<u64>();
                open.ok()?.checked_sub(1)
            }
            Servers::Postgres(_) | Servers::Etcd(_) | Servers::Folder(_) => None,
        }
    }
}

/// Returns whether clients send this command to Redis, and not only scripts call it. `plain` means
/// that they claim without a script.
pub(crate) fn is_sent(command: &str, plain: bool) -> bool {
    SENT.contains(&command) || (plain && command == PLAIN_ACQUIRE)
}

fn url_of(folder: &Path) -> String {
    format!("file:{}", folder.display())
}
