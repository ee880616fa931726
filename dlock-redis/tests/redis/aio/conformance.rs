//! The suite that every store passes, through the async form on both kinds of runtime.

use dlock_testkit::{Subject, async_conformance};

use crate::conformance::{open, server};

fn subject() -> Subject {
    let url = server().url();
    let place = url.clone();
    Subject::of_async(move || open(&url))
        .at(place)
        .foreign_written_by(|_, key| {
            server().command(["RPUSH", key, "not a lock"]);
        })
}

async_conformance!(on_redis, subject, reopen = |url: &str| open(url));
