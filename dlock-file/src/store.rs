//! The store: carries out claims, extends and releases on records.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Clock, Datastore, DatastoreError, ErrorKind, Extension,
    FencingToken, Finding, HeldBy, HeldPage, Holder, Inspect, Lease, PageMark, Reach,
    ReleaseOutcome, Signal, Watch,
};

use crate::config::FileBuilder;
use crate::error::may_be_done;
use crate::findings;
use crate::folder::Folder;
use crate::held;
use crate::now::{Clocks, Now};
use crate::operations::{self, Decision, FencesUsedUp, Write};
use crate::pipe;
use crate::queue::Queue;
use crate::record::{Record, is_holder};
use crate::record_path::RecordPath;
use crate::shard::{Shard, WriteError};
use crate::sweep::{self, Sweeper};
use crate::turn;
use crate::waiting::Waiters;
use crate::{FileError, OpenError};

const MAX_KEY: usize = 250;
/// A token is at least the wall clock in microseconds, and higher than the record's. It can only
/// fall if both fail.
const FENCING: &str = "until a record is gone (it or the folder deleted, the machine crashed) while the wall clock is behind \
                       the record's token";
/// Whether waiters are woken: where a pipe can be opened for reading and writing at once.
const WAKES: bool = cfg!(any(target_os = "linux", target_os = "android"));
const TTL_MIN: Duration = Duration::from_millis(10);
const TTL_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Locks between the processes of one host, kept in a folder.
///
/// Clones are the same store. It keeps no file open between calls, so a forked child can use it
/// too.
///
/// **What it promises.** Of all processes of the host that use the folder, in whatever containers,
/// one at a time holds a key. If a process dies, at whatever moment, the folder stays usable. A
/// lease is measured on a clock that nobody can set; after a restart of the machine, on the wall
/// clock. Fencing tokens rise, even when a process dies or the wall clock is set back. A job that
/// [`once`](dlock_core::Lock::once) marked as done, and the rest of a `min_hold`, survive a power
/// cut.
///
/// **What it does not.** Other hosts are not excluded; folders on network and FUSE file systems are
/// refused. A plain lease may be lost in a power cut, which its holder does not survive either.
/// Tokens fall if a record is gone (it or the folder was deleted, or the machine crashed) while the
/// wall clock is behind it. A process that is stopped in the middle of a call blocks the keys of
/// its shard, a 64th of all, until it continues or is killed; calls for these keys fail at their
/// deadline and name that process. A disk that does not answer can delay a call beyond its
/// deadline. A user that may write in the folder can take or break any lock.
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
    waiters: Waiters,
}

