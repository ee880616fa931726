//! The store: what a claim, an extend and a release do to a record.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::{
    Attempt, Characteristics, Claim, Clock, Datastore, DatastoreError, Extension, FencingToken,
    Held, Holder, Lease, Reach, Released,
};

use crate::config::FileBuilder;
use crate::error::may_be_done;
use crate::fault::{Step, reached};
use crate::folder::Folder;
use crate::moment::{Clocks, Moment};
use crate::place::Place;
use crate::record::{Holding, Record};
use crate::shard::{Shard, WriteError};
use crate::sweep::Sweeper;
use crate::{FileError, OpenError};

const MAX_KEY: usize = 250;
/// A token is at least the wall clock's microseconds and above the record's: it can only fall if both fail.
const FENCING: &str = "until a record is gone (the folder deleted, the machine crashed, a day after its last lease) while the \
                       wall clock is behind the record's token";
const TTL_MIN: Duration = Duration::from_millis(10);
const TTL_MAX: Duration = Duration::from_secs(365 * 86_400);
/// What a crash of the machine may take along without anybody noticing: no machine is back within this time.
const SHORTER_THAN_A_RESTART: Duration = Duration::from_secs(1);
/// From this length on a claim is taken to be meant to outlive its process.
const LONG_CLAIM: Duration = Duration::from_secs(3600);

/// Locks between the processes of one host, kept in a folder.
///
/// Clones are the same store. It keeps no file open and no state but the folder's path, so a forked child can use it as well.
///
/// What it promises and what it does not is on the crate's front page.
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

    fn with_clocks(folder: Folder, call_timeout: Duration, clocks: Clocks) -> Self {
        FileDatastore {
            shared: Arc::new(Shared {
                folder,
                clocks,
                call_timeout,
                sweeper: Sweeper::default(),
            }),
        }
    }

    /// Locks the shard of a call's key, unless the call is over by then: a call that its caller gave up on must change nothing.
    fn enter(&self, shard: u8, call: &Claim) -> Result<Shard<'_>, FileError> {
        // The call's own clock may be a test's, which stands still while we wait.
        let end = Clock::BOOTTIME
            .now()
            .saturating_add(self.shared.call_timeout);
        let time_left = || call.time_left().min(Clock::BOOTTIME.now().until(end));
        let entered = Shard::lock(&self.shared.folder, shard, time_left)?;
        match call.time_left().is_zero() {
            true => Err(FileError::Late),
            false => Ok(entered),
        }
    }

    /// Frees the key if `claim` holds it.
    fn free(&self, claim: &Claim) -> Result<Released, DatastoreError> {
        check_key(claim.key())?;
        let place = Place::of(claim.key());
        let shard = self.enter(place.shard, claim)?;
        let now = self.shared.clocks.now();
        let Some(record) = shard.read(&place, claim.key(), &now)? else {
            return Ok(Released::NotOurs);
        };
        if live(&record, &now).is_none_or(|(holding, _)| holding.owner != claim.owner()) {
            return Ok(Released::NotOurs);
        }
        // The record stays, for its fence.
        let freed = Record {
            holding: None,
            ..record
        };
        shard.write(&place, &freed, false).map_err(not_written)?;
        Ok(Released::Ours)
    }

    fn path_of(&self, place: &Place) -> std::path::PathBuf {
        self.shared.folder.record(&place.file)
    }
}

impl Datastore for FileDatastore {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError> {
        check_key(claim.key())?;
        check_holder(claim.holder())?;
        check_ttl(ttl, TTL_MIN)?;
        let place = Place::of(claim.key());
        let shard = self.enter(place.shard, claim)?;
        let now = self.shared.clocks.now();
        let stored = shard.read(&place, claim.key(), &now)?;
        reached(Step::Read).map_err(|error| FileError::io(self.path(), "read", error))?;

