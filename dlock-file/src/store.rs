//! The store: what a claim, an extend and a release do to a record.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{
    Attempt, Characteristics, Claim, Clock, Datastore, DatastoreError, Extension, FencingToken,
    Held, Holder, Inspect, Lease, Reach, Released,
};

use crate::config::FileBuilder;
use crate::error::may_be_done;
use crate::folder::Folder;
use crate::moment::{Clocks, Moment};
use crate::place::Place;
use crate::protocol::{self, FencesUsedUp, Verdict};
use crate::record::Record;
use crate::shard::{Shard, WriteError};
use crate::sweep::{self, Sweeper};
use crate::{FileError, OpenError};

const MAX_KEY: usize = 250;
/// A token is at least the wall clock's microseconds and above the record's: it can only fall if both fail.
const FENCING: &str = "until a record is gone (the folder deleted, the machine crashed, a day after its last lease) while the \
                       wall clock is behind the record's token";
const TTL_MIN: Duration = Duration::from_millis(10);
const TTL_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Locks between the processes of one host, kept in a folder.
///
/// Clones are the same store. It keeps no file open between calls, so a forked child can use it as well.
///
/// **What it promises.** Of all processes of the host that use the folder, in whatever container, one holds a key at a time. A process
/// that dies at any moment leaves the folder usable. A lease is measured on a clock that nobody can set; after a restart of the machine
/// the wall clock takes over. Fencing tokens rise, also when a process dies and when the wall clock is set back. A job that
/// [`once`](dlock_core::Lock::once) marked as done, and what is left of a `min_hold`, outlive a power cut.
///
/// **What it does not.** Other hosts are not excluded; folders on network and FUSE file systems are refused. A plain lease may be forgotten in a
/// power cut, which its holder does not survive either. Tokens fall if a record is gone (the folder deleted, the machine crashed, a day after the
/// key's last lease) while the wall clock is behind it. A process that is stopped in the midst of a call holds up the keys of its shard,
/// a 64th of all, until it goes on or is killed: calls for them end at their deadline and name it. A disk that does not answer holds up
/// a call beyond its deadline. Whoever may write in the folder can take or break any lock.
#[derive(Debug, Clone)]
pub struct FileDatastore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    folder: Folder,
    clocks: Clocks,
    call_timeout: Duration,
    sweeper: Sweeper,
}

