//! Tests that need internals: another boot, a crash or a failure of the system in the middle of a
//! call, old records.

mod crash;
mod restart;
mod sweep;
mod waiting;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dlock_core::{AcquireOutcome, Claim, Clock, Datastore, Extension, Grant, Lease, Time};
use tempfile::TempDir;

use crate::FileDatastore;
use crate::folder::{Folder, OpenMode};
use crate::now::Clocks;
use crate::record_path::RecordPath;

const TTL: Duration = Duration::from_secs(30);
/// The time of a call in these tests. It is long, so that an overloaded machine does not make calls
/// late.
const CALL: Duration = Duration::from_secs(60);

/// A folder for locks that is deleted at the end.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        Scratch(tempfile::tempdir().unwrap())
    }

    fn folder(&self) -> Folder {
        folder_at(self.0.path())
    }

    /// A store that waits for a shard for as long as a busy machine may stop its owner.
    fn open(&self) -> FileDatastore {
        let builder = FileDatastore::builder(self.0.path()).call_timeout(CALL);
        builder.open().unwrap()
    }

    /// The store, opened as by a process after a restart of the machine.
    fn open_after_restart(&self, boot: &str) -> FileDatastore {
        FileDatastore::with_clocks(self.folder(), CALL, Clocks::of_boot(boot))
    }

    fn record(&self, key: &str) -> PathBuf {
        self.folder().record(&RecordPath::of(key).file)
    }

    /// The number of files in the folder.
    fn count(&self) -> usize {
        self.0.path().read_dir().unwrap().count()
    }

    /// Sets the modification time of a file to `by` ago.
    fn age(&self, file: PathBuf, by: Duration) {
        let file = fs::File::options().write(true).open(file).unwrap();
        file.set_modified(std::time::SystemTime::now() - by)
            .unwrap();
    }
}

fn folder_at(path: &Path) -> Folder {
    let open_mode = OpenMode {
        mode: None,
        private: false,
    };
    Folder::open(path, open_mode).unwrap()
}

fn claim(key: &str) -> Claim {
    Claim::new(key, &Clock::BOOTTIME, CALL).unwrap()
}

fn acquire(store: &FileDatastore, key: &str, ttl: Duration) -> Lease {
    let claim = claim(key);
    let grant = granted(store.acquire(&claim, ttl).unwrap());
    Lease::new(claim, grant)
}

#[track_caller]
fn granted(attempt: AcquireOutcome) -> Grant {
    match attempt {
        AcquireOutcome::Granted(grant) => grant,
        AcquireOutcome::Held(held) => panic!("{held}"),
    }
}

fn is_held(store: &FileDatastore, key: &str) -> bool {
    matches!(
        store.acquire(&claim(key), TTL).unwrap(),
        AcquireOutcome::Held(_)
    )
}

fn is_lost(store: &FileDatastore, lease: &Lease) -> bool {
    matches!(
        store.extend(&lease.for_call(1, later()), TTL).unwrap(),
        Extension::Lost
    )
}

fn later() -> Time {
    Clock::BOOTTIME.now().saturating_add(CALL)
}
