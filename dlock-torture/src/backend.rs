//! The stores under test, their servers, and the proxies before the servers.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::aio::{DynAsyncDatastore, Unblock};
use dlock_core::{Clock, Datastore};
use dlock_etcd::EtcdDatastore;
use dlock_file::FileDatastore;
use dlock_memcache::MemcacheDatastore;
use dlock_postgres::PostgresDatastore;
use dlock_redis::RedisDatastore;
use dlock_test_servers::faults::Proxy;
use dlock_test_servers::{
    EtcdCluster, EtcdServer, MemcachedServer, PostgresServer, RedisCluster, RedisServer,
    SentinelSet,
};

use crate::Failure;
use crate::postgres::{self, Pair};
use crate::random::Random;

/// A primary that does not answer for this long is replaced. Longer than a busy machine keeps one
/// from answering: a failover that was not planned loses data where none may be lost.
const NODE_TIMEOUT: Duration = Duration::from_secs(4);

/// Of the primary that sentinels watch.
pub(crate) const REPLICAS: usize = 2;
/// The option of the URL with which both replicas must have acknowledged a grant. One of them is
/// not enough: while a primary that was stopped continues beside the one that was elected, the
/// other replica may follow first the one and then the other.
const BOTH_REPLICAS: &str = "wait_replicas=2&wait_within=100ms";
/// How long a primary that was replaced still says that it is one, at least. Shorter than by
/// default, since a round is short.
pub(crate) const IMPOSTORS_LAST: Duration = Duration::from_secs(4);

/// A worker's connections to PostgreSQL, which has a process for each.
const CONNECTIONS: u32 = 4;

/// The prefix of all keys.
pub(crate) const PREFIX: &str = "torture";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Redis,
    Memcached,
    File,
    /// A Redis Cluster. It has no proxy, since its nodes name their own addresses.
    Cluster,
    /// A Redis primary with two replicas and three sentinels. The same.
    Sentinel,
    /// The same with claims that both replicas must have acknowledged.
    SentinelReplicas,
    /// A PostgreSQL server.
    Postgres,
    /// A PostgreSQL server with a synchronous standby. It has no proxy, since the tests of the
    /// network are those of the other.
    PostgresStandby,
    /// One etcd node.
    Etcd,
    /// Three etcd nodes.
    EtcdCluster,
}

/// A store under test: its server or folder, and the proxies before it.
pub(crate) struct Environment {
    pub(crate) backend: Backend,
    pub(crate) server: Server,
    /// For each node one; none if there is no network between or the nodes name their addresses.
    pub(crate) proxies: Vec<Proxy>,
    /// The URL that the workers use.
    pub(crate) url: String,
}

pub(crate) enum Server {
    Redis(Box<RedisServer>, WallClockShift),
    Memcached(MemcachedServer),
    Folder(PathBuf),
    Cluster(Box<RedisCluster>),
    Sentinel(Box<SentinelSet>),
    Postgres(Box<PostgresServer>),
    PostgresPair(Box<Pair>),
    Etcd(Box<EtcdServer>),
    EtcdCluster(Box<EtcdCluster>),
}

impl Server {
    /// The address of the server, if there is one alone.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Server::Redis(server, _) => Some(server.address()),
            Server::Memcached(server) => Some(server.address()),
            Server::Postgres(server) => Some(server.address()),
            Server::Etcd(server) => Some(server.address()),
            Server::Folder(_)
            | Server::Cluster(_)
            | Server::Sentinel(_)
            | Server::PostgresPair(_)
            | Server::EtcdCluster(_) => None,
        }
    }

    /// The addresses before which a proxy may be.
    fn proxied(&self) -> Vec<SocketAddr> {
        match self {
            Server::EtcdCluster(cluster) => cluster.addresses(),
            server => server.address().into_iter().collect(),
        }
    }
}

/// Changes of a server's wall clock.
#[derive(Debug, Default)]
pub(crate) struct WallClockShift {
    shift: i128,
    /// The latest time that it has shown, as an offset from this host's clock.
    highest: i128,
}

