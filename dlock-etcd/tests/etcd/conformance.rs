//! The conformance suite against a real server.

use std::sync::OnceLock;

use dlock_test_servers::EtcdServer;
use dlock_testkit::{Subject, conformance};

use crate::support::{put_foreign, server, store_at};

fn subject() -> Subject {
    let url = server().url();
    let place = url.clone();
    Subject::new(move || store_at(&url))
        .at(place)
        .foreign_written_by(|_, key| put_foreign(server(), key))
}

/// The server with TLS of all tests that do not disturb it.
fn tls_server() -> &'static EtcdServer {
    static SERVER: OnceLock<EtcdServer> = OnceLock::new();
    SERVER.get_or_init(EtcdServer::start_requiring_certificates)
}

fn tls() -> Subject {
    let url = crate::tls::with_identity(tls_server(), tls_server());
    let place = url.clone();
    Subject::new(move || store_at(&url))
        .at(place)
        .foreign_written_by(|_, key| put_foreign(tls_server(), key))
}

conformance!(tls, tls, reopen = |url: &str| store_at(url));
conformance!(etcd, subject, reopen = |url: &str| store_at(url));
