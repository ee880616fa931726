//! The suite that every store passes, through the async form on both kinds of runtime.

use dlock_testkit::{Subject, async_conformance};

use crate::support::{put_foreign, server, store, store_at};

fn subject() -> Subject {
    let server = server();
    Subject::of_async(move || store(server))
        .at(server.url())
        .foreign_written_by(|_, key| put_foreign(self::server(), key))
}

async_conformance!(etcd, subject, reopen = |url: &str| store_at(url));