impl Backend {
    /// Those that are run unless others are named.
    pub(crate) const ALL: [Backend; 3] = [Backend::Redis, Backend::Memcached, Backend::File];
    /// Those that are run only if they are named.
    pub(crate) const OTHERS: [Backend; 7] = [
        Backend::Cluster,
        Backend::Sentinel,
        Backend::SentinelReplicas,
        Backend::Postgres,
        Backend::PostgresStandby,
        Backend::Etcd,
        Backend::EtcdCluster,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::Redis => "redis",
            Backend::Memcached => "memcached",
            Backend::File => "file",
            Backend::Cluster => "cluster",
            Backend::Sentinel => "sentinel",
            Backend::SentinelReplicas => "sentinel-replicas",
            Backend::Postgres => "postgres",
            Backend::PostgresStandby => "postgres-standby",
            Backend::Etcd => "etcd",
            Backend::EtcdCluster => "etcd-cluster",
        }
    }

    /// Starts the server, or creates the folder in `folder`.
    pub(crate) fn start(self, folder: &Path) -> Environment {
        let server = match self {
            Backend::Redis => {
                let server = RedisServer::builder()
                    .clock_step()
                    // The operating system flushes the file, so each change is written before it is
                    // answered, and a killed server forgets nothing. (With `everysec` a write may
                    // be delayed during a flush.)
                    .config("appendonly", "yes")
                    .config("appendfsync", "no")
                    .config("auto-aof-rewrite-min-size", "1mb")
                    .start();
                Server::Redis(Box::new(server), WallClockShift::default())
            }
            Backend::Memcached => Server::Memcached(MemcachedServer::start_with(&["-m", "2"])),
            Backend::File => {
                let locks = folder.join("locks");
                share_with_commands(&locks);
                Server::Folder(locks)
            }
            Backend::Cluster => {
                let cluster = RedisCluster::builder().replicas();
                Server::Cluster(Box::new(cluster.node_timeout(NODE_TIMEOUT).start()))
            }
            Backend::Sentinel | Backend::SentinelReplicas => {
                let set = SentinelSet::builder()
                    .replicas(REPLICAS)
                    .down_after(NODE_TIMEOUT)
                    // A node that was killed comes back with all that it has acknowledged.
                    .config("appendonly", "yes")
                    .config("appendfsync", "no")
                    .start();
                set.impostors_last(IMPOSTORS_LAST);
                Server::Sentinel(Box::new(set))
            }
            Backend::Postgres => Server::Postgres(Box::new(postgres::start())),
            Backend::PostgresStandby => Server::PostgresPair(Box::new(Pair::start())),
            Backend::Etcd => Server::Etcd(Box::new(EtcdServer::start())),
            Backend::EtcdCluster => Server::EtcdCluster(Box::new(EtcdCluster::start())),
        };
        let proxies: Vec<Proxy> = server.proxied().into_iter().map(Proxy::to).collect();
        let places = proxies.iter().map(|proxy| proxy.address().to_string());
        let places = places.collect::<Vec<_>>().join(",");
        let url = match &server {
            Server::Folder(locks) => locks.display().to_string(),
            Server::Cluster(cluster) => cluster.url(),
            Server::Sentinel(set) if self == Backend::SentinelReplicas => {
                format!("{}?{}", set.url(), BOTH_REPLICAS)
            }
            Server::Sentinel(set) => set.url(),
            Server::PostgresPair(pair) => pair.url(),
            _ => self.url_at(&places),
        };
        Environment {
            backend: self,
            server,
            proxies,
            url,
        }
    }

    /// The URL of the server at this address, or of the nodes at these.
    pub(crate) fn url_at(self, places: &str) -> String {
        match self {
            Backend::Memcached => format!("memcache://{places}"),
            Backend::Postgres => postgres::url_at(places),
            Backend::Etcd | Backend::EtcdCluster => format!("etcd://{places}"),
            Backend::File => format!("file:{places}"),
            _ => format!("redis://{places}/"),
        }
    }

    /// Opens the store of a worker. The limits differ between workers.
    pub(crate) fn open(
        self,
        url: &str,
        random: &mut Random,
    ) -> Result<Box<dyn Datastore>, Failure> {
        let call_timeout = random.pick(&[500, 1000, 2000, 2000].map(Duration::from_millis));
        Ok(match self {
            Backend::Redis | Backend::Cluster | Backend::Sentinel | Backend::SentinelReplicas => {
                let builder = RedisDatastore::builder(url)?;
                Box::new(builder.call_timeout(call_timeout).build())
            }
            Backend::Postgres | Backend::PostgresStandby => {
                let builder = PostgresDatastore::builder(url)?.max_connections(CONNECTIONS);
                Box::new(builder.call_timeout(call_timeout).build())
            }
            Backend::Etcd | Backend::EtcdCluster => {
                let builder = EtcdDatastore::builder(url)?;
                Box::new(builder.call_timeout(call_timeout).build())
            }
            Backend::Memcached => {
                let builder = MemcacheDatastore::builder(url)?;
                let builder = builder.verify_before_grant(random.percent(30));
                Box::new(builder.call_timeout(call_timeout).build())
            }
            Backend::File => {
                let builder = FileDatastore::builder(url);
                Box::new(builder.call_timeout(call_timeout).open()?)
            }
        })
    }

    /// Opens the store of an async worker.
    pub(crate) fn open_async(
        self,
        url: &str,
        random: &mut Random,
    ) -> Result<Arc<dyn DynAsyncDatastore>, Failure> {
        let call_timeout = random.pick(&[1000, 2000].map(Duration::from_millis));
        Ok(match self {
            Backend::Redis | Backend::Cluster | Backend::Sentinel | Backend::SentinelReplicas => {
                let builder = RedisDatastore::builder(url)?;
                Arc::new(builder.call_timeout(call_timeout).build())
            }
            Backend::Postgres | Backend::PostgresStandby => {
                let builder = PostgresDatastore::builder(url)?.max_connections(CONNECTIONS);
                Arc::new(Unblock::new(builder.call_timeout(call_timeout).build()))
            }
            Backend::Etcd | Backend::EtcdCluster => {
                let builder = EtcdDatastore::builder(url)?;
                Arc::new(Unblock::new(builder.call_timeout(call_timeout).build()))
            }
            Backend::Memcached => {
                let builder = MemcacheDatastore::builder(url)?;
                let builder = builder.verify_before_grant(random.percent(30));
                Arc::new(builder.call_timeout(call_timeout).build())
            }
            Backend::File => {
                let builder = FileDatastore::builder(url);
                Arc::new(Unblock::new(builder.call_timeout(call_timeout).open()?))
            }
        })
    }

    /// The locks of the workers.
    pub(crate) fn locks(self) -> &'static [LockSpec] {
        const ALL: [LockSpec; 5] = [
            // This time to live is too short for memcached.
            LockSpec::new("short", 400, false),
            LockSpec::new("second", 1000, false),
            LockSpec::new("three", 3000, false),
            LockSpec::new("hot", 1500, true),
            LockSpec::new("hotter", 2000, true),
        ];
        const OF_SETS: [LockSpec; 5] = [
            ALL[0],
            ALL[1],
            // Outlasts a failover.
            LockSpec::new("eight", 8000, false),
            ALL[3],
            ALL[4],
        ];
        const OF_ETCD: [LockSpec; 5] = [
            LockSpec::new("two", 2000, false),
            ALL[2],
            OF_SETS[2],
            LockSpec::new("hot", 2000, true),
            LockSpec::new("hotter", 3000, true),
        ];
        match self {
            Backend::Memcached => &ALL[1..],
            Backend::Redis | Backend::File | Backend::Postgres => &ALL,
            Backend::Cluster
            | Backend::Sentinel
            | Backend::SentinelReplicas
            | Backend::PostgresStandby => &OF_SETS,
            Backend::Etcd | Backend::EtcdCluster => &OF_ETCD,
        }
    }

    /// The lock that a healthy process shares with crashing ones.
    pub(crate) fn crash_lock(self) -> LockSpec {
        match self {
            // Its shortest time to live.
            Backend::Etcd | Backend::EtcdCluster => LockSpec::new("crash", 2000, true),
            _ => LockSpec::new("crash", 1000, true),
        }
    }
}

