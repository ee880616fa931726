//! Helpers for the tests of this crate.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dlock_core::{AcquireOutcome, Claim, Clock, Datastore, DatastoreError, Grant, HeldBy, Lease};
use dlock_file::FileDatastore;
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

/// The time of a call in these tests. It is long, so that an overloaded machine does not make calls
/// late.
pub(crate) const CALL: Duration = Duration::from_secs(60);

/// A folder for locks that is deleted at the end.
pub(crate) struct Scratch {
    place: PathBuf,
    _deleted_in_the_end: Option<TempDir>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Scratch {
            place: folder.path().to_owned(),
            _deleted_in_the_end: Some(folder),
        }
    }

    /// The folder of another process, in `place`.
    pub(crate) fn at(place: PathBuf) -> Self {
        Scratch {
            place,
            _deleted_in_the_end: None,
        }
    }

    /// The path that another process passes to [`at`](Self::at).
    pub(crate) fn place(&self) -> &Path {
        &self.place
    }

    /// The folder for locks. It is the only entry of its parent.
    pub(crate) fn path(&self) -> PathBuf {
        self.place.join("locks")
    }

    /// A store that waits for a shard for as long as a busy machine may stop its owner.
    pub(crate) fn open(&self) -> FileDatastore {
        let builder = FileDatastore::builder(self.path()).call_timeout(CALL);
        builder.open().unwrap()
    }

    /// The content of the record whose file name starts with `key`.
    pub(crate) fn record(&self, key: &str) -> String {
        std::fs::read_to_string(record_file(&self.path(), key)).unwrap()
    }

    /// The number of files whose names end with `suffix`.
    pub(crate) fn files(&self, suffix: &str) -> usize {
        let files = self.path().read_dir().unwrap();
        let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(suffix)).count()
    }
}

/// Keeps all shards locked while it lives.
pub(crate) struct AllShards(pub Vec<File>);

impl AllShards {
    pub(crate) fn lock(folder: &Path) -> Self {
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
pub(crate) fn record_file(folder: &Path, key: &str) -> PathBuf {
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

pub(crate) fn claim(key: &str) -> Claim {
    Claim::new(key, &Clock::BOOTTIME, CALL).unwrap()
}

pub(crate) fn lease(claim: Claim, grant: Grant) -> Lease {
    Lease::new(claim, grant)
}

/// A lease on a key that is free.
pub(crate) fn acquire(store: &FileDatastore, key: &str, ttl: Duration) -> Lease {
    let claim = claim(key);
    let grant = granted(store.acquire(&claim, ttl));
    Lease::new(claim, grant)
}

#[track_caller]
pub(crate) fn granted(attempt: Result<AcquireOutcome, DatastoreError>) -> Grant {
    match attempt.unwrap() {
        AcquireOutcome::Granted(grant) => grant,
        AcquireOutcome::Held(held) => panic!("{held}"),
    }
}

#[track_caller]
pub(crate) fn held(attempt: Result<AcquireOutcome, DatastoreError>) -> HeldBy {
    match attempt.unwrap() {
        AcquireOutcome::Held(held) => held,
        AcquireOutcome::Granted(grant) => panic!("{grant:?}"),
    }
}

/// The seconds after which the system ends a forked child, which may hang: the test that waits for
/// it would too.
const CHILD_LIMIT: u32 = 60;

/// A command that runs `body` in the forked child, before it executes `true`.
#[allow(unsafe_code)]
pub(crate) fn forking(
    mut body: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
) -> Command {
    let mut command = Command::new("true");
    let bounded = move || {
        // SAFETY: it takes any number.
        unsafe { libc::alarm(CHILD_LIMIT) };
        body()
    };
    // SAFETY: what the child does between fork and exec is file system calls and memory from an
    // allocator that survives forks (glibc's takes its locks over); it touches no lock that another
    // thread may have had.
    unsafe { command.pre_exec(bounded) };
    command
}
