//! What an uncontended pair costs on Redis, from the bare round trip up to `Lock`.

use std::sync::Arc;
use std::time::Duration;

use dlock_core::{Attempt, Claim, Clock, Datastore, Lease, Released, Store};
use dlock_redis::RedisDatastore;
use dlock_testkit::servers::RedisServer;

use crate::Failure;
use crate::bench::Bench;
use crate::by_hand::{ByHand, Expected, is_pong, packed};
use crate::cores::Cores;
use crate::measure::pairs::{self, TTL};
use crate::measure::server_time;
use crate::options::Options;
use crate::report::{Section, Table};
use crate::rival::Rival;
use crate::rival_pairs::RivalPairs;
use crate::rounds::{Operation, Subject, Threads};
use crate::tap::Tap;

const RAW: &str = "raw pair";
const BY_HAND: &str = "dlock's scripts by hand";
const COMPARE_AND_DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
/// As long as the recorded claims must work.
const AN_HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let server = RedisServer::start();
    let rslock = Rival::rslock(options)?;
    let mut tables = Vec::new();
    let ways = Cores::both()?;
    for cores in &ways {
        cores.pin_server(server.pid())?;
        for threads in pairs::THREADS {
            let caption = format!("Redis, {}", cores.name);
            tables.push(
                cores.on_client(|| table(&caption, options, &server, threads, rslock.as_ref()))?,
            );
        }
    }
    // Where its server is now.
    if let Some(cores) = ways.last() {
        let caption = format!("The server's own time, {}", cores.name);
        tables.push(cores.on_client(|| server_time(&caption, options, &server))?);
    }
    Ok(Section {
        title: "A pair on Redis".to_owned(),
        text: format!(
            "An acquire and a release of a lock that nobody else wants, each thread its own, over TCP. *{RAW}*: `SET NX PX` and a \
             compare-and-delete script, without fencing token. *{BY_HAND}*: the very bytes that dlock sends, recorded once and sent again. \
             These and the PING are prepared bytes through the same pool and sockets as dlock's, and the reply is only compared. *The server's own \
             time* is what INFO commandstats says of its commands; that of EVALSHA is with what the script calls."
        ),
        tables,
        ..Section::default()
    })
}

fn table(
    caption: &str,
    options: &Options,
    server: &RedisServer,
    threads: usize,
    rslock: Option<&Rival>,
) -> Result<Table, Failure> {
    let connections = u32::try_from(threads)?;
    let by_hand = Arc::new(ByHand::to(server.address(), connections)?);
    let store = RedisDatastore::builder(&server.url())?
        .max_connections(connections)
        .build();
    let store = Store::new(store);
    let recorded = recorded(server, threads)?;
    let raw = raw(server, threads)?;
    let pairs = |name, requests: Vec<Vec<Step>>| -> Box<dyn Subject> {
        let one = |steps| sent(&by_hand, steps);
        Box::new(Threads::new(name, requests.into_iter().map(one).collect()))
    };
    let dlock = |name, pair: fn(&Store, usize) -> Operation| -> Box<dyn Subject> {
        let operations = (0..threads).map(|thread| pair(&store, thread));
        Box::new(Threads::new(name, operations.collect()))
    };
    let ping = vec![vec![(packed(&["PING"]), is_pong as Expected)]; threads];
    let mut subjects = vec![
        pairs("one round trip (PING)", ping),
        pairs(RAW, raw),
        pairs(BY_HAND, recorded),
        dlock("`RedisDatastore`", pairs::datastore_pair),
        dlock("`Lock`", pairs::lock_pair),
    ];
    if let (Some(rslock), 1) = (rslock, threads) {
        let pairs = RivalPairs::start(rslock, &server.url(), TTL)?;
        subjects.push(Box::new(pairs));
    }
    pairs::table(caption, options, subjects, threads, &[RAW, BY_HAND])
}

/// Where the difference between the raw pair and dlock's scripts comes from.
fn server_time(caption: &str, options: &Options, server: &RedisServer) -> Result<Table, Failure> {
    let by_hand = Arc::new(ByHand::to(server.address(), 1)?);
    let pair = |name, requests: Vec<Vec<Step>>| -> Box<dyn Subject> {
        let one = |steps| sent(&by_hand, steps);
        Box::new(Threads::new(name, requests.into_iter().map(one).collect()))
    };
    let mut subjects = [
        pair(RAW, raw(server, 1)?),
        pair(BY_HAND, recorded(server, 1)?),
    ];
    server_time::table(caption, options, server, &mut subjects)
}

/// A request, and what its reply begins with.
type Step = (Vec<u8>, Expected);

fn is_ok(reply: &[u8]) -> bool {
    reply == b"OK"
}

fn is_one(reply: &[u8]) -> bool {
    reply == b"1"
}

/// A fencing token is the time in µs.
fn is_token(reply: &[u8]) -> bool {
    reply.len() >= 16 && reply.iter().all(u8::is_ascii_digit)
}

fn sent(by_hand: &Arc<ByHand>, steps: Vec<Step>) -> Operation {
    let by_hand = Arc::clone(by_hand);
    Box::new(move || {
        for (request, expected) in &steps {
            by_hand.redis(request, *expected)?;
        }
        Ok(())
    })
}

fn raw(server: &RedisServer, threads: usize) -> Result<Vec<Vec<Step>>, Failure> {
    let hash = server
        .command(["SCRIPT", "LOAD", COMPARE_AND_DELETE])
        .text();
    let hash = hash.ok_or("no hash of the script")?;
    let token = "0123456789abcdef0123456789abcdef";
    let ttl = TTL.as_millis().to_string();
    let pair = |thread| {
        let key = format!("raw:job-{thread}");
        vec![
            (
                packed(&["SET", &key, token, "NX", "PX", &ttl]),
                is_ok as Expected,
            ),
            (packed(&["EVALSHA", &hash, "1", &key, token]), is_one),
        ]
    };
    Ok((0..threads).map(pair).collect())
}

/// What dlock sends for a pair.
fn recorded(server: &RedisServer, threads: usize) -> Result<Vec<Vec<Step>>, Failure> {
    let tap = Tap::before(server.address())?;
    let store = RedisDatastore::builder(&format!("redis://{}/", tap.address()))?
        .call_timeout(AN_HOUR)
        .build();
    let mut pair = |thread: usize| -> Result<Vec<Step>, Failure> {
        let key = format!("recorded:job-{thread}");
        // The second time the connection is open and the server knows the scripts.
        let mut steps = Vec::new();
        for _ in 0..2 {
            tap.take();
            let claim = Claim::new(&*key, &Clock::BOOTTIME, AN_HOUR)?;
            let Attempt::Granted(grant) = store.acquire(&claim, TTL)? else {
                return Err("refused, though nobody holds it".into());
            };
            let acquire = tap.take();
            if store.release(&Lease::new(claim, grant))? != Released::Ours {
                return Err("lost, though nobody else wants it".into());
            }
            steps = vec![(acquire, is_token as Expected), (tap.take(), is_one)];
        }
        Ok(steps)
    };
    (0..threads).map(&mut pair).collect()
}