impl FileDatastore {
    /// Opens the folder at `path`. Creates it if it does not exist, but not its parent. A new
    /// folder is private to this user; an existing one may be shared between users, see
    /// [`FileBuilder::folder_mode`].
    ///
    /// # Errors
    ///
    /// If locks cannot be kept in the folder. The error's text says what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder(path).open()
    }

    /// Opens this user's own folder: `dlock` in `$XDG_STATE_HOME`, or in `$HOME/.local/state`.
    /// Processes of other users are not excluded: they have folders of their own.
    ///
    /// # Errors
    ///
    /// If there is no such folder, if another user owns it or may write in it, or if locks cannot
    /// be kept in it. The error's text says what to do.
    pub fn open_default() -> Result<Self, OpenError> {
        FileBuilder::private()?.open()
    }

    /// Opens the folder of a URL: `file:/some/folder` as [`open`](Self::open) does, `file:` as
    /// [`open_default`](Self::open_default) does.
    ///
    /// # Errors
    ///
    /// If the URL is not of this form, or locks cannot be kept in the folder. The error's text says
    /// what to do.
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
                waiters: Waiters::new(),
            }),
        }
    }

    /// Carries out a call on the claim's key. If its time is over when it gets the shard lock, it
    /// changes nothing: its caller has given up.
    fn call<A>(
        &self,
        call: &Claim,
        decide: impl FnOnce(
            Option<Record>,
            &Now<'_>,
            &mut Queue<'_>,
        ) -> Result<Decision<A>, FencesUsedUp>,
    ) -> Result<A, DatastoreError> {
        self.transact(
            call.key(),
            || call.time_left(),
            |stored, now, queue| match call.time_left().is_zero() {
                true => Err(FileError::Late),
                false => {
                    decide(stored, now, queue).map_err(|FencesUsedUp| FileError::FencesUsedUp {
                        record: self.shared.folder.record(&RecordPath::of(call.key()).file),
                    })
                }
            },
        )
    }

    /// Under the key's shard lock, reads the record and the clocks, decides, and writes.
    pub(crate) fn transact<A>(
        &self,
        key: &str,
        time_left: impl Fn() -> Duration,
        decide: impl FnOnce(Option<Record>, &Now<'_>, &mut Queue<'_>) -> Result<Decision<A>, FileError>,
    ) -> Result<A, DatastoreError> {
        check_key(key)?;
        let record_path = RecordPath::of(key);
        let folder = &self.shared.folder;
        // The call's own clock may be a fake one, which stands still during this wait.
        let end = Clock::BOOTTIME
            .now()
            .saturating_add(self.shared.call_timeout);
        let time_left = || time_left().min(Clock::BOOTTIME.now().until(end));
        let shard = Shard::lock(folder, record_path.shard, time_left)?;
        let now = self.shared.clocks.now();
        let stored = shard.read(&record_path, |record| record.key == key, &now)?;
        let is_new = stored.is_none();
        let stored = match stored {
            None => shard.swept(key, &now)?,
            stored => stored,
        };
        let mut queue = Queue::new(&shard, key);
        let mut decision = decide(stored, &now, &mut queue)?;
        let write = |write: &Write| shard.write(&record_path, &write.record, write.durable);
        let mut written = decision.write.as_ref().map(write).transpose();
        let otherwise = decision.turn.as_ref().map(|turn| turn.otherwise.as_ref());
        if let (Err(WriteError::Before(_)), Some(Some(otherwise))) = (&written, otherwise) {
            written = write(otherwise).map(Some);
            decision.turn = None;
        }
        if written.map_err(not_written)?.is_some() && is_new {
            self.shared.sweeper.note_new_record();
        }
        let mut notified = Vec::new();
        if let Some(turn) = decision.turn {
            if turn.is_handed {
                queue.remove(turn.waiter.owner);
                // The new first one must learn when the present lease ends.
                notified.extend(queue.first(None));
            }
            notified.insert(0, turn.waiter);
        }
        // If this fails, a waiter that is done is still in the queue. That is harmless: its next
        // call or its turn takes it off.
        let _ = queue.save();
        // A woken waiter needs the shard.
        drop(shard);
        for waiter in notified {
            pipe::notify(folder, &waiter.pipe, waiter.owner);
        }
        Ok(decision.answer)
    }

    fn free(&self, claim: &Claim) -> Result<ReleaseOutcome, DatastoreError> {
        self.call(claim, |stored, now, queue| {
            Ok(turn::release(stored, claim, now, queue))
        })
    }
}

impl FileDatastore {
    /// Ends a wait. A key that the waiter was handed and did not claim goes to the next one.
    fn leave(&self, claim: &Claim) {
        let waiters = &self.shared.waiters;
        if waiters.gives_up(claim.owner()) {
            let end = claim.clock().now().saturating_add(self.shared.call_timeout);
            // If this fails, the waiter loses its place when its turn has come.
            let _ = self.free(&claim.clone().with_not_after(end));
        }
        waiters.leave(claim.owner());
    }
}

