//! Who waits is queued in the database, and woken by the release before its turn.

use std::env;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{Cancel, Datastore, Lock, Signal, Wait};
use dlock_test_servers::{PostgresPooler, PostgresServer};

use crate::faults::imposter;
use crate::support::{LONG, acquired_for, claim, patient, until, with_schema};

/// With this set, the test of the same name as a function below is a process that waits until it is
/// killed.
const WAITS_AT: &str = "DLOCK_TEST_POSTGRES_WAITS_AT";

/// The connections that listen.
pub(crate) const LISTENING: &str = "SELECT count(*) FROM pg_stat_activity \
    WHERE application_name = 'dlock' AND pid IN (SELECT backend FROM dlock.processes)";

pub(crate) fn lock_at(url: &str) -> Lock {
    Lock::new(patient(url), "import")
}

pub(crate) fn lock(server: &PostgresServer) -> Lock {
    lock_at(&server.url())
}

pub(crate) fn waiting(server: &PostgresServer) -> usize {
    let count = server.sql("SELECT dlock.waiting('dlock:import')");
    count.parse().unwrap()
}

pub(crate) fn count(server: &PostgresServer, what: &str) -> usize {
    server
        .sql(&format!("SELECT count(*) FROM {what}"))
        .parse()
        .unwrap()
}

/// Puts a waiter of another process at the end of the queue. Its owner token is 32 times the digit.
/// The process is alive for an hour if it makes no heartbeat.
pub(crate) fn enters(server: &PostgresServer, digit: char, process: &str) {
    let owner = digit.to_string().repeat(32);
    server.sql(&format!(
        "SELECT dlock.enter('dlock:import', '{owner}', '{process}', '', dlock.now_us()); \
         UPDATE dlock.processes SET alive_until = dlock.now_us() + 3600000000 \
         WHERE process = '{process}'"
    ));
}

pub(crate) fn owner(server: &PostgresServer) -> String {
    server.sql("SELECT coalesce(owner, '') FROM dlock.locks WHERE key = 'dlock:import'")
}

#[test]
fn a_release_wakes_the_waiter_and_nothing_is_left() {
    let server = with_schema(PostgresServer::start());
    let guard = lock(&server).try_acquire().unwrap();
    let first = guard.fencing_token().unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("it waits and listens", || {
            waiting(&server) == 1 && server.sql(LISTENING) == "1"
        });
        guard.release().unwrap();
        let won = waits.join().unwrap().unwrap();
        assert!(won.fencing_token().unwrap() > first);
        let left = "SELECT expires_at - dlock.now_us() > 25000000 FROM dlock.locks";
        assert_eq!(server.sql(left), "t", "it has its whole time to live");
        won.release().unwrap();
    });
    assert_eq!(count(&server, "dlock.waiters"), 0);
    assert_eq!(owner(&server), "");
    until("the connection ends with the store", || {
        server.sql(LISTENING) == "0"
    });
}

#[test]
fn a_release_notifies_only_if_somebody_waits_and_writes_nothing_more() {
    // Its transactions would be counted.
    let server = with_schema(PostgresServer::start_with(&[("autovacuum", "off")]));
    let other = Lock::new(patient(&server.url()), "other");
    let next_transaction = || -> u64 {
        let next = server.sql("SELECT pg_snapshot_xmax(pg_current_snapshot())");
        next.parse().unwrap()
    };
    drop(other.try_acquire().unwrap());
    let before = next_transaction();
    for _ in 0..10 {
        other.try_acquire().unwrap().release().unwrap();
    }
    assert_eq!(next_transaction() - before, 20);
    let size = "SELECT pg_relation_size('dlock.waiters') + pg_relation_size('dlock.processes')";
    assert_eq!(server.sql(size), "0");

    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server).acquire_within(LONG).map(drop));
        until("it waits and listens", || {
            waiting(&server) == 1 && server.sql(LISTENING) == "1"
        });
        let process = server.sql("SELECT process FROM dlock.processes");
        let mut listener = server.session();
        listener.run(&format!("LISTEN dlock_{process}"));
        for _ in 0..10 {
            other.try_acquire().unwrap().release().unwrap();
        }
        let heard = listener.run("SELECT 1");
        assert!(!heard.contains("notification"), "{heard}");
        guard.release().unwrap();
        waits.join().unwrap().unwrap();
        // psql reports what has arrived after the next statement.
        let heard = listener.run("SELECT 1") + &listener.run("SELECT 1");
        assert_eq!(heard.matches("notification").count(), 1, "{heard}");
    });
}

