//! The named pipes by which processes wake each other's waiters.
//!
//! A process that waits makes one pipe in the folder, `wake-` and 16 hex digits, and reads it until
//! its last waiter is done. Another process writes the waiter's owner token into it. A name is used
//! once, and stands in a queue only after its pipe was opened. So a name without a reader belongs
//! to a process that is gone or waits no more. No pid is involved, hence no pid namespace either.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dlock_core::OwnerToken;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::Timespec;

use crate::failpoint::{Failpoint, reached};
use crate::files;
use crate::folder::Folder;
use crate::now::Clocks;

const PREFIX: &str = "wake-";
/// The hex digits of a name.
const DIGITS: usize = 16;
/// The most bytes that are read at a time.
const MOST: usize = 4096;
/// How often a reader looks whether it is still wanted, in case that somebody else has read the
/// message that ends it.
const CHECK: Duration = Duration::from_secs(60);
/// The age from which a pipe without a reader is litter. A younger one may have been made and not
/// opened yet.
const LITTER_AFTER: Duration = Duration::from_secs(3600);

/// A pipe that this process reads.
#[derive(Debug)]
pub(crate) struct Pipe {
    name: String,
    path: PathBuf,
    file: File,
}

impl Pipe {
    /// Makes a pipe. It is open for writing too: so a read never finds that all writers have left.
    pub(crate) fn make(folder: &Folder) -> io::Result<Self> {
        let mut name = OwnerToken::random().map_err(io::Error::other)?.to_string();
        name.truncate(DIGITS);
        let path = path_of(folder, &name);
        make_named(&path)?;
        let pipe = reached(Failpoint::PipeMade).and_then(|()| Self::open(folder, &path));
        match pipe {
            Ok(file) => Ok(Pipe { name, path, file }),
            Err(error) => {
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    fn open(folder: &Folder, path: &Path) -> io::Result<File> {
        let file = files::open_both_ways(path)?;
        let found = file.metadata()?;
        let user = rustix::process::geteuid().as_raw();
        if !found.file_type().is_fifo() || found.uid() != user {
            return Err(Errno::NXIO.into());
        }
        shrink(&file);
        // By the descriptor: the name may have become a link to something else.
        file.set_permissions(Permissions::from_mode(folder.file_mode))?;
        reached(Failpoint::PipeOpened)?;
        Ok(file)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Waits for messages, for a minute at most, and reads them.
    pub(crate) fn read(&self) -> Messages {
        let mut bytes = vec![0; MOST];
        let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
        let timeout = Timespec::try_from(CHECK).ok();
        let _ = poll(&mut fds, timeout.as_ref());
        let length = (&self.file).read(&mut bytes).unwrap_or(0);
        bytes.truncate(length);
        Messages(bytes)
    }

    /// Deletes the pipe's name, and lets its reader return from [`read`](Self::read).
    pub(crate) fn close(&self) {
        let _ = fs::remove_file(&self.path);
        let _ = (&self.file).write(b"\n");
    }
}

/// What was read from a pipe: owner tokens, one a line.
pub(crate) struct Messages(Vec<u8>);

impl Messages {
    /// The owners that are notified; `None` for a message that is none of dlock's.
    pub(crate) fn owners(&self) -> impl Iterator<Item = Option<OwnerToken>> {
        let lines = self.0.split(|byte| *byte == b'\n');
        lines.filter(|line| !line.is_empty()).map(|line| {
            let text = std::str::from_utf8(line).ok()?;
            OwnerToken::from_hex(text)
        })
    }
}

/// Returns whether a process reads the pipe, as far as this process can find out. The name of a
/// pipe that nobody reads is deleted.
pub(crate) fn has_reader(folder: &Folder, name: &str) -> bool {
    let path = path_of(folder, name);
    let file = reached(Failpoint::Probing).and_then(|()| files::open_to_tell(&path));
    match file {
        Ok(file) => is_pipe(&file),
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
            let _ = fs::remove_file(&path);
            false
        }
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        // This process has no descriptor left, or no rights: that says nothing about the reader.
        Err(error) => !files::is_not_plain(&error),
    }
}

/// Notifies a waiter through the pipe that its process reads. It is a hint: whatever stands in its
/// way, the waiter claims again within a second.
pub(crate) fn notify(folder: &Folder, name: &str, owner: OwnerToken) {
    let _ = reached(Failpoint::Notifying).and_then(|()| write(folder, name, owner));
}

/// Writes the owner's token into the pipe.
///
/// The pipe is opened for reading too. Otherwise a reader that ends right now would leave a write
/// without a reader, and the signal SIGPIPE, which kills a process that does not ignore it.
pub(crate) fn write(folder: &Folder, name: &str, owner: OwnerToken) -> io::Result<()> {
    let mut file = files::open_both_ways(&path_of(folder, name))?;
    if !is_pipe(&file) {
        return Err(Errno::NXIO.into());
    }
    // A full pipe has messages enough, so that it does not matter whether this one fits.
    file.write_all(format!("{owner}\n").as_bytes())
}

/// Deletes a file of the folder if it is a pipe that a dead process has left.
pub(crate) fn sweep(folder: &Folder, clocks: &Clocks, file: &str) {
    let Some(name) = file.strip_prefix(PREFIX).filter(|name| is_name(name)) else {
        return;
    };
    let found = fs::symlink_metadata(path_of(folder, name));
    let is_old = found.is_ok_and(|found| {
        let modified = found.modified();
        found.file_type().is_fifo()
            && modified.is_ok_and(|modified| clocks.now().is_untouched_for(modified, LITTER_AFTER))
    });
    if is_old {
        has_reader(folder, name);
    }
}

/// Returns whether this can be the name of a pipe, without `wake-`.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn path_of(folder: &Folder, name: &str) -> PathBuf {
    folder.path().join(format!("{PREFIX}{name}"))
}

fn is_pipe(file: &File) -> bool {
    let found = file.metadata();
    found.is_ok_and(|found| found.file_type().is_fifo())
}

/// Makes the pipe, for its owner alone.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn make_named(path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, Mode, mkfifoat};
    Ok(mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR)?)
}

/// Other systems do not promise that a pipe can be opened for reading and writing at once.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn make_named(_: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Lets the pipe use one page of memory. A user's pipes may have 16,384 pages together, and each
/// has 16 at first.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn shrink(file: &File) {
    let _ = rustix::pipe::fcntl_setpipe_size(file, 4096);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn shrink(_: &File) {}
