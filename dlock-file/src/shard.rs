//! The lock of a shard, and the operations on records that it protects.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::thread::nanosleep;
use rustix::time::Timespec;

use crate::FileError;
use crate::failpoint::{Failpoint, reached};
use crate::files;
use crate::folder::Folder;
use crate::now::Now;
use crate::record::{MAX_BYTES, Record, Unreadable, padded_to};
use crate::record_path::RecordPath;

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::lock_owner::lock_owner;

/// Other systems have no readable list of locks.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn lock_owner(_: &Path) -> Option<u32> {
    None
}

/// The first pause between two tries: about as long as a call holds the lock.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
/// The longest pause between two tries: the most that a call waits after the lock is free.
const LAST_PAUSE: Duration = Duration::from_millis(5);

/// The key in a shard's record of its highest deleted token. A real key has no spaces.
const SWEPT: &str = "(the highest token of the records that were deleted in this shard)";

/// The smallest page size of a machine.
const PAGE: usize = 4096;

/// A locked shard.
///
/// The lock is an `flock`, which belongs to the open file. Each call opens the shard anew, so
/// threads and handles of one process exclude each other as processes do. The lock ends with the
/// process, however that ends.
#[derive(Debug)]
pub(crate) struct Shard<'a> {
    folder: &'a Folder,
    number: u8,
    file: File,
    /// How many bytes of the shard's queue count: the length of the shard file. `None` if the shard
    /// file has a second name. Then it may be a foreign file, and is not changed.
    queue_length: Cell<Option<u64>>,
}

impl<'a> Shard<'a> {
    /// Locks the shard. Waits for it while `time_left` is not zero.
    pub(crate) fn lock(
        folder: &'a Folder,
        number: u8,
        time_left: impl Fn() -> Duration,
    ) -> Result<Self, FileError> {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(shard) = Self::try_lock(folder, number)? {
                return Ok(shard);
            }
            let left = time_left();
            if left.is_zero() {
                let shard = folder.shard(number);
                let pid = lock_owner(&shard);
                return Err(FileError::Busy { shard, pid });
            }
            sleep(pause.min(left));
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Locks the shard if it is not locked.
    pub(crate) fn try_lock(folder: &'a Folder, number: u8) -> Result<Option<Self>, FileError> {
        let path = folder.shard(number);
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::NotFound => FileError::FolderGone {
                folder: folder.path().to_owned(),
            },
            _ => FileError::io(&path, "lock", error),
        };
        for _ in 0..files::TRIES {
            let file = files::open_or_make(&path, folder.file_mode).map_err(failed)?;
            reached(Failpoint::ShardOpened).map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed(errno.into())),
            }
            let shard = Shard {
                folder,
                number,
                file,
                queue_length: Cell::new(None),
            };
            let found = shard.file.metadata().map_err(failed)?;
            if !found.is_file() {
                return Err(FileError::NotPlain { path });
            }
            // If a user has emptied the folder meanwhile, this lock is on a file that other
            // processes no longer open, though a hard-linked copy of the folder may still have it.
            match fs::symlink_metadata(&path) {
                Ok(there) if (there.ino(), there.dev()) == (found.ino(), found.dev()) => {
                    shard
                        .queue_length
                        .set((found.nlink() == 1).then_some(found.len()));
                    return Ok(Some(shard));
                }
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        // Other processes keep replacing the file. Return, so that the caller can check its
        // deadline.
        Ok(None)
    }

