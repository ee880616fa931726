//! The examples are run, as a reader would, on every store.

use std::process::Command;

use dlock_testkit::servers::{MemcachedServer, RedisServer};

/// Runs an example; what it said. It checks itself what it promises, and fails if that is not so.
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

/// The lines in which somebody said this.
fn count(said: &str, text: &str) -> usize {
    said.lines().filter(|line| line.contains(text)).count()
}

/// One that has been up for long enough to grant locks: in the first four seconds it does not, and who only tries is told so.
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
    // Five servers at 19:00: the others were refused or came when it was done.
    let skipped = count(&said, "skips 2026-11-24T19: held by ");
    assert_eq!(
        skipped + count(&said, "finds 2026-11-24T19 done"),
        4,
        "{said}"
    );
    // Three at 20:00: the first was killed, the second took over, the third and the slow one find it done.
    assert_eq!(count(&said, "imports 2026-11-24T20"), 2, "{said}");
    assert_eq!(count(&said, "web-6: finds 2026-11-24T20 done"), 1, "{said}");
    assert_eq!(count(&said, "finds 2026-11-24T20 done"), 2, "{said}");
}

fn a_paused_holders_write_is_rejected(store: Option<&str>) {
    let said = run(env!("CARGO_BIN_EXE_guarded-resource"), store);
    assert_eq!(count(&said, "next: writes with token"), 1, "{said}");
    assert_eq!(count(&said, ": written"), 1, "{said}");
    assert_eq!(
        count(&said, ": rejected, the ledger has seen token"),
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
    assert_eq!(count(&said, "serves"), 3, "{said}");
    assert!(
        said.find("serves") > said.find("migrates: create index"),
        "{said}"
    );
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
fn a_store_that_nobody_knows_is_told_once() {
    let output = Command::new(env!("CARGO_BIN_EXE_migration"))
        .arg("postgres://localhost")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert_eq!(
        count(&errors, "`postgres://localhost` is no store"),
        1,
        "{errors}"
    );
}
