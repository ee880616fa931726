//! The queue of waiters beside locked rows, lost connections and processes that ended.

use std::thread;
use std::time::{Duration, Instant};

use dlock_core::LockGuard;
use dlock_test_servers::PostgresServer;

use crate::queue::{LISTENING, count, enters, lock, lock_at, owner, waiting};
use crate::support::{LONG, RowLock, until, with_schema};

#[test]
fn the_queue_keeps_its_order_while_a_transaction_with_a_checked_token_is_open() {
    let server = with_schema(PostgresServer::start());
    let guard = lock(&server).try_acquire().unwrap();
    let token = guard.fencing_token().unwrap();
    thread::scope(|scope| {
        let first = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("the first waits and listens", || {
            waiting(&server) == 1 && server.sql(LISTENING) == "1"
        });
        let second = scope.spawn(|| lock(&server).acquire_within(LONG).map(drop));
        until("the second waits and listens", || {
            waiting(&server) == 2 && server.sql(LISTENING) == "2"
        });
        let mut writer = server.session();
        writer.run(&format!(
            "BEGIN; SELECT dlock.check('dlock:import', {token})"
        ));
        guard.release().unwrap();
        // Longer than a waiter has to claim what it was handed.
        thread::sleep(Duration::from_millis(1800));
        assert!(!first.is_finished() && !second.is_finished());
        writer.run("COMMIT");
        let guard = first.join().unwrap().unwrap();
        assert!(!second.is_finished());
        guard.release().unwrap();
        second.join().unwrap().unwrap();
    });
}

#[test]
fn a_heartbeat_that_finds_the_row_locked_looks_again_soon() {
    let server = with_schema(PostgresServer::start());
    server.sql("INSERT INTO dlock.locks VALUES ('dlock:import', NULL, 1, 1, 0, '')");
    for digit in ['a', 'b'] {
        enters(&server, digit, &format!("process-{digit}"));
    }
    let row = RowLock::on(&server, "dlock:import");
    let next = |process: &str| {
        let beat = format!("SELECT coalesce(o_next, 0) FROM dlock.heartbeat('{process}', false)");
        server.sql(&beat).parse::<u64>().unwrap()
    };
    let soon = next("process-a");
    assert!((1..=100_000).contains(&soon), "{soon}");
    assert_eq!(next("process-b"), 0, "it is not the next");
    drop(row);
    assert_eq!(next("process-b"), 0);
    assert_eq!(owner(&server), "a".repeat(32));
}

/// A process that ended two hours ago, and that has left a waiter to which the lock was handed.
fn ended_long_ago(server: &PostgresServer) {
    server.sql(
        "INSERT INTO dlock.processes VALUES ('gone', 0, dlock.now_us() - 7200000000); \
         INSERT INTO dlock.waiters VALUES ('dlock:other', 'g', 'gone', 1, true, '')",
    );
}

#[test]
fn a_process_that_waits_the_first_time_removes_what_others_left_hours_ago() {
    let server = with_schema(PostgresServer::start());
    let gone = "SELECT count(*) FROM dlock.processes WHERE process = 'gone'";
    // By its first waiter, or by its first heartbeat if that comes before it.
    for first in [
        "SELECT dlock.enter('dlock:import', 'o', 'new-1', '', dlock.now_us())",
        "SELECT dlock.heartbeat('new-2', false)",
    ] {
        ended_long_ago(&server);
        server.sql(first);
        assert_eq!(server.sql(gone), "0", "{first}");
        assert_eq!(count(&server, "dlock.waiters WHERE process = 'gone'"), 0);
    }
    ended_long_ago(&server);
    server.sql("SELECT dlock.enter('dlock:import', 'p', 'new-1', '', dlock.now_us())");
    assert_eq!(server.sql(gone), "1", "only the first time");
}

