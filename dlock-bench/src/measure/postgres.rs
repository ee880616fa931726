//! Measures an uncontended pair on PostgreSQL beside the cheapest pair of statements there, a claim
//! that is refused, and hand-overs.

use dlock_core::{AcquireOutcome, Claim, Clock, Datastore, Store};
use dlock_postgres::PostgresDatastore;
use dlock_test_servers::PostgresServer;
use postgres::{Client, NoTls};

use crate::Failure;
use crate::bench::Bench;
use crate::cores::Cores;
use crate::entry;
use crate::measure::hand_over;
use crate::measure::pairs::{self, CALL_TIMEOUT, TTL};
use crate::options::Options;
use crate::report::{Section, Table, three_digits, time};
use crate::rounds::{Operation, Subject, Threads, interleaved};
use crate::series::float;
use crate::servers::{self, Servers};

const RAW: &str = "raw pair";
const ADVISORY: &str = "advisory lock";
/// The row of the raw pair, for each thread one.
const RAW_ROWS: &str = "CREATE TABLE raw (key int PRIMARY KEY, owner text); \
     INSERT INTO raw SELECT generate_series(0, 15)";
const NO_ADVISORY_LOCK: &str = "refused, though nobody holds it";

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let server = servers::postgres();
    server.sql(RAW_ROWS);
    let mut tables = Vec::new();
    let ways = Cores::both()?;
    for cores in &ways {
        cores.pin_server(server.pid())?;
        for threads in pairs::THREADS {
            let caption = format!("PostgreSQL, {}", cores.name);
            tables.push(cores.on_client(|| table(&caption, options, &server, threads))?);
        }
    }
    if let Some(cores) = ways.last() {
        let caption = format!("A pair and a refused claim, {}", cores.name);
        tables.push(cores.on_client(|| refused(&caption, options, &server))?);
    }
    let entries = entry::beside_redis("dlock, PostgreSQL", Servers::Postgres(server))?;
    tables.extend(hand_over::tables(options, &entries)?);
    Ok(Section {
        title: "PostgreSQL".to_owned(),
        text: format!(
            "The server's data is in memory, and it forces it there as to a disk. *{RAW}*: two prepared updates of \
             one row by its primary key. *{ADVISORY}*: `pg_try_advisory_lock` and `pg_advisory_unlock`, prepared, \
             which write nothing and end with the connection. These and the round trip go through the `postgres` \
             crate. *WAL* is what the server writes to its log for one of them. A hand-over counts as in \
             *Hand-over*."
        ),
        tables,
        ..Section::default()
    })
}

fn table(
    caption: &str,
    options: &Options,
    server: &PostgresServer,
    threads: usize,
) -> Result<Table, Failure> {
    let connections = u32::try_from(threads)?;
    let store = PostgresDatastore::builder(&server.url())?.max_connections(connections);
    let store = Store::new(store.build());
    let subjects = vec![
        pairs::by_hand("one round trip (SELECT 1)", server, threads, round_trip)?,
        pairs::by_hand(RAW, server, threads, raw_pair)?,
        pairs::by_hand(ADVISORY, server, threads, advisory_pair)?,
        pairs::of_dlock(
            "`PostgresDatastore`",
            &store,
            threads,
            pairs::datastore_pair,
        ),
        pairs::of_dlock("`Lock`", &store, threads, pairs::lock_pair),
    ];
    pairs::table(caption, options, subjects, threads, &[RAW, ADVISORY])
}

fn connect(server: &PostgresServer) -> Result<Client, Failure> {
    Ok(Client::connect(&server.url(), NoTls)?)
}

fn round_trip(server: &PostgresServer, _: usize) -> Result<Operation, Failure> {
    let mut client = connect(server)?;
    let select = client.prepare("SELECT 1")?;
    Ok(Box::new(move || {
        client.query(&select, &[])?;
        Ok(())
    }))
}

fn raw_pair(server: &PostgresServer, thread: usize) -> Result<Operation, Failure> {
    let mut client = connect(server)?;
    let update = client.prepare("UPDATE raw SET owner = $2 WHERE key = $1")?;
    let key = i32::try_from(thread)?;
    Ok(Box::new(move || {
        for owner in [Some("0123456789abcdef0123456789abcdef"), None] {
            if client.execute(&update, &[&key, &owner])? != 1 {
                return Err("there is no such row".into());
            }
        }
        Ok(())
    }))
}

fn advisory_pair(server: &PostgresServer, thread: usize) -> Result<Operation, Failure> {
    let mut client = connect(server)?;
    let lock = client.prepare("SELECT pg_try_advisory_lock($1)")?;
    let unlock = client.prepare("SELECT pg_advisory_unlock($1)")?;
    let key = i64::try_from(thread)?;
    Ok(Box::new(move || {
        for statement in [&lock, &unlock] {
            if !client.query_one(statement, &[&key])?.get::<_, bool>(0) {
                return Err(NO_ADVISORY_LOCK.into());
            }
        }
        Ok(())
    }))
}

/// The time of a claim that is refused, and what it writes.
fn refused(caption: &str, options: &Options, server: &PostgresServer) -> Result<Table, Failure> {
    let open = || Ok::<_, Failure>(PostgresDatastore::open(&server.url())?);
    let held = Claim::new("dlock:held", &Clock::BOOTTIME, CALL_TIMEOUT)?;
    let AcquireOutcome::Granted(_) = open()?.acquire(&held, TTL * 120)? else {
        return Err("refused, though nobody holds it".into());
    };
    let store = open()?;
    let claim = move || -> Result<(), Failure> {
        let claim = Claim::new("dlock:held", &Clock::BOOTTIME, CALL_TIMEOUT)?;
        match store.acquire(&claim, TTL)? {
            AcquireOutcome::Held(_) => Ok(()),
            _ => Err("granted, though somebody holds it".into()),
        }
    };
    let pair = pairs::datastore_pair(&Store::new(open()?), 0);
    let mut subjects: [Box<dyn Subject>; 2] = [
        Box::new(Threads::new("`PostgresDatastore`, a pair", vec![pair])),
        Box::new(Threads::new("a refused claim", vec![Box::new(claim)])),
    ];
    let series = interleaved(&mut subjects, options.rounds(), options.turn())?;
    let mut rows = Vec::new();
    for (subject, series) in subjects.iter_mut().zip(series) {
        let before = server.sql("SELECT pg_current_wal_insert_lsn()");
        let turn = subject.turn(options.turn())?;
        let written = format!("SELECT pg_current_wal_insert_lsn() - '{before}'::pg_lsn");
        let written: u64 = server.sql(&written).parse()?;
        rows.push(vec![
            series.name.clone(),
            time(series.quantile(0.5)),
            time(series.quantile(0.99)),
            three_digits(float(written) / float(turn.operations)),
        ]);
    }
    Ok(Table {
        caption: caption.to_owned(),
        head: ["", "median", "p99", "bytes of WAL"]
            .map(str::to_owned)
            .to_vec(),
        rows,
    })
}