#[test]
fn all_waiters_of_a_store_share_one_connection() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    let guard = Lock::new(store.clone(), "import").try_acquire().unwrap();
    thread::scope(|scope| {
        for number in 0..20 {
            let lock = Lock::new(store.clone(), "import");
            scope.spawn(move || lock.acquire_within(LONG * 5).unwrap().release().unwrap());
            until("it waits", || waiting(&server) == number + 1);
        }
        until("they listen", || server.sql(LISTENING) == "1");
        assert_eq!(count(&server, "dlock.processes"), 1);
        guard.release().unwrap();
    });
    assert_eq!(count(&server, "dlock.waiters"), 0);
}

#[test]
fn each_release_hands_the_lock_to_the_waiter_that_came_first() {
    let server = with_schema(PostgresServer::start());
    let guard = lock(&server).try_acquire().unwrap();
    for digit in ['c', 'a', 'b'] {
        enters(&server, digit, "others");
    }
    guard.release().unwrap();
    for digit in ['c', 'a', 'b'] {
        let token = digit.to_string().repeat(32);
        assert_eq!(owner(&server), token);
        // It may be later than 1.2 s on a busy machine, and nobody else has claimed meanwhile.
        let claims = format!(
            "SELECT o_outcome FROM dlock.acquire('dlock:import', '{token}', 3600000000, '', \
             dlock.now_us() + 60000000, 1000, 'others')"
        );
        assert_eq!(server.sql(&claims), "1");
        let frees = format!("SELECT dlock.release('dlock:import', '{token}', 1000)");
        assert_eq!(server.sql(&frees), "t");
    }
    assert_eq!(owner(&server), "");
    assert_eq!(count(&server, "dlock.waiters"), 0);
}

/// The test that a child process runs: it waits for the lock until it is killed.
#[test]
fn waits_until_it_is_killed() {
    let Ok(url) = env::var(WAITS_AT) else { return };
    drop(lock_at(&url).acquire_within(Duration::from_secs(600)));
}

fn waits_elsewhere(url: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["queue::waits_until_it_is_killed", "--exact"])
        .env(WAITS_AT, url)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn killed_waiters_cost_the_next_nothing() {
    let server = with_schema(PostgresServer::start());
    let guard = lock(&server).try_acquire().unwrap();
    let killed: Vec<_> = (0..3)
        .map(|number| {
            let child = waits_elsewhere(&server.url());
            until("it waits", || waiting(&server) == number + 1);
            child
        })
        .collect();
    until("they listen", || server.sql(LISTENING) == "3");
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server).acquire_within(LONG).map(drop));
        until("it waits", || waiting(&server) == 4);
        killed.into_iter().for_each(kill);
        // Long before their heartbeats are missed.
        until("they count no more", || waiting(&server) == 1);
        guard.release().unwrap();
        waits.join().unwrap().unwrap();
    });
    assert_eq!(
        count(&server, "dlock.waiters"),
        0,
        "none was handed the lock"
    );
}

#[test]
fn killed_waiters_behind_which_nobody_waits_keep_no_key() {
    let server = with_schema(PostgresServer::start());
    let guard = lock(&server).try_acquire().unwrap();
    let child = waits_elsewhere(&server.url());
    until("it waits and listens", || {
        waiting(&server) == 1 && server.sql(LISTENING) == "1"
    });
    kill(child);
    until("it counts no more", || waiting(&server) == 0);
    guard.release().unwrap();
    assert_eq!(owner(&server), "");
    lock(&server).try_acquire().unwrap().release().unwrap();
}

#[test]
fn a_process_without_heartbeats_is_passed_over() {
    let server = with_schema(PostgresServer::start());
    let guard = lock(&server).try_acquire().unwrap();
    // In one transaction: it is soon dead.
    let waiting_then = server.sql(
        "SELECT dlock.enter('dlock:import', 'silent', 'silent', '', dlock.now_us()); \
         SELECT dlock.waiting('dlock:import')",
    );
    assert_eq!(waiting_then.lines().last(), Some("1"));
    until("it is dead", || waiting(&server) == 0);
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server).acquire_within(LONG).map(drop));
        until("the next waits", || waiting(&server) == 1);
        guard.release().unwrap();
        waits.join().unwrap().unwrap();
    });
    assert_eq!(
        count(&server, "dlock.waiters"),
        0,
        "it was not handed the lock"
    );
}

#[test]
fn a_waiter_that_does_not_claim_in_its_turn_is_followed_by_the_next() {
    let server = with_schema(PostgresServer::start());
    let guard = lock(&server).try_acquire().unwrap();
    enters(&server, 'a', "stopped");
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server).acquire_within(LONG).map(drop));
        until("the next waits", || waiting(&server) == 2);
        // In one transaction: its turn is soon over.
        let owner_then = server.sql(&format!(
            "SELECT dlock.release('dlock:import', '{}', 1000); SELECT owner FROM dlock.locks",
            owner(&server)
        ));
        assert_eq!(owner_then.lines().last(), Some("a".repeat(32).as_str()));
        waits.join().unwrap().unwrap();
    });
    assert!(guard.release().is_err(), "it was released already");
}

