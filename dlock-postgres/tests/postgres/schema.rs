//! The schema: how it is made, who may use it, and what stays in it.

use std::thread;
use std::time::Duration;

use dlock_core::{Datastore, ErrorKind, Lock};
use dlock_postgres::{ConnectionManager, MIGRATION};
use dlock_test_servers::PostgresServer;

use crate::support::{
    LONG, acquired, claim, granted, patient, released, server, until, with_schema,
};

#[test]
fn without_the_schema_a_call_says_what_to_run() {
    let server = PostgresServer::start();
    let store = patient(&server.url());
    let error = store.acquire(&claim("dlock:x"), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(!error.may_have_executed());
    assert!(error.to_string().contains("migrate"), "{error}");

    // psql runs it too, again and again, and what is there stays.
    server.sql(MIGRATION);
    let lease = acquired(&store, "dlock:x");
    server.sql(MIGRATION);
    assert!(released(&store, &lease));
}

#[test]
fn several_programs_may_migrate_at_a_time() {
    let server = PostgresServer::start();
    let manager = ConnectionManager::new(&server.url()).unwrap();
    let manager = manager.with_connect_timeout(LONG);
    thread::scope(|scope| {
        let migrations = [(); 4].map(|()| scope.spawn(|| manager.migrate(LONG)));
        for migration in migrations {
            migration.join().unwrap().unwrap();
        }
    });
    acquired(&patient(&server.url()), "dlock:x");
}

#[test]
fn a_user_needs_rights_to_the_functions_and_none_to_the_table_and_logs_in_by_scram() {
    let server = with_schema(PostgresServer::start());
    let role = PostgresServer::WITH_PASSWORD;
    server.sql(&format!(
        "CREATE ROLE {role}; CREATE ROLE app LOGIN PASSWORD 's3cret' IN ROLE {role}"
    ));
    let url = server.url_of("app:s3cret");
    let error = patient(&url).acquire(&claim("dlock:x"), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("GRANT USAGE"), "{error}");

    server.sql("GRANT USAGE ON SCHEMA dlock TO app");
    server.sql("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dlock TO app");
    let store = patient(&url);
    let lease = acquired(&store, "dlock:x");
    assert!(
        store
            .inspect()
            .unwrap()
            .holder("dlock:x")
            .unwrap()
            .is_some()
    );
    assert!(released(&store, &lease));
    for table in ["locks", "waiters", "processes"] {
        let right = format!("SELECT has_table_privilege('app', 'dlock.{table}', 'SELECT')");
        assert_eq!(server.sql(&right), "f", "{table}");
    }

    for login in ["app:wr0ng", "app"] {
        let store = patient(&server.url_of(login));
        let error = store.acquire(&claim("dlock:x"), LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(!error.may_have_executed() && !format!("{error:?}").contains("wr0ng"));
    }
}

/// The schema as it was.
const VERSION_1: &str = include_str!("schema-1.sql");

#[test]
fn version_1_becomes_version_2_with_its_locks_and_rights() {
    let server = PostgresServer::start();
    server.sql(VERSION_1);
    server.sql(
        "CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA dlock TO app; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dlock TO app; \
         SELECT dlock.acquire('dlock:x', 'old', 60000000, '', dlock.now_us() + 60000000, 1000)",
    );
    let store = patient(&server.url_of("app"));
    let error = store.acquire(&claim("dlock:x"), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("migration"), "{error}");

    for _ in 0..2 {
        server.sql(MIGRATION);
        let held = crate::support::refused(store.acquire(&claim("dlock:x"), LONG));
        let fence = server.sql("SELECT fence FROM dlock.locks WHERE owner = 'old'");
        assert_eq!(held.fence().unwrap().get().to_string(), fence);
    }
    let lease = acquired(&store, "dlock:y");
    assert!(released(&store, &lease));
    let forms = "SELECT count(*) FROM pg_proc WHERE proname = 'acquire'";
    assert_eq!(server.sql(forms), "1", "nobody passes by the queue");
}

#[test]
fn a_user_without_rights_to_the_tables_can_wait() {
    let server = with_schema(PostgresServer::start());
    server.sql(
        "CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA dlock TO app; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dlock TO app",
    );
    let lock = || Lock::new(patient(&server.url_of("app")), "import");
    let guard = lock().try_acquire().unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock().acquire_within(LONG).map(drop));
        let listens = "SELECT count(*) FROM dlock.waiters JOIN dlock.processes USING (process) \
                       WHERE backend <> 0";
        until("it waits and listens", || server.sql(listens) == "1");
        guard.release().unwrap();
        waits.join().unwrap().unwrap();
    });
}

#[test]
fn a_new_row_sweeps_rows_that_were_not_used_for_a_week() {
    let server = with_schema(PostgresServer::start());
    server.sql(
        "INSERT INTO dlock.locks SELECT 'dlock:old-' || n, NULL, 1, 1, 0, '' \
         FROM generate_series(1, 20) n; \
         INSERT INTO dlock.locks VALUES ('dlock:recent', NULL, 1, dlock.now_us(), 0, '')",
    );
    let store = patient(&server.url());
    for n in 0..4 {
        granted(store.acquire(&claim(&format!("dlock:new-{n}")), LONG));
    }
    let left = "SELECT string_agg(key, ' ' ORDER BY key) FROM dlock.locks";
    assert_eq!(
        server.sql(left),
        "dlock:new-0 dlock:new-1 dlock:new-2 dlock:new-3 dlock:recent"
    );
}

#[test]
fn a_refused_claim_writes_nothing() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    let lease = acquired(&store, "dlock:x");
    // So that what a first reader cleans up is not counted.
    server.sql("VACUUM FREEZE dlock.locks");
    let row = "SELECT xmin, xmax, ctid FROM dlock.locks";
    let before = server.sql(row);
    for _ in 0..10 {
        crate::support::refused(store.acquire(&claim("dlock:x"), LONG));
    }
    assert_eq!(server.sql(row), before);
    assert!(released(&store, &lease));
}

#[test]
fn keys_are_listed_a_page_at_a_time() {
    let store = patient(&server().url());
    let keys: Vec<String> = (0..300).map(|n| format!("dlock:page-{n:03}")).collect();
    let leases: Vec<_> = keys.iter().map(|key| acquired(&store, key)).collect();
    let inspect = store.inspect().unwrap();
    let first = inspect.held("dlock:page-", None).unwrap();
    assert_eq!(first.keys.len(), 256);
    let next = first.next.unwrap();
    let second = inspect.held("dlock:page-", Some(&next)).unwrap();
    assert!(second.next.is_none());
    let listed = first.keys.into_iter().chain(second.keys);
    let listed: Vec<_> = listed
        .inspect(|(_, held)| assert!(held.expires_in().unwrap() > Duration::ZERO))
        .map(|(key, _)| key)
        .collect();
    assert_eq!(listed, keys);
    let error = inspect.held("dlock:other", Some(&next)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    for lease in &leases {
        assert!(released(&store, lease));
    }
}

#[test]
fn a_migration_of_what_is_there_waits_for_no_waiter_and_keeps_none_from_the_queue() {
    let server = with_schema(PostgresServer::start());
    let mut enters = server.session();
    enters.run("BEGIN; SELECT dlock.enter('dlock:x', 'one', 'others', '', dlock.now_us())");
    let manager = ConnectionManager::new(&server.url()).unwrap();
    let manager = manager.with_connect_timeout(LONG);
    manager.migrate(LONG).unwrap();
    enters.run("COMMIT");
}