    /// The record at `record_path`, if `is_right` accepts it. A file that a crash of the machine
    /// left half-written, or with older content, counts as missing.
    pub(crate) fn read(
        &self,
        record_path: &RecordPath,
        is_right: impl FnOnce(&Record) -> bool,
        now: &Now<'_>,
    ) -> Result<Option<Record>, FileError> {
        let path = self.folder.record(&record_path.file);
        reached(Failpoint::ShardLocked).map_err(|error| FileError::io(&path, "read", error))?;
        let failed = |error| FileError::io(&path, "read", error);
        let file = match files::open_to_read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let found = file.metadata().map_err(failed)?;
        let content = files::content(&file, &found, MAX_BYTES).map_err(failed)?;
        let bytes = content.unwrap_or_default();
        match Record::from_text(&bytes) {
            Ok(record) if is_right(&record) => return Ok(Some(record)),
            Err(Unreadable::Newer) => return Err(FileError::Newer { record: path }),
            Ok(_) | Err(Unreadable::Garbage) => {}
        }
        let modified = found.modified().map_err(failed)?;
        match found.is_file() && now.is_older_boot(modified) {
            true => Ok(None),
            false => Err(FileError::Unreadable { record: path }),
        }
    }

    /// A substitute for the record of a key that was deleted: free, with the highest token of all
    /// records that were deleted in this shard. `None` if none was deleted.
    pub(crate) fn swept(&self, key: &str, now: &Now<'_>) -> Result<Option<Record>, FileError> {
        let fence = self.swept_fence(now)?;
        Ok(fence.map(|fence| Record {
            key: key.to_owned(),
            fence,
            holding: None,
        }))
    }

    pub(crate) fn swept_fence(&self, now: &Now<'_>) -> Result<Option<u64>, FileError> {
        let record_path = RecordPath::of_swept(self.number);
        let kept = self.read(&record_path, |record| record.key == SWEPT, now)?;
        Ok(kept.map(|record| record.fence))
    }

    /// Deletes the record of a key whose last token is `fence`. The shard first keeps the token, so
    /// that the key's next token is higher whatever the clocks show by then.
    pub(crate) fn sweep(
        &self,
        record_path: &RecordPath,
        fence: u64,
        now: &Now<'_>,
    ) -> Result<(), WriteError> {
        let kept = self.swept_fence(now).map_err(WriteError::Before)?;
        if kept.is_none_or(|kept| kept < fence) {
            let record = Record {
                key: SWEPT.to_owned(),
                fence,
                holding: None,
            };
            self.write(&RecordPath::of_swept(self.number), &record, false)?;
        }
        let path = self.folder.record(&record_path.file);
        reached(Failpoint::TokenKept)
            .and_then(|()| fs::remove_file(&path))
            .map_err(|error| WriteError::After(FileError::io(&path, "delete", error)))
    }

    /// Replaces the record at `record_path`. If `durable`, the new record survives a crash of the
    /// machine right after this call.
    pub(crate) fn write(
        &self,
        record_path: &RecordPath,
        record: &Record,
        durable: bool,
    ) -> Result<(), WriteError> {
        let path = self.folder.record(&record_path.file);
        let text = record.to_text();
        let spare = self.folder.spare(self.number);
        if let Err(error) = self.write_spare(&spare, text.as_bytes(), durable) {
            let full = matches!(
                error.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded
            );
            return match full && self.overwrite(&path, text.as_bytes(), durable)? {
                true => Ok(()),
                false => Err(WriteError::Before(FileError::io(&spare, "write", error))),
            };
        }
        let replaced = reached(Failpoint::Replacing).and_then(|()| put_in_place(&spare, &path));
        replaced.map_err(|error| {
            let unsure = error.raw_os_error() == Some(Errno::IO.raw_os_error());
            let error = FileError::io(&path, "replace", error);
            match unsure {
                true => WriteError::After(error),
                false => WriteError::Before(error),
            }
        })?;
        let done = reached(Failpoint::Replaced).and_then(|()| match durable {
            true => File::open(self.folder.path())?.sync_all(),
            false => Ok(()),
        });
        done.map_err(|error| WriteError::After(FileError::io(self.folder.path(), "sync", error)))
    }

