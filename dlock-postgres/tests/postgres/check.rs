//! `dlock.check`: a token that is checked in the user's own transaction.

use std::thread;
use std::time::Duration;

use dlock_core::{Datastore, ErrorKind, Extension};

use crate::support::{
    TTL, acquired, acquired_for, call, claim, claim_within, fence_of, granted, patient, released,
    server, until, with_schema,
};
use dlock_test_servers::PostgresServer;

fn check(key: &str, fence: u64) -> String {
    format!("SELECT dlock.check('{key}', {fence})")
}

/// A statement that fails if this check succeeds, and not if it is refused: with 40001 or DL001,
/// which roll back.
fn refused_by(check: &str) -> String {
    format!(
        "DO $$ BEGIN PERFORM 1 FROM ({check}) c; \
         RAISE EXCEPTION 'approved' USING ERRCODE = 'XX001'; \
         EXCEPTION WHEN serialization_failure OR SQLSTATE 'DL001' THEN NULL; END $$"
    )
}

#[test]
fn the_transaction_of_a_stale_holder_is_rolled_back() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    server.sql("CREATE TABLE ledger (n int)");
    let stale = acquired_for(&store, "dlock:x", Duration::from_millis(50));
    thread::sleep(Duration::from_millis(60));
    let writes = |fence| {
        let check = check("dlock:x", fence);
        server.try_sql(&format!("INSERT INTO ledger VALUES (1); {check}"))
    };
    // Its lease has ended, though nobody has the lock yet.
    let error = writes(fence_of(&stale)).unwrap_err();
    assert!(error.contains("DL001"), "{error}");
    let next = acquired(&store, "dlock:x");
    let error = writes(fence_of(&stale)).unwrap_err();
    assert!(error.contains("DL001"), "{error}");
    assert_eq!(server.sql("SELECT count(*) FROM ledger"), "0");
    writes(fence_of(&next)).unwrap();
    assert_eq!(server.sql("SELECT count(*) FROM ledger"), "1");
    assert!(released(&store, &next));
    assert!(writes(fence_of(&next)).is_err());
    let unknown = server.try_sql(&check("dlock:never", 1)).unwrap_err();
    assert!(unknown.contains("DL001"), "{unknown}");
}

#[test]
fn nobody_else_gets_the_lock_before_a_transaction_with_a_checked_token_has_ended() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    let lease = acquired(&store, "dlock:x");
    let mut writer = server.session();
    writer.run(&format!("BEGIN; {}", check("dlock:x", fence_of(&lease))));

    // The holder goes on as usual.
    let extension = store
        .extend(&call(&lease, 1), Duration::from_millis(50))
        .unwrap();
    assert!(matches!(extension, Extension::Extended(_)), "{extension:?}");
    thread::sleep(Duration::from_millis(60));
    let impatient = claim_within("dlock:x", Duration::from_millis(500));
    let error = store.acquire(&impatient, TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");

    thread::scope(|scope| {
        let next = scope.spawn(|| store.acquire(&claim("dlock:x"), TTL));
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        until("the next claim waits", || server.sql(waiting) == "1");
        writer.run("COMMIT");
        let grant = granted(next.join().unwrap());
        assert!(grant.fence.unwrap().get() > fence_of(&lease));
    });
}

#[test]
fn a_transaction_that_began_before_the_lock_was_taken_over_is_not_fooled_by_its_snapshot() {
    let server = server();
    let store = patient(&server.url());
    let stale = acquired_for(&store, "dlock:snapshot", Duration::from_millis(300));
    let mut reader = server.session();
    reader.run(
        "BEGIN ISOLATION LEVEL REPEATABLE READ; \
         SELECT 1 FROM dlock.locks WHERE key = 'dlock:snapshot'",
    );
    thread::sleep(Duration::from_millis(310));
    acquired(&store, "dlock:snapshot");
    let check = check("dlock:snapshot", fence_of(&stale));
    reader.run(&refused_by(&check));
}

#[test]
fn a_stale_snapshot_approves_no_token_after_a_waiter_got_the_lock_between_two_checks() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    let stale = acquired(&store, "dlock:x");
    let check = check("dlock:x", fence_of(&stale));
    let mut old = server.session();
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM dlock.locks");
    let extension = store.extend(&call(&stale, 1), TTL).unwrap();
    assert!(matches!(extension, Extension::Extended(_)), "{extension:?}");

    // The holder has another transaction open while the lock is taken from it, and somebody begins
    // to wait at this moment.
    let mut checked = server.session();
    checked.run(&format!("BEGIN; {check}"));
    let mut release = server.session();
    release.run(&format!(
        "BEGIN; SELECT dlock.break('dlock:x', {}, 1000)",
        fence_of(&stale)
    ));
    let mut waiter = server.session();
    waiter.send(
        "SELECT o_outcome FROM dlock.acquire('dlock:x', 'waiter', 60000000, '', \
         dlock.now_us() + 60000000, 60000, 'others')",
    );
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    until("the waiter waits", || server.sql(waiting) == "1");
    release.run("COMMIT");
    until("it waits for the checked transaction", || {
        server.sql("SELECT owner IS NULL FROM dlock.locks") == "t" && server.sql(waiting) == "1"
    });
    checked.run("COMMIT");
    assert_eq!(waiter.answer(), "1");

    old.run(&refused_by(&check));
}

#[test]
fn an_old_snapshot_shows_the_lease_of_then_and_still_keeps_everybody_else_from_the_lock() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM dlock.locks";
    let lease = acquired_for(&store, "dlock:x", Duration::from_secs(1));
    let check = check("dlock:x", fence_of(&lease));
    let mut old = server.session();
    old.run(begin);
    let extension = store.extend(&call(&lease, 1), TTL).unwrap();
    assert!(matches!(extension, Extension::Extended(_)), "{extension:?}");
    thread::sleep(Duration::from_millis(1100));
    old.run(&format!(
        "DO $$ BEGIN PERFORM 1 FROM ({check}) c; RAISE EXCEPTION 'approved' USING ERRCODE = 'XX001'; \
         EXCEPTION WHEN SQLSTATE 'DL001' THEN NULL; END $$"
    ));

    let mut old = server.session();
    old.run(begin);
    assert!(released(&store, &lease));
    old.run(&check);
    let impatient = claim_within("dlock:x", Duration::from_millis(500));
    let error = store.acquire(&impatient, TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    old.run("ROLLBACK");
    acquired(&store, "dlock:x");
}
