//! What the tests of this crate share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test's helper fails with its test")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dlock_core::{Attempt, Claim, Clock, Datastore, DatastoreError, Grant, Held, Lease};
use dlock_file::FileDatastore;
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

/// The end of the calls in these tests, far off: a starved machine must not make them late.
pub const CALL: Duration = Duration::from_secs(60);

/// A folder for locks, deleted in the end.
pub struct Scratch {
    place: PathBuf,
    _deleted_in_the_end: Option<TempDir>,
}

impl Scratch {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Scratch {
            place: folder.path().to_owned(),
            _deleted_in_the_end: Some(folder),
        }
    }

    /// The one of another process, whose folder is beside nothing in `place`.
    pub fn at(place: PathBuf) -> Self {
        Scratch {
            place,
            _deleted_in_the_end: None,
        }
    }

    /// What another process gives to [`at`](Self::at).
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// The folder for locks; beside it there is nothing.
    pub fn path(&self) -> PathBuf {
        self.place.join("locks")
    }

    pub fn open(&self) -> FileDatastore {
        FileDatastore::open(self.path()).unwrap()
    }

    /// The content of the record whose file name starts with `key`.
    pub fn record(&self, key: &str) -> String {
        std::fs::read_to_string(record_file(&self.path(), key)).unwrap()
    }

    /// How many files there are whose names end with `suffix`.
    pub fn files(&self, suffix: &str) -> usize {
        let files = self.path().read_dir().unwrap();
        let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(suffix)).count()
    }
}

/// Nobody gets into a shard while this lives.
pub struct AllShards(pub Vec<File>);

impl AllShards {
    pub fn lock(folder: &Path) -> Self {
        let shards = (0..64).map(|shard| {
            let path = folder.join(format!("shard-{shard:02}"));
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            let file = options.open(path).unwrap();
            flock(&file, FlockOperation::LockExclusive).unwrap();
            file
        });
        AllShards(shards.collect())
    }
}

/// The record whose file name starts with `key`.
pub fn record_file(folder: &Path, key: &str) -> PathBuf {
    let start = format!("{key}.");
    let mut files = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(&start)
    };
    files.find(is_it).unwrap()
}

pub fn claim(key: &str) -> Claim {
    Claim::new(key, &Clock::BOOTTIME, CALL).unwrap()
}

pub fn lease(claim: Claim, grant: Grant) -> Lease {
    Lease::new(claim, grant)
}

/// A lease on a key that is free.
pub fn acquire(store: &FileDatastore, key: &str, ttl: Duration) -> Lease {
    let claim = claim(key);
    let grant = granted(store.acquire(&claim, ttl));
    Lease::new(claim, grant)
}

#[track_caller]
pub fn granted(attempt: Result<Attempt, DatastoreError>) -> Grant {
    match attempt.unwrap() {
        Attempt::Granted(grant) => grant,
        Attempt::Held(held) => panic!("{held}"),
    }
}

#[track_caller]
pub fn held(attempt: Result<Attempt, DatastoreError>) -> Held {
    match attempt.unwrap() {
        Attempt::Held(held) => held,
        Attempt::Granted(grant) => panic!("{grant:?}"),
    }
}
