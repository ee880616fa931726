//! Measures an uncontended pair on Redis, from the bare round trip up to `Lock`.

use std::sync::Arc;
use std::time::Duration;

use dlock_core::{AcquireOutcome, Claim, Clock, Datastore, Lease, ReleaseOutcome, Store};
use dlock_redis::RedisDatastore;
use dlock_test_servers::RedisServer;

use crate::Failure;
use crate::bench::Bench;
use crate::competitor::Competitor;
use crate::competitor_pairs::CompetitorPairs;
use crate::cores::Cores;
use crate::measure::pairs::{self, TTL};
use crate::measure::server_time;
use crate::options::Options;
use crate::raw_client::{Expected, RawClient, is_pong, packed};
use crate::recording_proxy::RecordingProxy;
use crate::report::{Section, Table};
use crate::rounds::{Operation, Subject, Threads};

const RAW: &str = "raw pair";
const RAW_CLIENT: &str = "dlock's scripts by hand";
const COMPARE_AND_DELETE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";
/// The time for which the recorded claims must work.
const AN_HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let server = RedisServer::start();
    let rslock = Competitor::rslock(options)?;
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
    // The core where the server is now.
    if let Some(cores) = ways.last() {
        let caption = format!("The server's own time, {}", cores.name);
        tables.push(cores.on_client(|| server_time(&caption, options, &server))?);
    }
    Ok(Section {
        title: "A pair on Redis".to_owned(),
        text: format!(
            "Each thread acquires and releases a lock of its own, over TCP. *{RAW}*: `SET NX PX` and a \
             compare-and-delete script, without fencing token. *{RAW_CLIENT}*: the bytes that dlock sends, recorded \
             once and sent again. The PING, the raw pair and the scripts by hand are prepared bytes through the same \
             pool and sockets as dlock's, and their replies are only compared. *The server's own time* is what INFO \
             commandstats reports for the commands; that of EVALSHA includes the commands that the script calls."
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
    rslock: Option<&Competitor>,
) -> Result<Table, Failure> {
    let connections = u32::try_from(threads)?;
    let raw_client = Arc::new(RawClient::to(server.address(), connections)?);
    let store = RedisDatastore::builder(&server.url())?
        .max_connections(connections)
        .build();
    let store = Store::new(store);
    let recorded = recorded(server, threads)?;
    let raw = raw(server, threads)?;
    let pairs = |name, requests: Vec<Vec<Exchange>>| -> Box<dyn Subject> {
        let one = |exchanges| sent(&raw_client, exchanges);
        Box::new(Threads::new(name, requests.into_iter().map(one).collect()))
    };
    let ping = vec![vec![(packed(&["PING"]), is_pong as Expected)]; threads];
    let mut subjects = vec![
        pairs("one round trip (PING)", ping),
        pairs(RAW, raw),
        pairs(RAW_CLIENT, recorded),
        pairs::of_dlock("`RedisDatastore`", &store, threads, pairs::datastore_pair),
        pairs::of_dlock("`Lock`", &store, threads, pairs::lock_pair),
    ];
    if let (Some(rslock), 1) = (rslock, threads) {
        let pairs = CompetitorPairs::start(rslock, &server.url(), TTL)?;
        subjects.push(Box::new(pairs));
    }
    pairs::table(caption, options, subjects, threads, &[RAW, RAW_CLIENT])
}

/// The server's time, which explains the difference between the raw pair and dlock's scripts.
fn server_time(caption: &str, options: &Options, server: &RedisServer) -> Result<Table, Failure> {
    let raw_client = Arc::new(RawClient::to(server.address(), 1)?);
    let pair = |name, requests: Vec<Vec<Exchange>>| -> Box<dyn Subject> {
        let one = |exchanges| sent(&raw_client, exchanges);
        Box::new(Threads::new(name, requests.into_iter().map(one).collect()))
    };
    let mut subjects = [
        pair(RAW, raw(server, 1)?),
        pair(RAW_CLIENT, recorded(server, 1)?),
    ];
    server_time::table(caption, options, server, &mut subjects)
}

/// A request, and the check of its reply.
type Exchange = (Vec<u8>, Expected);

fn is_ok(reply: &[u8]) -> bool {
    reply == b"OK"
}

fn is_one(reply: &[u8]) -> bool {
    reply == b"1"
}

/// A fencing token is the time in µs, so a large number.
fn is_token(reply: &[u8]) -> bool {
    reply.len() >= 16 && reply.iter().all(u8::is_ascii_digit)
}

fn sent(raw_client: &Arc<RawClient>, exchanges: Vec<Exchange>) -> Operation {
    let raw_client = Arc::clone(raw_client);
    Box::new(move || {
        for (request, expected) in &exchanges {
            raw_client.redis(request, *expected)?;
        }
        Ok(())
    })
}

fn raw(server: &RedisServer, threads: usize) -> Result<Vec<Vec<Exchange>>, Failure> {
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

/// Records the requests of dlock for a pair.
fn recorded(server: &RedisServer, threads: usize) -> Result<Vec<Vec<Exchange>>, Failure> {
    let recording_proxy = RecordingProxy::before(server.address())?;
    let store = RedisDatastore::builder(&format!("redis://{}/", recording_proxy.address()))?
        .call_timeout(AN_HOUR)
        .build();
    let mut pair = |thread: usize| -> Result<Vec<Exchange>, Failure> {
        let key = format!("recorded:job-{thread}");
        // Record the second pair: then the connection is open and the server has the scripts.
        let mut exchanges = Vec::new();
        for _ in 0..2 {
            recording_proxy.take();
            let claim = Claim::new(&*key, &Clock::BOOTTIME, AN_HOUR)?;
            let AcquireOutcome::Granted(grant) = store.acquire(&claim, TTL)? else {
                return Err("refused, though nobody holds it".into());
            };
            let acquire = recording_proxy.take();
            if store.release(&Lease::new(claim, grant))? != ReleaseOutcome::Released {
                return Err("lost, though nobody else wants it".into());
            }
            exchanges = vec![
                (acquire, is_token as Expected),
                (recording_proxy.take(), is_one),
            ];
        }
        Ok(exchanges)
    };
    (0..threads).map(&mut pair).collect()
}