        let mut last_fence = None;
        if let Some(record) = stored {
            if let Some((holding, left)) = live(&record, &now) {
                let fence = FencingToken::new(record.fence);
                if holding.owner != claim.owner() {
                    let held = Held::new().with_expires_in(left).with_fence(fence);
                    return Ok(Attempt::Held(held.with_holder_text(&holding.holder)));
                }
                if left >= ttl {
                    return Ok(Attempt::granted(left, fence));
                }
                let ends = now.after(ttl);
                let holding = Some(Holding {
                    ends,
                    ..holding.clone()
                });
                let raised = Record { holding, ..record };
                shard
                    .write(&place, &raised, ttl >= LONG_CLAIM)
                    .map_err(not_written)?;
                return Ok(Attempt::granted(ttl, fence));
            }
            last_fence = Some(record.fence);
        }

        let fence = next_fence(last_fence, now.wall).ok_or_else(|| FileError::FencesUsedUp {
            record: self.path_of(&place),
        })?;
        let record = Record {
            key: claim.key().to_owned(),
            fence,
            holding: Some(Holding {
                owner: claim.owner(),
                sequence: 0,
                ends: now.after(ttl),
                holder: claim.holder().to_owned(),
            }),
        };
        shard
            .write(&place, &record, ttl >= LONG_CLAIM)
            .map_err(not_written)?;
        drop(shard);
        self.shared
            .sweeper
            .sweep_if_due(&self.shared.folder, &self.shared.clocks);
        Ok(Attempt::granted(ttl, FencingToken::new(fence)))
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        check_key(lease.key())?;
        check_holder(lease.holder())?;
        // Core may ask for less than a claim can have, so that a lease ends at a certain time.
        check_ttl(ttl, Duration::ZERO)?;
        let place = Place::of(lease.key());
        let shard = self.enter(place.shard, lease.claim())?;
        let now = self.shared.clocks.now();
        let Some(record) = shard.read(&place, lease.key(), &now)? else {
            return Ok(Extension::Lost);
        };
        let (holding, left) = match live(&record, &now) {
            Some((holding, left)) if holding.owner == lease.owner() => (holding, left),
            _ => return Ok(Extension::Lost),
        };
        if lease.sequence() <= holding.sequence {
            return Ok(lease.extended(left));
        }
        let durable = must_outlive_the_process(lease, holding, ttl);
        let extended = Record {
            holding: Some(Holding {
                owner: lease.owner(),
                sequence: lease.sequence(),
                ends: now.after(ttl),
                holder: lease.holder().to_owned(),
            }),
            ..record
        };
        shard
            .write(&place, &extended, durable)
            .map_err(not_written)?;
        Ok(lease.extended(ttl))
    }

    fn release(&self, lease: &Lease) -> Result<Released, DatastoreError> {
        self.free(lease.claim())
    }

    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.free(claim).map(|_: Released| ())
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

/// The grant that a record stands for and how long it lasts, if it is not over.
fn live<'r>(record: &'r Record, now: &Moment<'_>) -> Option<(&'r Holding, Duration)> {
    let holding = record.holding.as_ref()?;
    Some((holding, now.until(&holding.ends)?))
}

/// The clock keeps tokens rising when the record is gone, the record when the clock was set back.
fn next_fence(last: Option<u64>, wall: u64) -> Option<u64> {
    match last {
        None => Some(wall),
        Some(last) => Some(last.checked_add(1)?.max(wall)),
    }
}

/// Whether an extend must be on the disk when it returns. A lease that is being renewed need not: with the machine its holder is gone.
/// What core keeps for after the holder's end (`min_hold`, the mark of `once`) is asked for by an extend which is not like the
/// one before: another time, or another description. A needless yes costs one sync.
fn must_outlive_the_process(lease: &Lease, stored: &Holding, ttl: Duration) -> bool {
    let unlike = ttl != lease.grant().ttl || lease.holder() != stored.holder;
    unlike && ttl >= SHORTER_THAN_A_RESTART
}

fn not_written(error: WriteError) -> DatastoreError {
    match error {
        WriteError::Before(error) => error.into(),
        WriteError::After(error) => may_be_done(error),
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

fn check_ttl(ttl: Duration, least: Duration) -> Result<(), FileError> {
    refuse_unless((least..=TTL_MAX).contains(&ttl), || {
        format!("a time to live of {ttl:?} is outside {least:?} to {TTL_MAX:?}")
    })
}

fn refuse_unless(fits: bool, what: impl FnOnce() -> String) -> Result<(), FileError> {
    match fits {
        true => Ok(()),
        false => Err(FileError::Invalid { what: what() }),
    }
}
