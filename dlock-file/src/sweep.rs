//! Deletes the records that nobody needs any more.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use dlock_core::Clock;

use crate::folder::Folder;
use crate::moment::Clocks;
use crate::place::Place;
use crate::record::{Holding, Record};
use crate::shard::Shard;

/// How long a record is kept after its lease ended. The fence of a key that has no record any more comes from the wall clock,
/// so this is also how far that may be set back without harm.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(86_400);
/// How often somebody looks, of all the processes that use the folder.
const EVERY: Duration = Duration::from_secs(3600);
/// How long the one who looks may take. Longer in tests, which a starved machine must not fail.
pub(crate) const TIME: Duration = Duration::from_millis(if cfg!(test) { 10_000 } else { 20 });

/// Knows when to look again.
#[derive(Debug, Default)]
pub(crate) struct Sweeper {
    /// On the boot-time clock; so that not every claim looks at the file.
    next: AtomicU64,
}

impl Sweeper {
    /// Sweeps if nobody has for an hour. What fails here fails again, and louder, in a call that needs it.
    pub(crate) fn sweep_if_due(&self, folder: &Folder, clocks: &Clocks) {
        let now = Clock::BOOTTIME.now();
        if now.as_nanos() < self.next.load(Ordering::Relaxed) {
            return;
        }
        let next = now.saturating_add(EVERY).as_nanos();
        self.next.store(next, Ordering::Relaxed);
        if is_due(folder, clocks) {
            sweep(folder, clocks, TIME);
        }
    }
}

/// Whether nobody has swept for an hour; if so, the others see at once that somebody does.
fn is_due(folder: &Folder, clocks: &Clocks) -> bool {
    let path = folder.swept();
    match fs::metadata(&path).and_then(|found| found.modified()) {
        Ok(modified) if !clocks.now().is_untouched_for(modified, EVERY) => return false,
        _ => {}
    }
    let file = folder.open_or_make(&path);
    file.and_then(|file| file.set_modified(SystemTime::now()))
        .is_ok()
}

/// Deletes what is old, as far as it gets in `time`.
pub(crate) fn sweep(folder: &Folder, clocks: &Clocks, time: Duration) {
    let start = Instant::now();
    let Ok(entries) = fs::read_dir(folder.path()) else {
        return;
    };
    for entry in entries.flatten() {
        if start.elapsed() >= time {
            return;
        }
        let name = entry.file_name();
        let Some(place) = name.to_str().and_then(Place::of_file) else {
            continue;
        };
        let modified = entry.metadata().and_then(|found| found.modified());
        if modified.is_ok_and(|modified| clocks.now().is_untouched_for(modified, KEPT_FOR)) {
            delete_if_old(folder, clocks, &place);
        }
    }
}

/// Looks at the record again under its lock. Never waits for one: whoever is in there needs the record.
fn delete_if_old(folder: &Folder, clocks: &Clocks, place: &Place) {
    let Ok(Some(shard)) = Shard::try_lock(folder, place.shard) else {
        return;
    };
    let now = clocks.now();
    let is_right = |record: &Record| Place::of(&record.key) == *place;
    let old = match shard.read(place, is_right, &now) {
        // Left half-written by a crash of the machine.
        Ok(None) => true,
        Ok(Some(record)) => {
            let over = |holding: Holding| now.is_past(&holding.ends, KEPT_FOR);
            // Else the next token would be lower than the last.
            let clock_carries_on = now.wall > record.fence;
            clock_carries_on && record.holding.is_none_or(over)
        }
        // Somebody should look at it.
        Err(_) => false,
    };
    if old {
        let _ = shard.remove(place);
    }
}
