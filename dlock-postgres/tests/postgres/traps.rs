//! What a database does that a lock must survive.

use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{Datastore, ErrorKind, Extension};
use dlock_test_servers::PostgresServer;

use crate::support::{
    LONG, RowLock, TTL, acquired, acquired_for, call, claim, claim_within, fence_of, granted,
    patient, refused, released, server, until, with_schema,
};

/// How many connections wait for a lock in the database.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";

#[test]
fn an_extend_that_waited_for_a_locked_row_past_the_end_revives_nothing() {
    let server = server();
    let store = patient(&server.url());
    let lease = acquired_for(&store, "dlock:revived", Duration::from_millis(500));
    let row = RowLock::on(server, "dlock:revived");
    let extension = thread::scope(|scope| {
        let extend = scope.spawn(|| store.extend(&call(&lease, 1), TTL));
        thread::sleep(Duration::from_millis(700));
        drop(row);
        extend.join().unwrap()
    });
    assert!(matches!(extension, Ok(Extension::Lost)), "{extension:?}");
}

#[test]
fn a_call_that_waits_for_a_locked_row_ends_in_time_here_and_at_the_server() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    let lease = acquired(&store, "dlock:x");
    assert!(released(&store, &lease));
    let row = RowLock::on(&server, "dlock:x");
    for _ in 0..3 {
        let started = Instant::now();
        let claim = claim_within("dlock:x", Duration::from_millis(800));
        let error = store.acquire(&claim, TTL).unwrap_err();
        // The server's own error mostly, and our clock's on a machine with more work than cores.
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(started.elapsed() < LONG);
    }
    until("nothing waits at the server", || server.sql(WAITING) == "0");
    drop(row);
    assert!(
        store
            .inspect()
            .unwrap()
            .holder("dlock:x")
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_claim_that_waited_for_a_locked_row_past_its_end_takes_nothing() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    let lease = acquired(&store, "dlock:x");
    assert!(released(&store, &lease));
    let row = RowLock::on(&server, "dlock:x");
    // As a client that gives the function more time to wait than it has itself.
    let mut session = server.session();
    session.send(
        "SELECT o_outcome FROM dlock.acquire('dlock:x', 'late', 1000000, '', \
         dlock.now_us() + 300000, 20000, NULL)",
    );
    until("the claim waits", || server.sql(WAITING) == "1");
    thread::sleep(Duration::from_millis(400));
    drop(row);
    assert_eq!(session.answer(), "2");
    assert!(
        store
            .inspect()
            .unwrap()
            .holder("dlock:x")
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_claim_that_arrives_after_its_end_is_refused_by_the_server() {
    let answer = server().sql(
        "SELECT o_outcome FROM dlock.acquire('dlock:past', 'late', 1000000, '', \
         dlock.now_us() - 1, 1000, NULL)",
    );
    assert_eq!(answer, "2");
    let rows = "SELECT count(*) FROM dlock.locks WHERE key = 'dlock:past'";
    assert_eq!(server().sql(rows), "0");
}

#[test]
fn a_claim_on_a_new_key_waits_for_the_one_that_comes_first_and_sees_how_it_ended() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    for (end, is_granted) in [("ROLLBACK", true), ("COMMIT", false)] {
        let mut first = server.session();
        first.run(
            "BEGIN; SELECT dlock.acquire('dlock:new', 'first', 60000000, '', \
             dlock.now_us() + 60000000, 20000, NULL)",
        );
        thread::scope(|scope| {
            let second = scope.spawn(|| store.acquire(&claim("dlock:new"), TTL));
            until("the claim waits", || server.sql(WAITING) == "1");
            first.run(end);
            let outcome = second.join().unwrap();
            if is_granted {
                granted(outcome);
            } else {
                refused(outcome);
            }
        });
        server.sql("DELETE FROM dlock.locks");
    }
}

#[test]
fn a_statement_timeout_of_the_role_is_an_error_after_which_nothing_was_done() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    let lease = acquired(&store, "dlock:x");
    assert!(released(&store, &lease));
    let row = RowLock::on(&server, "dlock:x");
    server.sql(
        "CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA dlock TO app; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dlock TO app; \
         ALTER ROLE app SET statement_timeout = '3s'",
    );
    let store = patient(&server.url_of("app"));
    let error = store.acquire(&claim("dlock:x"), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(!error.may_have_executed());
    assert!(error.to_string().contains("57014"), "{error}");
    drop(row);
    acquired(&store, "dlock:x");
}

#[test]
fn a_lock_timeout_of_the_role_does_not_end_calls_that_have_time() {
    let server = with_schema(PostgresServer::start_with(&[("lock_timeout", "50ms")]));
    let store = patient(&server.url());
    let lease = acquired(&store, "dlock:x");
    assert!(released(&store, &lease));
    let row = RowLock::on(&server, "dlock:x");
    thread::scope(|scope| {
        let claimant = scope.spawn(|| store.acquire(&claim("dlock:x"), TTL));
        thread::sleep(Duration::from_millis(300));
        drop(row);
        granted(claimant.join().unwrap());
    });
}

#[test]
fn a_database_without_writes_is_refused_and_used_again_when_it_takes_them() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    server.sql("ALTER DATABASE postgres SET default_transaction_read_only = on");
    let error = store.acquire(&claim("dlock:x"), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(!error.may_have_executed() && error.is_transient());
    server.sql(
        "BEGIN READ WRITE; ALTER DATABASE postgres RESET default_transaction_read_only; COMMIT",
    );
    acquired(&store, "dlock:x");
}

#[test]
fn locks_go_on_while_an_old_snapshot_is_open_and_where_transactions_are_serializable() {
    let server = with_schema(PostgresServer::start_with(&[(
        "default_transaction_isolation",
        "serializable",
    )]));
    let store = patient(&server.url());
    acquired(&store, "dlock:other");
    let mut reader = server.session();
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM dlock.locks");
    let mut last = 0;
    for _ in 0..50 {
        let lease = acquired(&store, "dlock:x");
        assert!(fence_of(&lease) > last);
        last = fence_of(&lease);
        assert!(released(&store, &lease));
    }
    assert_eq!(reader.run("SELECT count(*) FROM dlock.locks"), "1");
}

#[test]
fn a_grant_waits_for_the_disk_where_other_commits_do_not() {
    let server = with_schema(PostgresServer::start_with(&[("synchronous_commit", "off")]));
    let answer =
        server.sql("SELECT dlock.limit_wait(1000); SELECT current_setting('synchronous_commit')");
    assert_eq!(answer.lines().last(), Some("local"), "{answer}");
}

#[test]
fn a_warning_that_no_standby_has_confirmed_a_grant_arrives_where_others_do_not() {
    let server = with_schema(PostgresServer::start_with(&[(
        "client_min_messages",
        "error",
    )]));
    let answer =
        server.sql("SELECT dlock.limit_wait(1000); SELECT current_setting('client_min_messages')");
    assert_eq!(answer.lines().last(), Some("warning"), "{answer}");
}

#[test]
fn a_claim_whose_commit_takes_longer_than_its_call_is_abandoned_too() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    for is_new_key in [true, false] {
        let slow = claim("dlock:slow");
        let mut commit = server.session();
        commit.run(&format!(
            "BEGIN; SELECT dlock.acquire('dlock:slow', '{}', 60000000, '', \
             dlock.now_us() + 60000000, 20000, NULL)",
            slow.owner()
        ));
        thread::scope(|scope| {
            let abandon = scope.spawn(|| store.abandon(&slow));
            until("it waits for the commit", || server.sql(WAITING) == "1");
            commit.run("COMMIT");
            abandon.join().unwrap().unwrap();
        });
        let holder = store.inspect().unwrap().holder("dlock:slow").unwrap();
        assert!(holder.is_none(), "{is_new_key}: {holder:?}");
    }
}

#[test]
fn an_abandoned_claim_that_never_arrived_leaves_the_key_free() {
    let store = patient(&server().url());
    store.abandon(&claim("dlock:never-arrived")).unwrap();
    acquired(&store, "dlock:never-arrived");
}

#[test]
fn calls_that_waited_for_a_row_see_what_became_of_it_where_transactions_keep_one_snapshot() {
    for isolation in ["repeatable read", "serializable"] {
        let server = with_schema(PostgresServer::start_with(&[(
            "default_transaction_isolation",
            isolation,
        )]));
        let store = patient(&server.url());
        let lease = acquired(&store, "dlock:x");
        let mut release = server.session();
        release.run(&format!(
            "BEGIN; SELECT dlock.break('dlock:x', {}, 1000)",
            fence_of(&lease)
        ));
        thread::scope(|scope| {
            let extend = scope.spawn(|| store.extend(&call(&lease, 1), TTL));
            until("the extend waits", || server.sql(WAITING) == "1");
            release.run("COMMIT");
            let extension = extend.join().unwrap();
            assert!(
                matches!(extension, Ok(Extension::Lost)),
                "{isolation}: {extension:?}"
            );
        });
    }
}
