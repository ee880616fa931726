//! The competitors on their stores.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use dlock_test_servers::{MemcachedServer, RedisServer};

use crate::Failure;
use crate::competitor::Competitor;
use crate::contender::now;
use crate::options::Options;
use crate::raw_client::{RawClient, is_pong, packed};
use crate::rounds::{Operation, Threads};
use crate::servers::{Servers, wait_until_it_grants};

/// A competitor, and the store of its locks.
pub(crate) struct Entry {
    pub(crate) competitor: Competitor,
    pub(crate) servers: Servers,
}

impl Entry {
    /// The number of commands that clients have sent so far; `None` without a server.
    pub(crate) fn commands(&self) -> Option<u64> {
        self.servers.commands(self.competitor.plain)
    }
}

/// dlock on each of its stores, and the peers. The first entry is on Redis.
pub(crate) fn all(options: &Options) -> Result<Vec<Entry>, Failure> {
    let redis = || Servers::Redis(RedisServer::start());
    let memcached = MemcachedServer::start();
    wait_until_it_grants(&memcached)?;
    let memcached = Servers::Memcached(memcached);
    let folder = Servers::Folder(tempfile::tempdir()?);
    let entry = |competitor, servers| Entry {
        competitor,
        servers,
    };
    let mut entries = vec![
        entry(Competitor::dlock("dlock, Redis")?, redis()),
        entry(Competitor::dlock("dlock, memcached")?, memcached),
        entry(Competitor::dlock("dlock, file")?, folder),
    ];
    entries.extend(Competitor::rslock(options)?.map(|competitor| entry(competitor, redis())));
    Ok(entries)
}

/// dlock on Redis and on one other store.
pub(crate) fn beside_redis(name: &'static str, servers: Servers) -> Result<[Entry; 2], Failure> {
    let entry = |name, servers| {
        let competitor = Competitor::dlock(name)?;
        Ok::<_, Failure>(Entry {
            competitor,
            servers,
        })
    };
    let redis = Servers::Redis(RedisServer::start());
    Ok([entry("dlock, Redis", redis)?, entry(name, servers)?])
}

/// Repeated PINGs to the server of the first entry: the least time of a message.
pub(crate) fn round_trip(entries: &[Entry]) -> Result<Threads, Failure> {
    Ok(Threads::new("PING", vec![ping(entries)?]))
}

/// The same with a pause before each: an idle core takes a while to wake up.
pub(crate) fn rested_round_trips(
    entries: &[Entry],
    pause: Duration,
    count: usize,
) -> Result<Vec<u64>, Failure> {
    let mut ping = ping(entries)?;
    ping()?;
    let rested = |_| {
        thread::sleep(pause);
        let start = now();
        ping()?;
        Ok(now() - start)
    };
    (0..count).map(rested).collect()
}

fn ping(entries: &[Entry]) -> Result<Operation, Failure> {
    let Some(Servers::Redis(server)) = entries.first().map(|entry| &entry.servers) else {
        return Err("the first entry is not on Redis".into());
    };
    let raw_client = Arc::new(RawClient::to(server.address(), 1)?);
    let ping = packed(&["PING"]);
    Ok(Box::new(move || Ok(raw_client.redis(&ping, is_pong)?)))
}
