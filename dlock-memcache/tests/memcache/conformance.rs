//! The conformance suite against a real server.

use crate::support::{server, store, store_at};
use dlock_testkit::{Subject, conformance};

fn subject() -> Subject {
    let server = server();
    Subject::new(move || store(server))
        .at(server.url())
        .without_dangers()
}

conformance!(memcached, subject, reopen = |url| store_at(url));
