//! The file store passes the conformance suite.

use std::fs;

use crate::support::{AllShards, Scratch, acquire};
use dlock_file::FileDatastore;
use dlock_testkit::{Subject, conformance};

conformance!(file, subject, reopen = open);

fn open(place: &str) -> FileDatastore {
    FileDatastore::open(place).unwrap()
}

fn subject() -> Subject {
    let scratch = Scratch::new();
    let folder = scratch.path();
    Subject::new({
        let folder = folder.clone();
        move || FileDatastore::open(&folder).unwrap()
    })
    .at(folder)
    .writer_held_by(|place| AllShards::lock(place.as_ref()))
    .foreign_written_by(write_foreign)
    .without_dangers()
    .cleaned_by(scratch)
}

/// Replaces the record of the key by something foreign.
fn write_foreign(place: &str, key: &str) {
    let store = open(place);
    let records = || -> Vec<_> {
        let files = fs::read_dir(place)
            .unwrap()
            .map(|file| file.unwrap().path());
        files
            .filter(|file| file.extension().is_some_and(|end| end == "lease"))
            .collect()
    };
    let before = records();
    acquire(&store, key, std::time::Duration::from_secs(1));
    let made = records()
        .into_iter()
        .find(|file| !before.contains(file))
        .unwrap();
    fs::write(made, "written by hand").unwrap();
}
