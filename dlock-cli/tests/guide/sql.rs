//! The SQL on the pages is right: a user with the rights of the page can lock, and a write under a
//! token that is not the present one is undone.

use std::time::Duration;

use dlock_postgres::ConnectionManager;
use dlock_test_servers::{PostgresServer, RedisServer};

use crate::pages::{Block, blocks};
use crate::sandbox::Sandbox;
use crate::support::{code, ended, spawn, stderr};

/// A busy machine is slow.
const LONG: Duration = Duration::from_secs(60);
/// The token on the page.
const TOKEN: &str = "1795841569064826";

fn found() -> Vec<Block> {
    let mut found = blocks();
    found.retain(|block| block.language == "sql");
    found
}

fn with_schema() -> PostgresServer {
    let server = PostgresServer::start();
    let manager = ConnectionManager::new(&server.socket_url()).unwrap();
    manager.with_connect_timeout(LONG).migrate(LONG).unwrap();
    server
}

#[test]
fn the_rights_on_the_page_are_enough_and_the_check_undoes_the_writes_of_a_stale_holder() {
    let found = found();
    let [rights, check] = &found[..] else {
        panic!("{} blocks were found", found.len());
    };
    let server = with_schema();
    server.sql("CREATE ROLE app LOGIN");
    server.sql(&rights.text);
    let redis = RedisServer::start();
    let sandbox = Sandbox::new(&redis, 0);
    let run = |script: &str| {
        let mut dlock = sandbox.command("dlock");
        dlock
            .env("DLOCK_STORE", server.url_of("app"))
            .env_remove("DLOCK_CONFIG")
            .args(["run", "payout", "--", "sh", "-c", script]);
        let run = ended(spawn(&mut dlock));
        assert_eq!(
            (code(&run), stderr(&run)),
            (0, String::new()),
            "{}",
            rights.place
        );
        String::from_utf8(run.stdout).unwrap()
    };
    let shown = run("echo $DLOCK_KEY $DLOCK_FENCING_TOKEN");
    let (key, stale) = shown.trim().split_once(' ').unwrap();
    assert!(
        check
            .text
            .contains(&format!("dlock.check('{key}', {TOKEN})")),
        "{}",
        check.place
    );

    server.sql("CREATE TABLE accounts (id int PRIMARY KEY, balance int)");
    server.sql("INSERT INTO accounts VALUES (7, 0)");
    let balance = || server.sql("SELECT balance FROM accounts WHERE id = 7");
    let transaction = |token: &str| server.try_sql(&check.text.replace(TOKEN, token));
    let error = transaction(stale).unwrap_err();
    assert!(error.contains("DL001"), "{}: {error}", check.place);
    assert_eq!(balance().trim(), "0");

    // The holder of now.
    let mut holder = sandbox.command("dlock");
    holder
        .env("DLOCK_STORE", server.url_of("app"))
        .env_remove("DLOCK_CONFIG")
        .args(["run", "payout", "--", "sh", "-c"])
        .arg("echo $DLOCK_FENCING_TOKEN >token; until [ -e go ]; do sleep 0.02; done");
    let holder = spawn(&mut holder);
    let token = sandbox.await_text("token");
    transaction(token.trim()).unwrap();
    assert_eq!(balance().trim(), "100");
    transaction(stale).unwrap_err();
    assert_eq!(balance().trim(), "100");
    std::fs::write(sandbox.path("go"), "").unwrap();
    assert_eq!(code(&ended(holder)), 0);
}