#[test]
fn to_remove_what_others_left_waits_for_nobody() {
    let server = with_schema(PostgresServer::start());
    server.sql(
        "INSERT INTO dlock.locks VALUES ('dlock:import', NULL, 1, 1, 0, ''); \
         INSERT INTO dlock.processes VALUES ('gone', 0, dlock.now_us() - 7200000000), \
           ('alive', 0, dlock.now_us() + 60000000); \
         INSERT INTO dlock.waiters VALUES ('dlock:import', 'g', 'gone', 1, false, ''), \
           ('dlock:import', 'a', 'alive', 2, false, '')",
    );
    let mut stops = server.session();
    stops.run(
        "BEGIN; SELECT count(*) FROM (SELECT FROM dlock.waiters WHERE owner = 'a' FOR UPDATE) w",
    );
    // It takes the dead waiter off, and waits to hand the lock to the other one.
    let mut claims = server.session();
    claims.send(
        "SELECT o_outcome FROM dlock.acquire('dlock:import', 'o', 60000000, '', \
         dlock.now_us() + 60000000, 60000, 'new')",
    );
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    until("the claim waits", || server.sql(waits) == "1");
    let mut beats = server.session();
    beats.send("SELECT o_is_known FROM dlock.heartbeat('new', false)");
    thread::sleep(Duration::from_millis(300));
    stops.run("COMMIT");
    assert_eq!(beats.answer(), "f");
    assert_eq!(claims.answer(), "4");
}

#[test]
fn waiters_that_were_taken_off_by_mistake_claim_again() {
    let server = with_schema(PostgresServer::start());
    let guard = lock(&server).try_acquire().unwrap();
    let fence = guard.fencing_token().unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server).acquire_within(LONG).map(drop));
        until("it waits and listens", || {
            waiting(&server) == 1 && server.sql(LISTENING) == "1"
        });
        let started = Instant::now();
        // As if a heartbeat over a connection of before, which has ended, had come late; and the
        // key is freed before the next heartbeat.
        server.sql(&format!(
            "UPDATE dlock.processes SET backend = 1; \
             SELECT dlock.break('dlock:import', {fence}, 1000)"
        ));
        assert_eq!(count(&server, "dlock.waiters"), 0, "it seemed dead");
        waits.join().unwrap().unwrap();
        assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
    });
    assert!(guard.release().is_err());
}

#[test]
fn a_locked_row_of_another_key_does_not_end_the_connection_that_listens() {
    let server = with_schema(PostgresServer::start());
    let guard = lock(&server).try_acquire().unwrap();
    server.sql("INSERT INTO dlock.locks VALUES ('dlock:other', NULL, 1, 1, 0, '')");
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server).acquire_within(LONG * 2).map(drop));
        until("it waits and listens", || {
            waiting(&server) == 1 && server.sql(LISTENING) == "1"
        });
        let backend = "SELECT backend FROM dlock.processes";
        let row = RowLock::on(&server, "dlock:other");
        // A waiter that has gone was handed the other lock.
        server.sql(&format!(
            "INSERT INTO dlock.waiters SELECT 'dlock:other', '{}', process, 1, true, '' \
             FROM dlock.processes",
            "b".repeat(32)
        ));
        // A machine that stalls may end it too, but not each time.
        let goes_on = (0..3).any(|_| {
            let before = server.sql(backend);
            thread::sleep(Duration::from_secs(4));
            server.sql(backend) == before
        });
        assert!(goes_on, "it is opened again and again");
        drop(row);
        until("it is given back", || count(&server, "dlock.waiters") == 1);
        guard.release().unwrap();
        waits.join().unwrap().unwrap();
    });
}

#[test]
fn locked_rows_of_other_keys_hold_up_no_waiter() {
    let server = with_schema(PostgresServer::start());
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server).acquire_within(LONG).map(drop));
        until("it waits and listens", || {
            waiting(&server) == 1 && server.sql(LISTENING) == "1"
        });
        // Waiters that have gone were handed locks whose rows are locked now.
        server.sql(
            "INSERT INTO dlock.locks \
               SELECT 'dlock:other-' || n, NULL, 1, 1, 0, '' FROM generate_series(1, 20) n",
        );
        let mut rows = server.session();
        rows.run(
            "BEGIN; SELECT count(*) FROM \
             (SELECT FROM dlock.locks WHERE key LIKE 'dlock:other-%' FOR UPDATE) l",
        );
        server.sql(
            "INSERT INTO dlock.waiters \
               SELECT 'dlock:other-' || n, lpad(to_hex(n), 32, 'b'), process, 1, true, '' \
               FROM dlock.processes, generate_series(1, 20) n",
        );
        // The next heartbeat finds them.
        thread::sleep(Duration::from_millis(1500));
        let released = Instant::now();
        guard.release().unwrap();
        waits.join().unwrap().unwrap();
        assert!(released.elapsed() < LONG / 2, "{:?}", released.elapsed());
    });
}

