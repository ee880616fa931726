//! Deletes records that are no longer needed, and what dead waiters have left.
//!
//! The sweep is safe even if the wall clock of the sweeping process is wrong. A record with a lease
//! of this boot is judged by the boot-time clock. The shard keeps the token of a deleted record, so
//! the key's next token is higher, whenever the record was deleted.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dlock_core::Clock;

use crate::files;
use crate::folder::Folder;
use crate::listing;
use crate::now::{Clocks, Now};
use crate::pipe;
use crate::queue::Queue;
use crate::record::{Record, StoredGrant};
use crate::record_path::{RecordPath, SHARDS};
use crate::shard::Shard;

/// How long a record is kept after its lease has ended.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(86_400);
/// How often one of the processes that use the folder makes a longer sweep.
const EVERY: Duration = Duration::from_secs(3600);
/// How long such a sweep may take. In tests it is longer, so that they pass on an overloaded
/// machine.
pub(crate) const TIME: Duration = Duration::from_millis(if cfg!(test) { 10_000 } else { 20 });
/// How many files a claim checks after it has created one. Since it checks more than it creates,
/// the folder has hardly more records than names were used in the last [`KEPT_FOR`].
const FOR_EACH_NEW: usize = 16;
/// The number of names that are listed at a time.
const LIST_SIZE: usize = 64;

/// Knows when to sweep again.
#[derive(Debug, Default)]
pub(crate) struct Sweeper {
    /// The next time to check the file `swept`, on the boot-time clock, so that not every claim
    /// reads it.
    next: AtomicU64,
    /// Whether this process has created a record since its last sweep.
    made: AtomicBool,
}

impl Sweeper {
    /// Notes that a record was created.
    pub(crate) fn note_new_record(&self) {
        self.made.store(true, Ordering::Relaxed);
    }

    /// Sweeps a few files if a record was created, and more if no process has swept for an hour.
    /// Errors are ignored: a call that needs the file will report them.
    pub(crate) fn sweep_if_due(&self, folder: &Folder, clocks: &Clocks) {
        let made = self.made.load(Ordering::Relaxed) && self.made.swap(false, Ordering::Relaxed);
        let now = Clock::BOOTTIME.now();
        let look = now.as_nanos() >= self.next.load(Ordering::Relaxed);
        if look {
            let next = now.saturating_add(EVERY).as_nanos();
            self.next.store(next, Ordering::Relaxed);
        }
        if look && is_due(folder, clocks) {
            sweep(folder, clocks, TIME, usize::MAX);
        } else if made {
            sweep(folder, clocks, TIME, FOR_EACH_NEW);
        }
    }
}

/// Returns whether no process has swept for an hour. A time in the future does not count as a
/// sweep.
fn is_due(folder: &Folder, clocks: &Clocks) -> bool {
    let found = fs::symlink_metadata(folder.swept()).and_then(|found| found.modified());
    found.map_or(true, |modified| {
        clocks.now().is_untouched_for(modified, EVERY)
    })
}

/// Deletes the old records among the next `most` files, within `time`. It continues where the last
/// sweep of any process stopped, and passes the end of the folder at most twice.
pub(crate) fn sweep(folder: &Folder, clocks: &Clocks, time: Duration, most: usize) {
    let start = Instant::now();
    let Ok((notes, _)) = files::open_to_write(&folder.swept(), folder.file_mode) else {
        return;
    };
    let mut position = noted(&notes);
    let (mut left, mut ends) = (most, 0);
    while left > 0 && ends < 2 && start.elapsed() < time {
        let listed = listing::names(folder.path(), position, left.min(LIST_SIZE));
        let Ok((names, next)) = listed else {
            return;
        };
        ends += u32::from(next.is_none());
        position = next.unwrap_or(0);
        // Write the position before the work, so that concurrent sweeps share it.
        if note(&notes, position).is_err() {
            return;
        }
        left -= names.len();
        for name in names.iter().take_while(|_| start.elapsed() < time) {
            pipe::sweep(folder, clocks, name);
            if let Some(shard) = shard_of_queue(name) {
                remove_dead_waiters(folder, shard);
            }
            if let Some(record_path) = RecordPath::of_file(name)
                && looks_old(folder, clocks, &record_path)
            {
                delete_if_old(folder, clocks, &record_path);
            }
        }
    }
}

