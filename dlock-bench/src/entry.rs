//! Who contends where.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use dlock_testkit::servers::{MemcachedServer, RedisServer};

use crate::Failure;
use crate::by_hand::{ByHand, is_pong, packed};
use crate::contender::now;
use crate::measure::wait_until_grown_up;
use crate::options::Options;
use crate::rival::Rival;
use crate::rounds::{Operation, Threads};
use crate::stage::Stage;

/// A rival, and where it keeps its locks.
pub(crate) struct Entry {
    pub(crate) rival: Rival,
    pub(crate) stage: Stage,
}

impl Entry {
    /// How many commands clients have sent so far; `None` where there is no server.
    pub(crate) fn commands(&self) -> Option<u64> {
        self.stage.commands(self.rival.plain)
    }
}

/// dlock on each of its stores, and the peers. The first one is on Redis.
pub(crate) fn all(options: &Options) -> Result<Vec<Entry>, Failure> {
    let redis = || Stage::Redis(RedisServer::start());
    let memcached = MemcachedServer::start();
    wait_until_grown_up(&memcached)?;
    let memcached = Stage::Memcached(memcached);
    let folder = Stage::Folder(tempfile::tempdir()?);
    let entry = |rival, stage| Entry { rival, stage };
    let mut entries = vec![
        entry(Rival::dlock("dlock, Redis")?, redis()),
        entry(Rival::dlock("dlock, memcached")?, memcached),
        entry(Rival::dlock("dlock, file")?, folder),
    ];
    entries.extend(Rival::rslock(options)?.map(|rival| entry(rival, redis())));
    Ok(entries)
}

/// A PING to the first of them, over and over: the least that a message takes.
pub(crate) fn round_trip(entries: &[Entry]) -> Result<Threads, Failure> {
    Ok(Threads::new("PING", vec![ping(entries)?]))
}

/// The same, each after a pause: a core that sleeps takes a while to begin.
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
    let Some(Stage::Redis(server)) = entries.first().map(|entry| &entry.stage) else {
        return Err("the first entry is not on Redis".into());
    };
    let by_hand = Arc::new(ByHand::to(server.address(), 1)?);
    let ping = packed(&["PING"]);
    Ok(Box::new(move || Ok(by_hand.redis(&ping, is_pong)?)))
}
