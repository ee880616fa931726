//! The stores that are tortured, their servers and the proxies before these.

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use dlock_core::{Clock, Datastore};
use dlock_file::FileDatastore;
use dlock_memcache::MemcacheDatastore;
use dlock_redis::RedisDatastore;
use dlock_testkit::faults::Proxy;
use dlock_testkit::servers::{MemcachedServer, RedisServer};

use crate::random::Random;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The prefix of all keys.
pub(crate) const PREFIX: &str = "torture";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Redis,
    Memcached,
    File,
}

/// What is broken in a backend by whom.
pub(crate) struct Place {
    pub(crate) backend: Backend,
    pub(crate) server: Server,
    pub(crate) proxy: Option<Proxy>,
    /// What the workers connect to.
    pub(crate) url: String,
}

pub(crate) enum Server {
    Redis(Box<RedisServer>, WallClock),
    Memcached(MemcachedServer),
    Folder(PathBuf),
}

/// What was done to a server's wall clock.
#[derive(Debug, Default)]
pub(crate) struct WallClock {
    shift: i128,
    /// The latest that it ever showed, as far as it was set back from there; 0 is our clock's zero.
    highest: i128,
}

impl Backend {
    pub(crate) const ALL: [Backend; 3] = [Backend::Redis, Backend::Memcached, Backend::File];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Backend::Redis => "redis",
            Backend::Memcached => "memcached",
            Backend::File => "file",
        }
    }

    /// Starts what it needs, in `folder` if it needs one.
    pub(crate) fn start(self, folder: &Path) -> Place {
        let (server, address) = match self {
            Backend::Redis => {
                let server = RedisServer::builder()
                    .clock_step()
                    // With the operating system to flush it, each change is in the file before it is answered: a killed server
                    // forgets nothing. (With `everysec` a write may be put off while a flush is under way.)
                    .config("appendonly", "yes")
                    .config("appendfsync", "no")
                    .config("auto-aof-rewrite-min-size", "1mb")
                    .start();
                let address = server.address();
                (
                    Server::Redis(Box::new(server), WallClock::default()),
                    Some(address),
                )
            }
            Backend::Memcached => {
                let server = MemcachedServer::start_with(&["-m", "2"]);
                let address = server.address();
                (Server::Memcached(server), Some(address))
            }
            Backend::File => (Server::Folder(folder.join("locks")), None),
        };
        let proxy = address.map(Proxy::to);
        let url = match &proxy {
            Some(proxy) => proxy.address().to_string(),
            None => folder.join("locks").display().to_string(),
        };
        Place {
            backend: self,
            server,
            proxy,
            url,
        }
    }

    /// Opens the store as a worker does. Some have other limits than others.
    pub(crate) fn open(
        self,
        url: &str,
        random: &mut Random,
    ) -> Result<Box<dyn Datastore>, Failure> {
        let call_timeout = random.pick(&[500, 1000, 2000, 2000].map(Duration::from_millis));
        Ok(match self {
            Backend::Redis => {
                let builder = RedisDatastore::builder(&format!("redis://{url}/"))?;
                Box::new(builder.call_timeout(call_timeout).build())
            }
            Backend::Memcached => {
                let builder = MemcacheDatastore::builder(&format!("memcache://{url}"))?;
                let builder = builder.verify_before_grant(random.percent(30));
                Box::new(builder.call_timeout(call_timeout).build())
            }
            Backend::File => {
                let builder = FileDatastore::builder(url);
                Box::new(builder.call_timeout(call_timeout).open()?)
            }
        })
    }

    /// The locks.
    pub(crate) fn locks(self) -> &'static [Name] {
        const ALL: [Name; 5] = [
            // Too short for memcached.
            Name::new("short", 400, false),
            Name::new("second", 1000, false),
            Name::new("three", 3000, false),
            Name::new("hot", 1500, true),
            Name::new("hotter", 2000, true),
        ];
        match self {
            Backend::Memcached => &ALL[1..],
            _ => &ALL,
        }
    }
}

/// What is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) id: &'static str,
    pub(crate) ttl: Duration,
    /// Held for moments only, by many.
    pub(crate) hot: bool,
}

