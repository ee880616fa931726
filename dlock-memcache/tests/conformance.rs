//! The suite that every store passes, against a real server.

mod support;

use dlock_testkit::{Subject, conformance};
use support::{server, store, store_at};

fn subject() -> Subject {
    let server = server();
    Subject::new(move || store(server)).at(server.url())
}

conformance!(memcached, subject, reopen = |url| store_at(url));
