//! Servers to contend on, and what they count.

use std::path::Path;

use dlock_testkit::servers::{MemcachedServer, RedisServer};
use tempfile::TempDir;

use crate::Failure;
use crate::cores::Cores;

/// Commands that clients of dlock and of its peers send to Redis by themselves. The scripts call others, which Redis counts as well.
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
/// Beside those, of a library without a script for it.
const PLAIN_ACQUIRE: &str = "set";

/// Where locks are kept.
pub(crate) enum Stage {
    Redis(RedisServer),
    Memcached(MemcachedServer),
    Folder(TempDir),
}

impl Stage {
    /// As the processes that contend are told.
    pub(crate) fn url(&self) -> String {
        match self {
            Stage::Redis(server) => server.url(),
            Stage::Memcached(server) => server.url(),
            Stage::Folder(folder) => url_of(folder.path()),
        }
    }

    pub(crate) fn pin(&self, cores: Cores) -> Result<(), Failure> {
        match self {
            Stage::Redis(server) => cores.pin_server(server.pid()),
            Stage::Memcached(server) => cores.pin_server(server.pid()),
            Stage::Folder(_) => Ok(()),
        }
    }

    /// How many commands clients have sent so far; `None` where there is no server. `plain` says that they claim without a script.
    pub(crate) fn commands(&self, plain: bool) -> Option<u64> {
        match self {
            Stage::Redis(server) => {
                let sent = |name: &str| SENT.contains(&name) || (plain && name == PLAIN_ACQUIRE);
                let calls = server.calls().into_iter();
                Some(
                    calls
                        .filter(|(name, _)| sent(name))
                        .map(|(_, calls)| calls)
                        .sum(),
                )
            }
            Stage::Memcached(server) => {
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
            Stage::Folder(_) => None,
        }
    }

    /// How many connections are open, but for the one that asks; `None` where there is no server.
    pub(crate) fn connections(&self) -> Option<u64> {
        match self {
            Stage::Redis(server) => {
                let clients = server.command(["INFO", "clients"]).text()?;
                let connected = clients
                    .lines()
                    .find_map(|line| line.strip_prefix("connected_clients:"))?;
                connected.trim().parse::<u64>().ok()?.checked_sub(1)
            }
            Stage::Memcached(server) => {
                let open = server.stats().get("curr_connections")?.parse::<u64>();
                open.ok()?.checked_sub(1)
            }
            Stage::Folder(_) => None,
        }
    }
}

fn url_of(folder: &Path) -> String {
    format!("file:{}", folder.display())
}