impl Name {
    const fn new(id: &'static str, ttl_millis: u64, hot: bool) -> Self {
        Name {
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
            .find(|backend| backend.name() == text)
            .ok_or_else(|| format!("`{text}` is no backend: redis, memcached, file or all"))
    }
}

impl WallClock {
    /// Whether it shows less than it did before: data that is lost now takes the tokens' order with it, as the store says.
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

/// Stores so much that the server has no room left for what it had, in each class of sizes that a lock may be in.
pub(crate) fn crowd_out(server: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    for size in (60..400).step_by(30) {
        let value = "x".repeat(size);
        let mut commands = String::new();
        // A class has one page of a megabyte.
        for number in 0..1_100_000 / size {
            commands.push_str(&format!("ms f{number} {size} T60 q\r\n{value}\r\n"));
        }
        stream.write_all(commands.as_bytes())?;
    }
    // Answered when everything before it was carried out.
    stream.write_all(b"mn\r\n")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    io::Read::read(&mut stream, &mut [0; 16])?;
    Ok(())
}

/// Holds all shards of a folder, as a process that was stopped in a call holds one; until the answer is dropped.
pub(crate) fn hold_shards(folder: &Path) -> io::Result<Vec<fs::File>> {
    let mut held = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("shard-") || name.ends_with(".spare") {
            continue;
        }
        let shard = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(entry.path())?;
        rustix::fs::flock(&shard, rustix::fs::FlockOperation::LockExclusive)?;
        held.push(shard);
    }
    Ok(held)
}

/// Deletes the records of a folder while nobody uses them.
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
mod tests {
    use super::*;
    use dlock_core::{AcquireError, ErrorKind, Lock, LockGuard, Store};

    fn store(place: &Place) -> Store {
        let store = place.backend.open(&place.url, &mut Random::new(1, &[]));
        Store::new(store.unwrap())
    }

    fn hold(store: &Store) -> LockGuard {
        let lock = Lock::new(store, "x");
        lock.acquire_within(Duration::from_secs(30)).unwrap()
    }

    #[test]
    fn a_crowded_memcached_loses_its_locks() {
        let folder = tempfile::tempdir().unwrap();
        let place = Backend::Memcached.start(folder.path());
        let store = store(&place);
        let first = hold(&store);
        let Server::Memcached(server) = &place.server else {
            panic!("another server")
        };
        // The server's thread that makes room may be behind: it refuses what comes meanwhile.
        let crowded = (0..20).find_map(|_| {
            crowd_out(server.address()).unwrap();
            Lock::new(&store, "x").try_acquire().ok()
        });
        let second = crowded.expect("the lock is gone");
        assert!(second.fencing_token() > first.fencing_token());
    }

    #[test]
    fn a_folder_loses_its_locks_with_its_records_and_answers_nothing_while_its_shards_are_held() {
        let folder = tempfile::tempdir().unwrap();
        let place = Backend::File.start(folder.path());
        let store = store(&place);
        let first = hold(&store);
        let locks = Path::new(&place.url);
        delete_records(locks).unwrap();
        let second = Lock::new(&store, "x").try_acquire().unwrap();
        assert!(second.fencing_token() > first.fencing_token());
        let shards = hold_shards(locks).unwrap();
        let refused = Lock::new(&store, "x").try_acquire();
        assert!(
            matches!(&refused, Err(AcquireError::Datastore(error)) if error.kind() == ErrorKind::Timeout),
            "{refused:?}"
        );
        drop(shards);
    }

    #[test]
    fn a_killed_redis_forgets_nothing_that_it_answered() {
        let folder = tempfile::tempdir().unwrap();
        let mut place = Backend::Redis.start(folder.path());
        let store = store(&place);
        let guard = hold(&store);
        let Server::Redis(server, _) = &mut place.server else {
            panic!("another server")
        };
        server.kill();
        server.start_again();
        assert!(Lock::new(&store, "x").try_acquire().is_err());
        guard.release().unwrap();
    }

    #[test]
    fn a_clock_is_behind_from_a_step_back_until_it_has_caught_up() {
        let mut clock = WallClock::default();
        assert!(!clock.is_behind());
        clock.stepped(Duration::from_secs(60), true);
        assert!(!clock.is_behind());
        clock.stepped(Duration::from_secs(5), false);
        assert!(clock.is_behind());
        clock.stepped(Duration::from_secs(5), true);
        assert!(!clock.is_behind());
    }
}