#[test]
fn what_is_handed_to_a_waiter_that_has_gone_is_given_back() {
    let server = with_schema(PostgresServer::start());
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server).acquire_within(LONG).map(drop));
        until("it waits and listens", || {
            waiting(&server) == 1 && server.sql(LISTENING) == "1"
        });
        // As if a copy of a claim had come after its waiter had left.
        let process = server.sql("SELECT process FROM dlock.processes");
        enters(&server, 'b', &process);
        server.sql("UPDATE dlock.waiters SET place = 0 WHERE owner LIKE 'bb%'");
        guard.release().unwrap();
        waits.join().unwrap().unwrap();
    });
    // One that missed its turn would still be there.
    assert_eq!(count(&server, "dlock.waiters"), 0);
}

#[test]
fn a_waiter_whose_connection_broke_listens_again() {
    let server = with_schema(PostgresServer::start());
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server).acquire_within(LONG).map(drop));
        until("it listens", || server.sql(LISTENING) == "1");
        let backend = "SELECT backend FROM dlock.processes";
        let before = server.sql(backend);
        server.sql("SELECT pg_terminate_backend(backend) FROM dlock.processes");
        until("it listens again", || {
            server.sql(LISTENING) == "1" && server.sql(backend) != before
        });
        assert_eq!(waiting(&server), 1);
        guard.release().unwrap();
        waits.join().unwrap().unwrap();
    });
}

#[test]
fn waiters_queue_again_after_a_crash_of_the_server() {
    let mut server = with_schema(PostgresServer::start());
    let url = server.url();
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock_at(&url).acquire_within(LONG * 2).map(drop));
        until("it waits", || waiting(&server) == 1);
        server.restart();
        until("it waits again", || waiting(&server) == 1);
        guard.release().unwrap();
        waits.join().unwrap().unwrap();
    });
}

#[test]
fn through_a_pooler_nobody_listens_and_waiters_are_served_in_order() {
    let server = with_schema(PostgresServer::start());
    let pooler = PostgresPooler::before(&server);
    let guard = lock_at(&pooler.url()).try_acquire().unwrap();
    thread::scope(|scope| {
        let url = pooler.url();
        let first = scope.spawn(move || lock_at(&url).acquire_within(LONG));
        until("the first waits", || waiting(&server) == 1);
        let direct = scope.spawn(|| lock(&server).acquire_within(LONG).map(drop));
        until("the second waits and listens", || {
            waiting(&server) == 2 && server.sql(LISTENING) == "1"
        });
        // It stays alive by its calls.
        let beats = "SELECT alive_until FROM dlock.processes WHERE backend = 0";
        let before = server.sql(beats);
        until("its heart beats", || {
            !before.is_empty() && server.sql(beats) != before
        });
        let channels = pooler.sql("SELECT count(*) FROM pg_listening_channels()");
        assert_eq!(channels, "0");
        guard.release().unwrap();
        let guard = first.join().unwrap().unwrap();
        assert!(!direct.is_finished());
        guard.release().unwrap();
        direct.join().unwrap().unwrap();
    });
}

#[test]
fn a_wait_that_is_cancelled_leaves_the_queue() {
    let server = with_schema(PostgresServer::start());
    let guard = lock(&server).try_acquire().unwrap();
    let cancel = Cancel::new();
    let server = &server;
    thread::scope(|scope| {
        let wait = Wait::within(LONG).cancelled_by(&cancel);
        let waits = scope.spawn(move || lock(server).acquire_with(&wait).map(drop));
        until("it waits", || waiting(server) == 1);
        cancel.cancel();
        assert!(waits.join().unwrap().is_err());
    });
    assert_eq!(count(server, "dlock.waiters"), 0);
    guard.release().unwrap();
    assert_eq!(owner(server), "");
}

#[test]
fn to_begin_and_to_end_a_watch_waits_for_no_server() {
    let silent = format!("postgres://postgres@{}/postgres", imposter(b""));
    let store = patient(&silent);
    let started = Instant::now();
    let waiter = claim("dlock:x").with_deadline(claim("dlock:x").not_after());
    let watch = store.watch(&waiter, &Signal::new()).unwrap();
    assert!(watch.is_some());
    drop(watch);
    assert!(started.elapsed() < LONG / 2);
}

#[test]
fn waiters_are_handed_a_lock_whose_lease_has_ended() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    drop(acquired_for(&store, "dlock:import", Duration::from_secs(2)));
    thread::scope(|scope| {
        for _ in 0..3 {
            let lock = lock(&server);
            scope.spawn(move || lock.acquire_within(LONG * 5).unwrap().release().unwrap());
        }
    });
    assert_eq!(count(&server, "dlock.waiters"), 0);
}