impl Datastore for FileDatastore {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<AcquireOutcome, DatastoreError> {
        check_holder(claim.holder())?;
        self.characteristics().check_ttl(ttl)?;
        let pipe = self.shared.waiters.pipe_of(claim);
        let waits = pipe.is_some();
        let outcome = self.call(claim, |stored, now, queue| {
            turn::acquire(stored, claim, ttl, now, queue, pipe)
        })?;
        if waits {
            let is_granted = matches!(outcome, AcquireOutcome::Granted(_));
            self.shared.waiters.answered(claim.owner(), is_granted);
        }
        if claim.time_left() > sweep::TIME {
            let shared = &self.shared;
            shared.sweeper.sweep_if_due(&shared.folder, &shared.clocks);
        }
        Ok(outcome)
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        check_holder(lease.holder())?;
        self.characteristics().check_ttl(ttl)?;
        self.call(lease.claim(), |stored, now, queue| {
            Ok(turn::extend(stored, lease, ttl, now, queue))
        })
    }

    fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        self.free(lease.claim())
    }

    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.free(claim).map(|_: ReleaseOutcome| ())
    }

    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        let shared = &self.shared;
        if !shared.waiters.enter(&shared.folder, claim, signal) {
            return Ok(None);
        }
        let (store, claim) = (self.clone(), claim.clone());
        Ok(Some(Watch::new(move || store.leave(&claim))))
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    fn characteristics(&self) -> Characteristics {
        let characteristics = Characteristics::default()
            .with_ttl(TTL_MIN, TTL_MAX)
            .with_max_key(MAX_KEY)
            .with_reach(Reach::Host)
            .with_fencing(FENCING)
            .with_call_timeout(self.shared.call_timeout)
            .with_single_writer()
            .with_late_calls_refused();
        match WAKES {
            true => characteristics.with_wakes(),
            false => characteristics,
        }
    }
}

fn not_written(error: WriteError) -> DatastoreError {
    match error {
        WriteError::Before(error) => error.into(),
        WriteError::After(error) => may_be_done(error),
    }
}

/// For operators. A call waits for the shard lock for at most the store's call timeout.
impl Inspect for FileDatastore {
    fn holder(&self, key: &str) -> Result<Option<HeldBy>, DatastoreError> {
        let time_left = || self.shared.call_timeout;
        self.transact(key, time_left, |stored, now, _| {
            Ok(operations::holder(stored, now))
        })
    }

    fn break_lease(
        &self,
        key: &str,
        fence: FencingToken,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        let time_left = || self.shared.call_timeout;
        self.transact(key, time_left, |stored, now, queue| {
            Ok(turn::break_lease(stored, key, fence, now, queue))
        })
    }

    fn waiting(&self, key: &str) -> Result<usize, DatastoreError> {
        if !WAKES {
            let text = "waiters keep no queue on this system";
            return Err(DatastoreError::not_executed(ErrorKind::Unsupported, text));
        }
        let time_left = || self.shared.call_timeout;
        self.transact(key, time_left, |_, _, queue| {
            Ok(Decision::unchanged(queue.count()))
        })
    }

    fn held(&self, prefix: &str, after: Option<&PageMark>) -> Result<HeldPage, DatastoreError> {
        let shared = &self.shared;
        let end = Clock::BOOTTIME.now().saturating_add(shared.call_timeout);
        let time_left = || Clock::BOOTTIME.now().until(end);
        held::held(&shared.folder, &shared.clocks, time_left, prefix, after)
    }

    fn findings(&self) -> Result<Vec<Finding>, DatastoreError> {
        findings::findings(&self.shared.folder)
    }
}

/// A key must fit into one line of a record.
fn check_key(key: &str) -> Result<(), FileError> {
    let fits = (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    refuse_unless(fits, || {
        let length = key.len();
        format!(
            "a key is 1 to {MAX_KEY} bytes of printable ASCII without spaces; this one has {length}: {key:.100?}"
        )
    })
}

/// A holder's text must fit into one line of a record.
fn check_holder(text: &str) -> Result<(), FileError> {
    refuse_unless(is_holder(text), || {
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