/// A lock under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockSpec {
    pub(crate) id: &'static str,
    pub(crate) ttl: Duration,
    /// Many workers hold it, for moments only.
    pub(crate) hot: bool,
}

impl LockSpec {
    const fn new(id: &'static str, ttl_millis: u64, hot: bool) -> Self {
        LockSpec {
            id,
            ttl: Duration::from_millis(ttl_millis),
            hot,
        }
    }

    pub(crate) fn key(self) -> String {
        format!("{PREFIX}:{}", self.id)
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Backend::ALL
            .into_iter()
            .chain(Backend::OTHERS)
            .find(|backend| backend.name() == text)
            .ok_or_else(|| {
                let names = Backend::ALL.into_iter().chain(Backend::OTHERS);
                let names: Vec<_> = names.map(Backend::name).collect();
                format!(
                    "`{text}` is not a backend; write {} or all",
                    names.join(", ")
                )
            })
    }
}

impl WallClockShift {
    /// Returns whether the clock shows less than it did before. If data is lost now, tokens may
    /// fall, as the store documents.
    pub(crate) fn is_behind(&self) -> bool {
        now() + self.shift < self.highest
    }

    pub(crate) fn stepped(&mut self, by: Duration, forward: bool) {
        let by = i128::try_from(by.as_nanos()).unwrap_or(0);
        if forward {
            self.shift += by;
        } else {
            self.highest = self.highest.max(now() + self.shift);
            self.shift -= by;
        }
    }
}

