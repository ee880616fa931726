//! The suite that every store passes, through the async form on both kinds of runtime.

use dlock_testkit::{Subject, async_conformance};

use crate::support::{RowLock, patient, server};

fn subject() -> Subject {
    let url = server().url();
    let place = url.clone();
    Subject::of_async(move || patient(&url))
        .at(place)
        .record_locked_by(|_, key| RowLock::on(server(), key))
}

async_conformance!(on_postgres, subject, reopen = |url: &str| patient(url));
