//! The lock that a process takes before it looks at a record, and what it may do while it has it.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::FileError;
use crate::fault::{Step, reached};
use crate::folder::Folder;
use crate::moment::Moment;
use crate::place::Place;
use crate::record::{MAX_BYTES, Record, Unreadable};

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::lock_owner::lock_owner;

/// Other systems have no list of locks.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn lock_owner(_: &Path) -> Option<u32> {
    None
}

/// The first pause between two tries, about as long as a holder needs.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
/// The longest: what a call may lose of its turn after a long holder.
const LAST_PAUSE: Duration = Duration::from_millis(5);

/// A locked shard.
///
/// The lock is `flock`'s, which belongs to the open file: each call opens the shard anew, so that threads and handles
/// of one process exclude each other like processes do, and it ends with the process however that ends.
#[derive(Debug)]
pub(crate) struct Shard<'a> {
    folder: &'a Folder,
    number: u8,
    file: File,
}

impl<'a> Shard<'a> {
    /// Locks the shard, for which it waits as long as `time_left` is not zero.
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
            thread::sleep(pause.min(left));
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Locks the shard if nobody has.
    pub(crate) fn try_lock(folder: &'a Folder, number: u8) -> Result<Option<Self>, FileError> {
        let path = folder.shard(number);
        let failed = |error: io::Error| match error.kind() {
            ErrorKind::NotFound => FileError::FolderGone {
                folder: folder.path().to_owned(),
            },
            _ => FileError::io(&path, "lock", error),
        };
        loop {
            let file = folder.open_or_make(&path).map_err(failed)?;
            reached(Step::Found).map_err(failed)?;
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
            };
            // Somebody who empties the folder by hand leaves us with the lock of a file that others do not see any more.
            if shard.file.metadata().map_err(failed)?.nlink() > 0 {
                return Ok(Some(shard));
            }
        }
    }

    /// The record at `place` if it is the right one. What a crash of the whole machine left behind, half-written or with an earlier
    /// content of the file, is as good as none.
    pub(crate) fn read(
        &self,
        place: &Place,
        is_right: impl FnOnce(&Record) -> bool,
        now: &Moment<'_>,
    ) -> Result<Option<Record>, FileError> {
        let path = self.folder.record(&place.file);
        reached(Step::Entered).map_err(|error| FileError::io(&path, "read", error))?;
        let mut file = match self.folder.files().read(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|error| FileError::io(&path, "read", error))?,
        };
        let mut bytes = Vec::with_capacity(1024);
        match file.by_ref().take(MAX_BYTES).read_to_end(&mut bytes) {
            // A folder is as little a record as garbage is.
            Err(error) if error.kind() != ErrorKind::IsADirectory => {
                return Err(FileError::io(&path, "read", error));
            }
            _ => {}
        }
        match Record::from_text(&bytes) {
            Ok(record) if is_right(&record) => return Ok(Some(record)),
            Err(Unreadable::Newer) => return Err(FileError::Newer { record: path }),
            Ok(_) | Err(Unreadable::Garbage) => {}
        }
        let modified = file.metadata().and_then(|found| found.modified());
        let modified = modified.map_err(|error| FileError::io(&path, "look at", error))?;
        match now.is_older_boot(modified) {
            true => Ok(None),
            false => Err(FileError::Unreadable { record: path }),
        }
    }

    /// Puts the record in the place of the one that was there. `durable`: also a crash of the machine right after it leaves the new
    /// one.
    pub(crate) fn write(
        &self,
        place: &Place,
        record: &Record,
        durable: bool,
    ) -> Result<(), WriteError> {
        let path = self.folder.record(&place.file);
        let text = record.to_text();
        let spare = self.folder.spare(self.number);
        if let Err(error) = self.write_spare(&spare, text.as_bytes(), durable) {
            let full = matches!(
                error.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded
            );
            let record = self.folder.files().write(true).open(&path);
            return match record {
                Ok(record) if full => overwrite(&record, text.as_bytes(), durable)
                    .map_err(|error| WriteError::After(FileError::io(&path, "write", error))),
                _ => Err(WriteError::Before(FileError::io(&spare, "write", error))),
            };
        }
        let replaced = reached(Step::Ready).and_then(|()| put_in_place(&spare, &path));
        replaced.map_err(|error| {
            let unsure = error.raw_os_error() == Some(Errno::IO.raw_os_error());
            let error = FileError::io(&path, "replace", error);
            match unsure {
                true => WriteError::After(error),
                false => WriteError::Before(error),
            }
        })?;
        let done = reached(Step::Replaced).and_then(|()| match durable {
            true => File::open(self.folder.path())?.sync_all(),
            false => Ok(()),
        });
        done.map_err(|error| WriteError::After(FileError::io(self.folder.path(), "sync", error)))
    }

    /// Deletes the record.
    pub(crate) fn remove(&self, place: &Place) -> io::Result<()> {
        fs::remove_file(self.folder.record(&place.file))
    }

    fn write_spare(&self, spare: &Path, text: &[u8], durable: bool) -> io::Result<()> {
        let file = self.folder.open_or_make(spare)?;
        reached(Step::Opened)?;
        write_over(&file, text)?;
        reached(Step::Written)?;
        if durable {
            file.sync_data()?;
            reached(Step::Synced)?;
        }
        Ok(())
    }
}

/// What is left on a full disk: to use the space that the record has. A crash in the midst of these few hundred bytes would
/// damage it, which is better than a lock that can be neither renewed nor released.
fn overwrite(record: &File, text: &[u8], durable: bool) -> io::Result<()> {
    write_over(record, text)?;
    match durable {
        true => record.sync_data(),
        false => Ok(()),
    }
}

/// Gives a file another content without giving up its space.
fn write_over(file: &File, text: &[u8]) -> io::Result<()> {
    file.write_all_at(text, 0)?;
    let length = text.len() as u64;
    match file.metadata()?.len() > length {
        true => file.set_len(length),
        false => Ok(()),
    }
}

/// Swaps the two files, so that the old record is the next one's spare: that makes and deletes no file and needs no space. ext4
/// would start to write to the disk at each rename over a file, which costs ten times as much as all the rest of a call. Where there is
/// nothing to swap with, or no swapping, the spare is renamed.
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

impl Drop for Shard<'_> {
    fn drop(&mut self) {
        // Closing would not do: a child that another thread forks at this moment has the same open file, and the lock with it.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// A record was not written, or nobody knows.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The old record still stands.
    Before(FileError),
    /// The new one may stand.
    After(FileError),
}
