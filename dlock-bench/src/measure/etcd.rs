//! Measures an uncontended pair on etcd beside the cheapest requests that make one there, and
//! hand-overs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use dlock_core::Store;
use dlock_etcd::EtcdDatastore;
use dlock_test_servers::EtcdServer;

use crate::Failure;
use crate::bench::Bench;
use crate::cores::Cores;
use crate::entry;
use crate::measure::hand_over;
use crate::measure::pairs;
use crate::options::Options;
use crate::report::{Section, Table};
use crate::rounds::Operation;
use crate::servers::Servers;

const RAW: &str = "raw pair";
/// The keys `raw-0` and so on, as the gateway writes bytes.
const RAW_KEYS: [&str; 4] = ["cmF3LTA=", "cmF3LTE=", "cmF3LTI=", "cmF3LTM="];
/// Threads; etcd has one log for all.
const THREADS: [usize; 2] = [1, 4];

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let server = EtcdServer::start();
    let mut tables = Vec::new();
    for cores in Cores::both()? {
        cores.pin_server(server.pid())?;
        for threads in THREADS {
            let caption = format!("etcd, {}", cores.name);
            tables.push(cores.on_client(|| table(&caption, options, &server, threads))?);
        }
    }
    let entries = entry::beside_redis("dlock, etcd", Servers::Etcd(server))?;
    tables.extend(hand_over::tables(options, &entries)?);
    Ok(Section {
        title: "etcd".to_owned(),
        text: format!(
            "One node, whose data is in memory. *{RAW}*: a lease granted, a transaction that puts a free key with it, \
             and the key deleted, by prepared requests to the same JSON gateway over one connection; the lease ends \
             by itself. dlock also reads the key first and ends the lease. A hand-over counts as in *Hand-over*."
        ),
        tables,
        ..Section::default()
    })
}

fn table(
    caption: &str,
    options: &Options,
    server: &EtcdServer,
    threads: usize,
) -> Result<Table, Failure> {
    let connections = u32::try_from(threads)?;
    let store = EtcdDatastore::builder(&server.url())?.max_connections(connections);
    let store = Store::new(store.build());
    let subjects = vec![
        pairs::by_hand("one round trip (a read)", server, threads, round_trip)?,
        pairs::by_hand(RAW, server, threads, raw_pair)?,
        pairs::of_dlock("`EtcdDatastore`", &store, threads, pairs::datastore_pair),
        pairs::of_dlock("`Lock`", &store, threads, pairs::lock_pair),
    ];
    pairs::table(caption, options, subjects, threads, &[RAW])
}

fn round_trip(server: &EtcdServer, thread: usize) -> Result<Operation, Failure> {
    let mut gateway = Gateway::connect(server)?;
    let read = format!(r#"{{"key":"{}"}}"#, RAW_KEYS[thread]);
    Ok(Box::new(move || {
        gateway.post("/v3/kv/range", &read)?;
        Ok(())
    }))
}

fn raw_pair(server: &EtcdServer, thread: usize) -> Result<Operation, Failure> {
    let mut gateway = Gateway::connect(server)?;
    let key = RAW_KEYS[thread];
    let delete = format!(r#"{{"key":"{key}"}}"#);
    Ok(Box::new(move || {
        let lease = gateway.post("/v3/lease/grant", r#"{"TTL":"30"}"#)?;
        let (_, rest) = lease.split_once(r#""ID":""#).ok_or("no lease")?;
        let lease = rest.split('"').next().unwrap_or_default();
        let put = format!(
            r#"{{"compare":[{{"key":"{key}","target":"CREATE","create_revision":"0"}}],"success":[{{"request_put":{{"key":"{key}","value":"{key}","lease":"{lease}"}}}}]}}"#
        );
        if !gateway
            .post("/v3/kv/txn", &put)?
            .contains(r#""succeeded":true"#)
        {
            return Err("refused, though nobody holds it".into());
        }
        let deleted = gateway.post("/v3/kv/deleterange", &delete)?;
        match deleted.contains(r#""deleted":"1""#) {
            true => Ok(()),
            false => Err("lost, though nobody else wants it".into()),
        }
    }))
}

/// A connection to the JSON gateway.
struct Gateway {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Gateway {
    fn connect(server: &EtcdServer) -> Result<Self, Failure> {
        let stream = TcpStream::connect(server.address())?;
        stream.set_nodelay(true)?;
        Ok(Gateway {
            stream: BufReader::new(stream),
            host: server.address().to_string(),
        })
    }

    /// Sends a request, and returns the body of the answer.
    fn post(&mut self, path: &str, body: &str) -> Result<String, Failure> {
        let (host, length) = (&self.host, body.len());
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut length = 0;
        let mut line = String::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(String::from_utf8(body)?)
    }
}