/// A role that may have this many connections.
fn with_role(connections: u32) -> PostgresServer {
    let server = with_schema(PostgresServer::start());
    server.sql(&format!(
        "CREATE ROLE app LOGIN CONNECTION LIMIT {connections}; \
         GRANT USAGE ON SCHEMA dlock TO app; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dlock TO app"
    ));
    server
}

/// The only waiter, which has no connection that listens, keeps its place and gets the lock.
fn keeps_its_place_by_its_claims(server: &PostgresServer, guard: LockGuard) {
    let token = server.sql("SELECT owner FROM dlock.waiters");
    // It does not seem dead, but for a moment if the machine stalls. A waiter without such
    // claims would seem so from the third second to its next look, after twenty.
    let started = Instant::now();
    let seen = std::iter::from_fn(|| {
        thread::sleep(Duration::from_millis(200));
        (started.elapsed() < Duration::from_secs(10)).then(|| waiting(server))
    });
    let seen: Vec<_> = seen.collect();
    let alive = seen.iter().filter(|waiting| **waiting == 1).count();
    assert!(alive > seen.len() / 2, "{seen:?}");
    guard.release().unwrap();
    // It was handed the lock, and holds it by now, perhaps.
    until("it is its turn", || owner(server) == token);
}

#[test]
fn waiters_without_a_connection_that_listens_keep_their_places_by_their_claims() {
    let server = with_role(1);
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            lock_at(&server.url_of("app"))
                .acquire_within(LONG * 2)
                .unwrap()
        });
        until("it waits", || waiting(&server) == 1);
        keeps_its_place_by_its_claims(&server, guard);
        first.join().unwrap().release().unwrap();
    });
}

#[test]
fn waiters_whose_connection_that_listens_cannot_be_replaced_keep_their_places_by_their_claims() {
    let server = with_role(2);
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            lock_at(&server.url_of("app"))
                .acquire_within(LONG * 2)
                .unwrap()
        });
        until("it waits and listens", || {
            waiting(&server) == 1 && server.sql(LISTENING) == "1"
        });
        server.sql("ALTER ROLE app CONNECTION LIMIT 1");
        server.sql("SELECT pg_terminate_backend(backend) FROM dlock.processes");
        until("it listens no more", || server.sql(LISTENING) == "0");
        until("it has claimed again", || waiting(&server) == 1);
        keeps_its_place_by_its_claims(&server, guard);
        first.join().unwrap().release().unwrap();
    });
}

#[test]
fn a_process_that_waits_makes_a_heartbeat_a_second_however_many_of_its_threads_wait() {
    let settings = [("track_functions", "all")];
    let server = with_schema(PostgresServer::start_with(&settings));
    let guard = lock(&server).try_acquire().unwrap();
    let lock = lock(&server);
    thread::scope(|scope| {
        let waits = || lock.acquire_within(LONG).map(drop);
        let waiters = [(); 3].map(|()| scope.spawn(waits));
        until("all wait, and one connection listens", || {
            waiting(&server) == 3 && server.sql(LISTENING) == "1"
        });
        let made = || -> u64 {
            let calls = "SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions \
                         WHERE schemaname = 'dlock' AND funcname = 'heartbeat'";
            server.sql(calls).parse().unwrap()
        };
        let (start, before) = (Instant::now(), made());
        until("some heartbeats", || made() >= before + 4);
        // The server counts them up to a second late.
        let most = start.elapsed().as_secs() + 3;
        let made = made() - before;
        assert!(made <= most, "{made} in {most} seconds at most");
        guard.release().unwrap();
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
    });
}