/// The most bytes of the position in the file `swept`: a decimal number and a newline.
const NOTE: u64 = 21;

/// The position where the last sweep stopped; the beginning if the file has none.
fn noted(notes: &File) -> u64 {
    let found = notes.metadata().ok();
    let bytes = found.and_then(|found| files::content(notes, &found, NOTE).ok()?);
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.and_then(|text| text.trim_end().parse().ok())
        .unwrap_or(0)
}

fn note(notes: &File, position: u64) -> std::io::Result<()> {
    if notes.metadata()?.len() > NOTE {
        notes.set_len(0)?;
    }
    notes.write_all_at(format!("{position:020}\n").as_bytes(), 0)
}

/// Returns whether a record is worth reading. The time of its file may be wrong either way.
fn looks_old(folder: &Folder, clocks: &Clocks, record_path: &RecordPath) -> bool {
    let found = fs::symlink_metadata(folder.record(&record_path.file));
    found.is_ok_and(|found| {
        let modified = found.modified();
        found.is_file()
            && modified.is_ok_and(|modified| clocks.now().is_untouched_for(modified, KEPT_FOR))
    })
}

/// The shard whose queue has this file name.
fn shard_of_queue(name: &str) -> Option<u8> {
    let shard = name.strip_prefix("shard-")?.strip_suffix(".queue")?;
    shard.parse().ok().filter(|shard| *shard < SHARDS)
}

/// Takes the waiters of dead processes off a queue. Otherwise, if their key is not used again, each
/// call for another key of the shard would read their lines.
fn remove_dead_waiters(folder: &Folder, shard: u8) {
    if let Ok(Some(shard)) = Shard::try_lock(folder, shard) {
        let mut queue = Queue::new(&shard, "");
        queue.remove_dead();
        // A later sweep tries again after an error.
        let _ = queue.save();
    }
}

/// Reads the record under its shard lock, and deletes it if it is old. It does not wait for the
/// lock: a process that has it is using the shard.
fn delete_if_old(folder: &Folder, clocks: &Clocks, record_path: &RecordPath) {
    let Ok(Some(shard)) = Shard::try_lock(folder, record_path.shard) else {
        return;
    };
    let now = clocks.now();
    let is_right = |record: &Record| RecordPath::of(&record.key) == *record_path;
    // A later sweep tries again after an error.
    let _ = match shard.read(record_path, is_right, &now) {
        // A crash of the machine left it half-written.
        Ok(None) => shard.remove(record_path).is_ok(),
        Ok(Some(record)) if is_old(&shard, &record, &now) => {
            shard.sweep(record_path, record.fence, &now).is_ok()
        }
        // It is needed, or an operator should look at it.
        Ok(Some(_)) | Err(_) => false,
    };
}

fn is_old(shard: &Shard<'_>, record: &Record, now: &Now<'_>) -> bool {
    let over = |holding: &StoredGrant| now.is_past(&holding.ends, KEPT_FOR);
    record.holding.as_ref().is_none_or(over) && is_ordinary(shard, record.fence, now)
}

/// Returns whether the shard may keep this token. All later tokens of keys without a record are
/// higher than the kept one. So a token from far in the future stays in its record, unless the
/// shard's tokens are that high already.
fn is_ordinary(shard: &Shard<'_>, fence: u64, now: &Now<'_>) -> bool {
    if fence < now.wall {
        return true;
    }
    let kept = shard.swept_fence(now).ok().flatten();
    let day = u64::try_from(KEPT_FOR.as_micros()).unwrap_or(u64::MAX);
    kept.is_some_and(|kept| kept >= now.wall && fence < kept.saturating_add(day))
}