    pub(crate) fn folder(&self) -> &'a Folder {
        self.folder
    }

    pub(crate) fn queue_path(&self) -> PathBuf {
        self.folder.queue(self.number)
    }

    /// How many bytes of the queue's file count; 0 if nobody waits.
    pub(crate) fn queue_length(&self) -> u64 {
        self.queue_length.get().unwrap_or(0)
    }

    pub(crate) fn set_queue_length(&self, length: u64) -> io::Result<()> {
        if self.queue_length.get().is_none() {
            return Err(Errno::MLINK.into());
        }
        self.file.set_len(length)?;
        self.queue_length.set(Some(length));
        Ok(())
    }

    /// The queue's file, to write it in place.
    pub(crate) fn queue_file(&self) -> io::Result<File> {
        let (file, _) = files::open_to_write(&self.queue_path(), self.folder.file_mode)?;
        Ok(file)
    }

    /// Replaces the queue's file, in one step.
    pub(crate) fn replace_queue(&self, text: &[u8]) -> io::Result<()> {
        let spare = self.folder.spare(self.number);
        self.write_spare(&spare, text, false)?;
        put_in_place(&spare, &self.queue_path())
    }

    /// Deletes a file that is not a valid record.
    pub(crate) fn remove(&self, record_path: &RecordPath) -> io::Result<()> {
        fs::remove_file(self.folder.record(&record_path.file))
    }

    fn write_spare(&self, spare: &Path, text: &[u8], durable: bool) -> io::Result<()> {
        let (file, found) = files::open_to_write(spare, self.folder.file_mode)?;
        reached(Failpoint::SpareOpened)?;
        file.write_all_at(text, 0)?;
        reached(Failpoint::SpareWritten)?;
        if found.len() > text.len() as u64 {
            file.set_len(text.len() as u64)?;
            reached(Failpoint::SpareTruncated)?;
        }
        if durable {
            file.sync_data()?;
            reached(Failpoint::SpareSynced)?;
        }
        Ok(())
    }

    /// On a full disk, writes the new record over the old one. Returns `false`, with nothing
    /// changed, if that is not possible.
    ///
    /// The new record has the old one's length and is written in one call. Within a page the kernel
    /// does not stop halfway, so a process that is killed leaves the old or the new record. (A
    /// power cut may damage it, but that is better than a lock that can be neither renewed nor
    /// released.)
    fn overwrite(&self, path: &Path, text: &[u8], durable: bool) -> Result<bool, WriteError> {
        let failed = |error| FileError::io(path, "write", error);
        let Ok((record, found)) = files::open_alone(path) else {
            return Ok(false);
        };
        let room = usize::try_from(found.len()).unwrap_or(usize::MAX);
        let Some(text) = padded_to(text, room).filter(|text| text.len() <= PAGE) else {
            return Ok(false);
        };
        reached(Failpoint::Overwriting).map_err(|error| WriteError::Before(failed(error)))?;
        let written = record.write_all_at(&text, 0).and_then(|()| {
            reached(Failpoint::RecordOverwritten)?;
            match durable {
                true => record.sync_data(),
                false => Ok(()),
            }
        });
        match written {
            Ok(()) => Ok(true),
            Err(error) => Err(WriteError::After(failed(error))),
        }
    }
}

/// Swaps the two files, so that the old record becomes the next spare. A swap creates and deletes
/// no file and needs no space. A rename over a file would make ext4 write to the disk, which takes
/// ten times as long as the rest of a call. If there is no old record, or the system cannot swap,
/// the spare is renamed.
fn put_in_place(spare: &Path, record: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        if renameat_with(CWD, spare, CWD, record, RenameFlags::EXCHANGE).is_ok() {
            return Ok(());
        }
    }
    fs::rename(spare, record)
}

/// Sleeps with a direct system call, which a library that fakes the time does not affect. The sleep
/// may be shorter than `pause`.
fn sleep(pause: Duration) {
    // A pause always fits.
    if let Ok(time) = Timespec::try_from(pause) {
        let _ = nanosleep(&time);
    }
}

impl Drop for Shard<'_> {
    fn drop(&mut self) {
        // Closing the file is not enough: a child that another thread forks at this moment has the
        // same open file, and the lock with it.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// A record was not written, or perhaps not written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The old record is unchanged.
    Before(FileError),
    /// The new record may be in place.
    After(FileError),
}
