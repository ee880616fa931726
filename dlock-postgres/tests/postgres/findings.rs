//! What is found in a server that is set up wrongly, and that a good one has none of it.

use dlock_core::{Datastore, Finding, Severity};
use dlock_test_servers::PostgresServer;

use crate::support::{patient, until, with_schema};

/// Settings without which a server is not safe. The servers of tests have others.
const SAFE: [(&str, &str); 2] = [("fsync", "on"), ("full_page_writes", "on")];

/// A good server but for these settings.
fn server_with(settings: &[(&str, &str)]) -> PostgresServer {
    let settings: Vec<_> = SAFE.iter().chain(settings).copied().collect();
    with_schema(PostgresServer::start_with(&settings))
}

fn findings(url: &str) -> Vec<Finding> {
    let store = patient(url);
    let found = Datastore::inspect(&store).unwrap().findings().unwrap();
    #[cfg(feature = "tokio")]
    {
        use dlock_core::aio::AsyncDatastore;
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        let inspect = AsyncDatastore::inspect(&store).unwrap();
        let async_form = runtime.block_on(inspect.findings()).unwrap();
        let severities = |found: &[Finding]| Vec::from_iter(found.iter().map(|it| it.severity));
        assert_eq!(
            severities(&async_form),
            severities(&found),
            "{async_form:?}"
        );
    }
    found
}

/// The only finding, which contains this.
#[track_caller]
fn finds(url: &str, severity: Severity, what: &str) {
    let found = findings(url);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].what.contains(what), "{found:?}");
    assert_eq!(found[0].severity, severity);
}

#[test]
fn a_good_server_has_no_findings() {
    let server = server_with(&[]);
    assert_eq!(findings(&server.url()), []);
    server.sql(
        "CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA dlock TO app; \
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dlock TO app",
    );
    assert_eq!(findings(&server.url_of("app")), []);
}

#[test]
fn a_server_that_does_not_wait_for_its_disk_is_found() {
    let server = server_with(&[("fsync", "off")]);
    finds(&server.url(), Severity::Danger, "fsync");
}

#[test]
fn a_server_that_may_tear_pages_is_found() {
    let server = server_with(&[("full_page_writes", "off")]);
    finds(&server.url(), Severity::Danger, "full_page_writes");
}

#[test]
fn an_unlogged_table_is_found() {
    let server = server_with(&[]);
    server.sql("ALTER TABLE dlock.locks SET UNLOGGED");
    finds(&server.url(), Severity::Danger, "unlogged");
}

#[test]
fn a_missing_right_is_found() {
    let server = server_with(&[]);
    server.sql(
        "CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA dlock TO app; \
         GRANT EXECUTE ON FUNCTION dlock.hello() TO app",
    );
    finds(&server.url_of("app"), Severity::Danger, "may not call");
    server.sql("REVOKE USAGE ON SCHEMA dlock FROM app");
    finds(&server.url_of("app"), Severity::Danger, "GRANT USAGE");
}

#[test]
fn a_missing_schema_is_found() {
    let server = PostgresServer::start_with(&SAFE);
    finds(&server.url(), Severity::Danger, "migration");
}

#[test]
fn a_standby_is_found_and_one_that_grants_do_not_wait_for() {
    let primary = server_with(&[]);
    let standby = primary.standby();
    finds(&standby.url(), Severity::Danger, "standby");
    until("it is connected", || {
        primary.sql("SELECT count(*) FROM pg_stat_replication") == "1"
    });
    finds(
        &primary.url(),
        Severity::Warning,
        "synchronous_standby_names is empty",
    );
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
    primary.sql("SELECT pg_reload_conf()");
    let names = "SHOW synchronous_standby_names";
    until("it is synchronous", || primary.sql(names) == "*");
    assert_eq!(findings(&primary.url()), []);
    primary.sql("ALTER ROLE postgres SET synchronous_commit = 'local'");
    finds(
        &primary.url(),
        Severity::Warning,
        "synchronous_commit is local",
    );
}

#[test]
fn connections_that_are_nearly_used_up_are_found() {
    // Forty are for users.
    let server = server_with(&[("max_connections", "43")]);
    let sessions = |count| Vec::from_iter((0..count).map(|_| server.session()));
    let some = sessions(20);
    assert_eq!(findings(&server.url()), []);
    let more = sessions(16);
    finds(&server.url(), Severity::Warning, "connections");
    drop((some, more));
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let mut server = with_schema(PostgresServer::start());
    server.kill();
    let store = patient(&server.url());
    assert!(Datastore::inspect(&store).unwrap().findings().is_err());
}
