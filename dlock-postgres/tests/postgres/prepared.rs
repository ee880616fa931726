//! Statements that the server keeps prepared, and what becomes of a call when it has not kept them.

use dlock_core::Datastore;
use dlock_postgres::PostgresDatastore;
use dlock_test_servers::{PostgresPooler, PostgresServer};

use crate::support::{acquired, patient, released, with_schema};

/// A server whose function `dlock.waiting` does something else.
pub(crate) fn where_waiting(is: &str) -> PostgresServer {
    let server = with_schema(PostgresServer::start());
    server.sql(is);
    server
}

/// It counts the prepared statements of its own session, itself included.
pub(crate) const COUNTS: &str = "DROP FUNCTION dlock.waiting; \
    CREATE FUNCTION dlock.waiting(text) RETURNS bigint LANGUAGE sql \
    AS 'SELECT count(*) FROM pg_prepared_statements'";

/// It makes its session forget them.
pub(crate) const FORGETS: &str = "DROP FUNCTION dlock.waiting; \
    CREATE FUNCTION dlock.waiting(text) RETURNS bigint LANGUAGE plpgsql \
    AS 'BEGIN EXECUTE ''DEALLOCATE ALL''; RETURN 7; END'";

fn waiting(store: &PostgresDatastore) -> usize {
    store.inspect().unwrap().waiting("dlock:x").unwrap()
}

fn takes_turns(store: &PostgresDatastore) {
    for _ in 0..2 {
        let lease = acquired(store, "dlock:x");
        assert!(released(store, &lease));
    }
}

#[test]
fn a_direct_connection_prepares_each_statement_once_and_one_to_a_pooler_none() {
    let server = where_waiting(COUNTS);
    let pooler = PostgresPooler::before(&server);
    for (url, prepared) in [
        (server.url(), 3),
        (server.socket_url(), 3),
        (pooler.url(), 0),
    ] {
        let store = patient(&url);
        takes_turns(&store);
        assert_eq!(waiting(&store), prepared, "{url}");
        takes_turns(&store);
        assert_eq!(waiting(&store), prepared, "{url}");
    }
}

#[test]
fn calls_go_on_without_prepared_statements_if_the_server_forgets_them() {
    let server = where_waiting(FORGETS);
    let store = patient(&server.url());
    takes_turns(&store);
    assert_eq!(waiting(&store), 7);
    takes_turns(&store);
    server.sql(COUNTS);
    assert_eq!(waiting(&store), 0);
}

#[test]
fn a_function_that_is_replaced_by_one_with_other_columns_serves_open_connections() {
    let server = where_waiting(COUNTS);
    let store = patient(&server.url());
    takes_turns(&store);
    assert_eq!(waiting(&store), 3);
    // As a migration of a later version could.
    server.sql(
        "DROP FUNCTION dlock.waiting; \
         CREATE FUNCTION dlock.waiting(text) RETURNS int LANGUAGE sql AS 'SELECT 5'",
    );
    assert_eq!(waiting(&store), 5);
    takes_turns(&store);
}
