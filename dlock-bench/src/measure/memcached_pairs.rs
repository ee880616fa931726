//! What an uncontended pair costs on memcached.

use std::sync::Arc;
use std::time::Duration;

use dlock_core::{Claim, Clock, Lock, Store};
use dlock_memcache::MemcacheDatastore;
use dlock_testkit::servers::MemcachedServer;

use crate::Failure;
use crate::bench::Bench;
use crate::by_hand::ByHand;
use crate::cores::Cores;
use crate::measure::pairs;
use crate::options::Options;
use crate::report::{Section, Table};
use crate::rounds::{Operation, Subject, Threads};

const RAW: &str = "raw pair";
/// A fresh server grants nothing for its first seconds.
const GROWN_UP_WITHIN: Duration = Duration::from_secs(10);

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let server = MemcachedServer::start();
    let mut tables = Vec::new();
    wait_until_grown_up(&server)?;
    for cores in Cores::both()? {
        cores.pin_server(server.pid())?;
        for threads in pairs::THREADS {
            let caption = format!("memcached, {}", cores.name);
            tables.push(cores.on_client(|| table(&caption, options, &server, threads))?);
        }
    }
    Ok(Section {
        title: "A pair on memcached".to_owned(),
        text: format!(
            "*{RAW}*: `ms … ME c` with a value as long as dlock's, and `md … C` with the number that came back, through the same pool. Two \
             round trips, as dlock's. (A lock that is held for longer than 0.2 s is looked at once more, beside the caller.)"
        ),
        tables,
        ..Section::default()
    })
}

pub(crate) fn wait_until_grown_up(server: &MemcachedServer) -> Result<(), Failure> {
    let lock = Lock::new(MemcacheDatastore::connect(&server.url())?, "grown-up");
    lock.acquire_within(GROWN_UP_WITHIN)?.release()?;
    Ok(())
}

fn table(
    caption: &str,
    options: &Options,
    server: &MemcachedServer,
    threads: usize,
) -> Result<Table, Failure> {
    let connections = u32::try_from(threads)?;
    let by_hand = Arc::new(ByHand::to(server.address(), connections)?);
    let store = MemcacheDatastore::builder(&server.url())?
        .max_connections(connections)
        .build();
    let store = Store::new(store);
    // As long as what dlock stores: an owner token, two numbers, the holder.
    let claim = Claim::new(pairs::key(0), &Clock::BOOTTIME, GROWN_UP_WITHIN)?;
    let value = format!("{} 0 0 {}", claim.owner(), claim.holder());
    let each = |name, pair: &dyn Fn(usize) -> Operation| -> Box<dyn Subject> {
        Box::new(Threads::new(name, (0..threads).map(pair).collect()))
    };
    let subjects = vec![
        each("one round trip (`mn`)", &|_| round_trip(&by_hand)),
        each(RAW, &|thread| raw_pair(&by_hand, &value, thread)),
        each("`MemcacheDatastore`", &|thread| {
            pairs::datastore_pair(&store, thread)
        }),
        each("`Lock`", &|thread| pairs::lock_pair(&store, thread)),
    ];
    pairs::table(caption, options, subjects, threads, &[RAW])
}

fn round_trip(by_hand: &Arc<ByHand>) -> Operation {
    let by_hand = Arc::clone(by_hand);
    Box::new(move || {
        by_hand.memcached(b"mn\r\n", |answer| (answer == b"MN").then_some(()))?;
        Ok(())
    })
}

fn raw_pair(by_hand: &Arc<ByHand>, value: &str, thread: usize) -> Operation {
    let by_hand = Arc::clone(by_hand);
    let key = format!("raw:job-{thread}");
    let add = format!("ms {key} {} ME T31 c\r\n{value}\r\n", value.len());
    let delete = format!("md {key} C");
    Box::new(move || {
        let number = by_hand.memcached(add.as_bytes(), |answer| {
            std::str::from_utf8(answer.strip_prefix(b"HD c")?)
                .ok()?
                .parse::<u64>()
                .ok()
        })?;
        let delete = format!("{delete}{number}\r\n");
        by_hand.memcached(delete.as_bytes(), |answer| (answer == b"HD").then_some(()))?;
        Ok(())
    })
}