fn now() -> i128 {
    i128::from(Clock::BOOTTIME.now().as_nanos())
}

/// Creates the folder for locks. If this process is root, every user can write in it, since
/// commands then run as another user.
fn share_with_commands(locks: &Path) {
    if rustix::process::geteuid().is_root() {
        let made = fs::create_dir(locks);
        let made = made.and_then(|()| fs::set_permissions(locks, Permissions::from_mode(0o777)));
        made.expect("the folder for locks can be made");
    }
}

/// Fills the server until it has evicted what it had, in each size class that a lock may be in.
pub(crate) fn evict_all(server: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    for size in (60..400).step_by(30) {
        let value = "x".repeat(size);
        let mut commands = String::new();
        // A size class has one page of a megabyte.
        for number in 0..1_100_000 / size {
            commands.push_str(&format!("ms f{number} {size} T60 q\r\n{value}\r\n"));
        }
        stream.write_all(commands.as_bytes())?;
    }
    // Its answer comes when everything before it was carried out.
    stream.write_all(b"mn\r\n")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    io::Read::read(&mut stream, &mut [0; 16])?;
    Ok(())
}

/// Locks all shards of a folder until the result is dropped, like a process that was stopped in the
/// middle of a call.
pub(crate) fn hold_shards(folder: &Path) -> io::Result<Vec<fs::File>> {
    let mut held = Vec::new();
    let mut shards = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("shard-") && !name.ends_with(".spare") {
            shards.push(entry.path());
        }
    }
    // In a fixed order, since two threads may do this at once.
    shards.sort();
    for path in shards {
        let shard = fs::OpenOptions::new().read(true).write(true).open(path)?;
        rustix::fs::flock(&shard, rustix::fs::FlockOperation::LockExclusive)?;
        held.push(shard);
    }
    Ok(held)
}

/// Deletes the records of a folder while no process uses them.
pub(crate) fn delete_records(folder: &Path) -> io::Result<()> {
    let _shards = hold_shards(folder)?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|suffix| suffix == "lease") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
