//! Measures an uncontended pair on memcached.

use std::sync::Arc;
use std::time::Duration;

use dlock_core::{Claim, Clock, Store};
use dlock_memcache::MemcacheDatastore;
use dlock_test_servers::MemcachedServer;

use crate::Failure;
use crate::bench::Bench;
use crate::cores::Cores;
use crate::measure::pairs;
use crate::options::Options;
use crate::raw_client::RawClient;
use crate::report::{Section, Table};
use crate::rounds::{Operation, Subject, Threads};
use crate::servers::wait_until_it_grants;

const RAW: &str = "raw pair";

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let server = MemcachedServer::start();
    let mut tables = Vec::new();
    wait_until_it_grants(&server)?;
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
            "*{RAW}*: `ms … ME c` with a value as long as dlock's, and `md … C` with the number that came back, \
             through the same pool. Both take two round trips, as dlock's pair does. (If a lock is held for longer \
             than 0.2 s, the renewal worker checks it once, in the background.)"
        ),
        tables,
        ..Section::default()
    })
}

fn table(
    caption: &str,
    options: &Options,
    server: &MemcachedServer,
    threads: usize,
) -> Result<Table, Failure> {
    let connections = u32::try_from(threads)?;
    let raw_client = Arc::new(RawClient::to(server.address(), connections)?);
    let store = MemcacheDatastore::builder(&server.url())?
        .max_connections(connections)
        .build();
    let store = Store::new(store);
    // As long as what dlock stores: an owner token, two numbers, the holder.
    let claim = Claim::new(pairs::key(0), &Clock::BOOTTIME, Duration::from_secs(10))?;
    let value = format!("{} 0 0 {}", claim.owner(), claim.holder());
    let each = |name, pair: &dyn Fn(usize) -> Operation| -> Box<dyn Subject> {
        Box::new(Threads::new(name, (0..threads).map(pair).collect()))
    };
    let subjects = vec![
        each("one round trip (`mn`)", &|_| round_trip(&raw_client)),
        each(RAW, &|thread| raw_pair(&raw_client, &value, thread)),
        each("`MemcacheDatastore`", &|thread| {
            pairs::datastore_pair(&store, thread)
        }),
        each("`Lock`", &|thread| pairs::lock_pair(&store, thread)),
    ];
    pairs::table(caption, options, subjects, threads, &[RAW])
}

fn round_trip(raw_client: &Arc<RawClient>) -> Operation {
    let raw_client = Arc::clone(raw_client);
    Box::new(move || {
        raw_client.memcached(b"mn\r\n", |answer| (answer == b"MN").then_some(()))?;
        Ok(())
    })
}

fn raw_pair(raw_client: &Arc<RawClient>, value: &str, thread: usize) -> Operation {
    let raw_client = Arc::clone(raw_client);
    let key = format!("raw:job-{thread}");
    let add = format!("ms {key} {} ME T31 c\r\n{value}\r\n", value.len());
    let delete = format!("md {key} C");
    Box::new(move || {
        let number = raw_client.memcached(add.as_bytes(), |answer| {
            std::str::from_utf8(answer.strip_prefix(b"HD c")?)
                .ok()?
                .parse::<u64>()
                .ok()
        })?;
        let delete = format!("{delete}{number}\r\n");
        raw_client.memcached(delete.as_bytes(), |answer| (answer == b"HD").then_some(()))?;
        Ok(())
    })
}
