//! The whole suite, by one macro call.

use dlock_sqlite_example::SqliteDatastore;
use dlock_testkit::{Subject, conformance};
use rusqlite::Connection;

conformance!(
    sqlite,
    subject,
    reopen = |file: &str| SqliteDatastore::open(file).unwrap()
);

fn subject() -> Subject {
    // In memory where possible: the suite shows the laws, not how fast this disk is.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let folder = folder.unwrap();
    let file = folder.path().join("locks.db");
    let open = {
        let file = file.clone();
        move || SqliteDatastore::open(&file).unwrap()
    };
    Subject::new(open)
        .at(file)
        .cleaned_by(folder)
        .writer_held_by(busy)
}

/// Another connection that is writing and does not come to an end.
fn busy(file: &str) -> Connection {
    let writer = Connection::open(file).unwrap();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    writer
}