impl FileDatastore {
    /// Opens the folder at `path`, after making it if it is not there. A folder that this makes is private to this user; one that
    /// is there may be shared between users, see [`FileBuilder::folder_mode`].
    ///
    /// # Errors
    ///
    /// A folder in which locks cannot be kept; the error's text says what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder(path).open()
    }

    /// Opens this user's own folder: `dlock` in `$XDG_STATE_HOME`, or in `$HOME/.local/state`. Processes of other users are not
    /// excluded: they have folders of their own.
    ///
    /// # Errors
    ///
    /// No such folder, one that another user owns or may write in, or one in which locks cannot be kept; the error's text says what to do.
    pub fn open_default() -> Result<Self, OpenError> {
        FileBuilder::private()?.open()
    }

    /// Opens what a URL names: `file:/some/folder` as [`open`](Self::open) does, `file:` as [`open_default`](Self::open_default) does.
    ///
    /// # Errors
    ///
    /// Another URL, or a folder in which locks cannot be kept; the error's text says what to do.
    pub fn from_url(url: &str) -> Result<Self, OpenError> {
        FileBuilder::from_url(url)?.open()
    }

    /// The options of a store in the folder at `path`.
    pub fn builder(path: impl AsRef<Path>) -> FileBuilder {
        FileBuilder::new(path.as_ref().to_owned())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.shared.folder.path()
    }

    pub(crate) fn new(folder: Folder, call_timeout: Duration) -> Self {
        Self::with_clocks(folder, call_timeout, Clocks::of_this_boot())
    }

    pub(crate) fn with_clocks(folder: Folder, call_timeout: Duration, clocks: Clocks) -> Self {
        FileDatastore {
            shared: Arc::new(Shared {
                folder,
                clocks,
                call_timeout,
                sweeper: Sweeper::default(),
            }),
        }
    }

    /// What every call is, unless it is over when it gets its turn: a call that its caller gave up on must change nothing.
    fn call<A>(
        &self,
        call: &Claim,
        decide: impl FnOnce(Option<Record>, &Moment<'_>) -> Result<Verdict<A>, FencesUsedUp>,
    ) -> Result<A, DatastoreError> {
        self.transact(
            call.key(),
            || call.time_left(),
            |stored, now| match call.time_left().is_zero() {
                true => Err(FileError::Late),
                false => decide(stored, now).map_err(|FencesUsedUp| FileError::FencesUsedUp {
                    record: self.shared.folder.record(&Place::of(call.key()).file),
                }),
            },
        )
    }

    /// Under the key's shard lock: reads its record and the clocks, decides, writes.
    pub(crate) fn transact<A>(
        &self,
        key: &str,
        time_left: impl Fn() -> Duration,
        decide: impl FnOnce(Option<Record>, &Moment<'_>) -> Result<Verdict<A>, FileError>,
    ) -> Result<A, DatastoreError> {
        check_key(key)?;
        let place = Place::of(key);
        // The call's own clock may be a test's, which stands still while we wait.
        let end = Clock::BOOTTIME
            .now()
            .saturating_add(self.shared.call_timeout);
        let time_left = || time_left().min(Clock::BOOTTIME.now().until(end));
        let shard = Shard::lock(&self.shared.folder, place.shard, time_left)?;
        let now = self.shared.clocks.now();
        let stored = shard.read(&place, |record| record.key == key, &now)?;
        let verdict = decide(stored, &now)?;
        if let Some(write) = verdict.write {
            shard
                .write(&place, &write.record, write.durable)
                .map_err(not_written)?;
        }
        Ok(verdict.answer)
    }

    fn free(&self, claim: &Claim) -> Result<Released, DatastoreError> {
        self.call(claim, |stored, now| {
            Ok(protocol::release(stored, claim, now))
        })
    }
}

impl Datastore for FileDatastore {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError> {
        check_holder(claim.holder())?;
        self.characteristics().check_ttl(ttl)?;
        let attempt = self.call(claim, |stored, now| {
            protocol::acquire(stored, claim, ttl, now)
        })?;
        if claim.time_left() > sweep::TIME {
            let shared = &self.shared;
            shared.sweeper.sweep_if_due(&shared.folder, &shared.clocks);
        }
        Ok(attempt)
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        check_holder(lease.holder())?;
        self.characteristics().check_ttl(ttl)?;
        self.call(lease.claim(), |stored, now| {
            Ok(protocol::extend(stored, lease, ttl, now))
        })
    }

    fn release(&self, lease: &Lease) -> Result<Released, DatastoreError> {
        self.free(lease.claim())
    }

    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.free(claim).map(|_: Released| ())
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    fn characteristics(&self) -> Characteristics {
        Characteristics::default()
            .with_ttl(TTL_MIN, TTL_MAX)
            .with_max_key(MAX_KEY)
            .with_reach(Reach::Host)
            .with_fencing(FENCING)
            .with_call_timeout(self.shared.call_timeout)
            .with_single_writer()
            .with_late_calls_refused()
    }
}

fn not_written(error: WriteError) -> DatastoreError {
    match error {
        WriteError::Before(error) => error.into(),
        WriteError::After(error) => may_be_done(error),
    }
}

/// For operators; waits for its turn for at most the store's call timeout.
impl Inspect for FileDatastore {
    fn holder(&self, key: &str) -> Result<Option<Held>, DatastoreError> {
        let time_left = || self.shared.call_timeout;
        self.transact(key, time_left, |stored, now| {
            Ok(protocol::look(stored, now))
        })
    }

    fn break_lease(&self, key: &str, fence: FencingToken) -> Result<Released, DatastoreError> {
        let time_left = || self.shared.call_timeout;
        self.transact(key, time_left, |stored, now| {
            Ok(protocol::break_lease(stored, fence, now))
        })
    }
}

/// A key goes into a record as a line.
fn check_key(key: &str) -> Result<(), FileError> {
    let fits = (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    refuse_unless(fits, || {
        let length = key.len();
        format!(
            "a key is 1 to {MAX_KEY} bytes of printable ASCII without spaces; this one has {length}: {key:.100?}"
        )
    })
}

/// A holder goes into a record as a line.
fn check_holder(text: &str) -> Result<(), FileError> {
    let plain = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    let fits = text.len() <= Holder::MAX_TEXT && text.bytes().all(plain);
    refuse_unless(fits, || {
        let most = Holder::MAX_TEXT;
        format!("a holder description is at most {most} bytes of printable ASCII: {text:.100?}")
    })
}

fn refuse_unless(fits: bool, what: impl FnOnce() -> String) -> Result<(), FileError> {
    match fits {
        true => Ok(()),
        false => Err(FileError::Invalid { what: what() }),
    }
}
