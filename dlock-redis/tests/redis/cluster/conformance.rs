//! The suite that every store passes, on a cluster.

use dlock_testkit::{Subject, conformance};

use super::whole;
use crate::conformance::open;

fn placed(subject: Subject) -> Subject {
    let place = whole().url();
    subject.at(place).foreign_written_by(|_, key| {
        let owner = whole().owner_of(key);
        whole().node(owner).command(["RPUSH", key, "not a lock"]);
    })
}

conformance!(
    blocking,
    || placed(Subject::new(|| open(&whole().url()))),
    reopen = |url: &str| open(url)
);

#[cfg(feature = "tokio")]
dlock_testkit::async_conformance!(
    aio,
    || placed(Subject::of_async(|| open(&whole().url()))),
    reopen = |url: &str| open(url)
);
