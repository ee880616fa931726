//! Runs the examples on every store, as a reader would.

use std::process::Command;

use dlock_test_servers::{MemcachedServer, PostgresServer, RedisServer};

/// Runs an example and returns its output. The example checks its own promises, and fails if one is
/// broken.
fn run(program: &str, store: Option<&str>) -> String {
    let output = Command::new(program)
        .args(store)
        .output()
        .expect("the example can be started");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    said
}

/// The number of lines that contain `text`.
fn count(said: &str, text: &str) -> usize {
    said.lines().filter(|line| line.contains(text)).count()
}

/// A memcached that has been up long enough to grant locks. In its first four seconds it grants
/// none, and a caller that does not wait gets an error.
fn memcached() -> MemcachedServer {
    let server = MemcachedServer::start();
    let uptime = || server.stats()["uptime"].parse::<u64>();
    while uptime().expect("a number of seconds") < 4 {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    server
}

fn one_server_imports_each_hour(store: Option<&str>) {
    let said = run(env!("CARGO_BIN_EXE_hourly-import"), store);
    assert_eq!(
        count(&said, "has imported 1000 rows of 2026-11-24T19"),
        1,
        "{said}"
    );
    assert_eq!(
        count(&said, "has imported 1000 rows of 2026-11-24T20"),
        1,
        "{said}"
    );
    // Five servers at 19:00: the other four were refused, or came when the job was done.
    let skipped = count(&said, "skips 2026-11-24T19: held by ");
    assert_eq!(
        skipped + count(&said, "finds 2026-11-24T19 done"),
        4,
        "{said}"
    );
    // Three at 20:00: the first was killed, the second took over, and the third and the slow one
    // found the job done.
    assert_eq!(count(&said, "imports 2026-11-24T20"), 2, "{said}");
    assert_eq!(count(&said, "web-6: finds 2026-11-24T20 done"), 1, "{said}");
    assert_eq!(count(&said, "finds 2026-11-24T20 done"), 2, "{said}");
}

fn a_paused_holders_write_is_rejected(store: Option<&str>) {
    let said = run(env!("CARGO_BIN_EXE_guarded-resource"), store);
    assert_eq!(count(&said, "next: writes with token"), 1, "{said}");
    assert_eq!(count(&said, ": written"), 1, "{said}");
    assert_eq!(
        count(&said, ": rejected, the ledger has received token"),
        1,
        "{said}"
    );
    assert_eq!(count(&said, "slow: had lost the lock"), 1, "{said}");
}

fn one_server_migrates_and_the_others_wait(store: Option<&str>) {
    let said = run(env!("CARGO_BIN_EXE_migration"), store);
    let steps = "create table orders; add column orders.paid; fill orders.paid; create index on orders.paid";
    assert_eq!(count(&said, &format!("Schema: {steps}")), 1, "{said}");
    assert_eq!(count(&said, "finds the schema up to date"), 2, "{said}");
    // Each has looked at the schema before. The lines of two servers may come in any order.
    assert_eq!(count(&said, "serves"), 3, "{said}");
}

#[test]
fn one_server_imports_each_hour_with_locks_in_a_folder() {
    one_server_imports_each_hour(None);
}

#[test]
fn one_server_imports_each_hour_with_locks_in_redis() {
    one_server_imports_each_hour(Some(&RedisServer::start().url()));
}

#[test]
fn one_server_imports_each_hour_with_locks_in_memcached() {
    one_server_imports_each_hour(Some(&memcached().url()));
}

#[test]
fn a_paused_holders_write_is_rejected_with_locks_in_a_folder() {
    a_paused_holders_write_is_rejected(None);
}

#[test]
fn a_paused_holders_write_is_rejected_with_locks_in_redis() {
    a_paused_holders_write_is_rejected(Some(&RedisServer::start().url()));
}

#[test]
fn a_paused_holders_write_is_rejected_with_locks_in_memcached() {
    a_paused_holders_write_is_rejected(Some(&memcached().url()));
}

#[test]
fn one_server_migrates_and_the_others_wait_with_locks_in_a_folder() {
    one_server_migrates_and_the_others_wait(None);
}

#[test]
fn one_server_migrates_and_the_others_wait_with_locks_in_redis() {
    one_server_migrates_and_the_others_wait(Some(&RedisServer::start().url()));
}

#[test]
fn one_server_migrates_and_the_others_wait_with_locks_in_memcached() {
    one_server_migrates_and_the_others_wait(Some(&memcached().url()));
}

#[test]
fn a_paused_holders_transaction_is_rolled_back_in_postgres() {
    let server = PostgresServer::start();
    let said = run(env!("CARGO_BIN_EXE_payout"), Some(&server.url()));
    assert_eq!(count(&said, "next: committed"), 1, "{said}");
    assert_eq!(count(&said, "slow: rolled back"), 1, "{said}");
    assert_eq!(count(&said, "slow: had lost the lock"), 1, "{said}");
    assert_eq!(count(&said, "Payouts: next"), 1, "{said}");
}

#[test]
fn an_unknown_store_is_reported_once() {
    let output = Command::new(env!("CARGO_BIN_EXE_migration"))
        .arg("mysql://localhost")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert_eq!(
        count(&errors, "`mysql://localhost` is not a store"),
        1,
        "{errors}"
    );
}
