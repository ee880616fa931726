//! The conformance suite against a real server.

use dlock_testkit::{Subject, conformance};

use crate::support::{put_foreign, server, store_at};

fn subject() -> Subject {
    let url = server().url();
    let place = url.clone();
    Subject::new(move || store_at(&url))
        .at(place)
        .foreign_written_by(|_, key| put_foreign(server(), key))
}

conformance!(etcd, subject, reopen = |url: &str| store_at(url));
