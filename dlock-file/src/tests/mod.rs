//! Tests that need to look inside: another boot, a crash or a refusal of the system in the midst of a call, old records.

mod crash;
mod restart;
mod sweep;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use dlock_core::{Attempt, Claim, Clock, Datastore, Extension, Grant, Lease, Time};
use tempfile::TempDir;

use crate::FileDatastore;
use crate::folder::{Folder, Manner};
use crate::moment::Clocks;
use crate::place::Place;

const TTL: Duration = Duration::from_secs(30);
/// The end of the calls in these tests, far off: a starved machine must not make them late.
const CALL: Duration = Duration::from_secs(60);

/// A folder for locks, deleted in the end.
struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        Scratch(tempfile::tempdir().unwrap())
    }

    fn folder(&self) -> Folder {
        let manner = Manner {
            mode: None,
            private: false,
        };
        Folder::open(self.0.path(), manner).unwrap()
    }

    fn open(&self) -> FileDatastore {
        FileDatastore::open(self.0.path()).unwrap()
    }

    /// The store as a process of another boot of the machine sees it.
    fn open_after_restart(&self, boot: &str) -> FileDatastore {
        FileDatastore::with_clocks(self.folder(), CALL, Clocks::of_boot(boot))
    }

    fn record(&self, key: &str) -> PathBuf {
        self.folder().record(&Place::of(key).file)
    }

    /// Makes a file look as if it had last been written so long ago.
    fn age(&self, file: PathBuf, by: Duration) {
        let file = fs::File::options().write(true).open(file).unwrap();
        file.set_modified(std::time::SystemTime::now() - by)
            .unwrap();
    }
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
fn granted(attempt: Attempt) -> Grant {
    match attempt {
        Attempt::Granted(grant) => grant,
        Attempt::Held(held) => panic!("{held}"),
    }
}

fn is_held(store: &FileDatastore, key: &str) -> bool {
    matches!(store.acquire(&claim(key), TTL).unwrap(), Attempt::Held(_))
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
