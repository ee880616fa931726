//! The suite that every store passes, through every way to a real server.

use std::sync::OnceLock;

use dlock_test_servers::PostgresPooler;
use dlock_testkit::{Subject, conformance};

use crate::support::{RowLock, patient, server};
use crate::tls::tls_server;

/// A pooler that gives each transaction one of two connections to the shared server.
fn pooler() -> &'static PostgresPooler {
    static POOLER: OnceLock<PostgresPooler> = OnceLock::new();
    POOLER.get_or_init(|| PostgresPooler::before(server()))
}

fn subject(url: String) -> Subject {
    let place = url.clone();
    Subject::new(move || patient(&url))
        .at(place)
        .record_locked_by(|_, key| RowLock::on(server(), key))
}

conformance!(
    socket,
    || subject(server().socket_url()),
    reopen = |url: &str| patient(url)
);
/// As careful as it can be.
fn tls() -> Subject {
    let server = tls_server();
    let url = format!(
        "{}?sslrootcert={}",
        server.url(),
        server.ca_file().display()
    );
    let place = url.clone();
    Subject::new(move || patient(&url))
        .at(place)
        .record_locked_by(|_, key| RowLock::on(tls_server(), key))
}

conformance!(tls, tls, reopen = |url: &str| patient(url));
conformance!(
    pooled,
    || subject(pooler().url()),
    reopen = |url: &str| patient(url)
);
