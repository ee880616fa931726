//! The suite that every store passes, through the async form on both kinds of runtime.

use dlock_testkit::{Subject, async_conformance};

use crate::support::{server, store, store_at};

fn subject() -> Subject {
    let server = server();
    Subject::of_async(move || store(server))
        .at(server.url())
        .without_dangers()
}

async_conformance!(memcached, subject, reopen = |url: &str| store_at(url));
