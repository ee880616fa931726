//! What can go wrong with a folder of locks, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use dlock_core::{DatastoreError, ErrorKind};
use thiserror::Error;

use crate::files;

/// A folder cannot be used as a file store. The text says what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no default folder: neither `XDG_STATE_HOME` nor `HOME` says where it would be.
    #[error(
        "there is no folder for locks by default, since neither HOME nor XDG_STATE_HOME is set to an absolute path; \
         name one: `--store file:/some/folder` for the command, `FileDatastore::open` in a program"
    )]
    NoHome,
    /// The store's URL is none that a file store has.
    #[error(
        "`{url}` names no folder: {why}; write `file:/some/folder`, or `file:` for the default one"
    )]
    Url {
        /// The URL, without what may be a password.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The path, or a part of it, is something else than a folder.
    #[error("cannot keep locks in {}: {} is not a folder; choose another path", .path.display(), .part.display())]
    NotAFolder {
        /// The folder that was asked for.
        path: PathBuf,
        /// What is not a folder.
        part: PathBuf,
    },
    /// This user has not the rights to use the folder, or to make it.
    #[error(
        "cannot keep locks in {}: user {user} may not {doing}; give the rights (all of read, write and search), run as \
         another user, or choose another folder", .path.display()
    )]
    Denied {
        /// The folder.
        path: PathBuf,
        /// What was refused: `make it`, `read, write and search it`.
        doing: &'static str,
        /// The effective user of this process.
        user: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The folder is on a file system that is mounted read-only.
    #[error("cannot keep locks in {}: its file system is read-only; choose a folder that can be written", .path.display())]
    ReadOnly {
        /// The folder.
        path: PathBuf,
    },
    /// The default folder belongs to another user, who could take or break any lock in it.
    #[error(
        "will not keep locks in {}: it belongs to user {owner}, and this is user {user}; remove it or run as its owner; \
         to share a folder on purpose name it with `--store file:…` or `FileDatastore::open`", .path.display()
    )]
    Stranger {
        /// The folder.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// The effective user of this process.
        user: u32,
    },
    /// The default folder may be written by others, who could take or break any lock in it.
    #[error(
        "will not keep locks in {}: others than its owner may write in it (mode {mode:03o}); `chmod go-w` it; to share a \
         folder on purpose name it with `--store file:…` or `FileDatastore::open`", .path.display()
    )]
    WritableByOthers {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The folder has the sticky bit, and others may write in it, as in `/tmp`: there a user cannot
    /// replace a file that another user made.
    #[error(
        "cannot keep locks in {}: it has the sticky bit and others may write in it (mode {mode:04o}), so that users cannot \
         replace each other's files; name a folder inside of it that is not there yet", .path.display()
    )]
    Sticky {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The folder is not there, and neither is the one that it would be made in.
    #[error(
        "cannot make the folder {} for locks, since the folder above it is not there; if the path is right, make that one first",
        .path.display()
    )]
    NoParent {
        /// The folder that was asked for.
        path: PathBuf,
    },
    /// The folder is on a file system whose locks or clocks are not those of this host alone.
    #[error(
        "cannot keep locks in {}: it is on {file_system}, where file locks do not keep processes apart reliably; choose a \
         folder on a local disk, or a server as the store for locks between hosts", .path.display()
    )]
    NotLocal {
        /// The folder.
        path: PathBuf,
        /// What kind of file system it is.
        file_system: &'static str,
    },
    /// The folder was laid out by a version of dlock whose locks do not exclude this one's.
    #[error(
        "cannot keep locks in {}: another version of dlock made it (its file `layout` says {found}); use that version, \
         or choose another folder, or delete this one when no process uses it", .path.display()
    )]
    Layout {
        /// The folder.
        path: PathBuf,
        /// Which layout that is: `layout 2`.
        found: String,
    },
    /// The folder's file `layout` is not one that dlock made.
    #[error(
        "will not keep locks in {}: its file `layout` is none that dlock made, so the folder is in use for something else; \
         choose another folder, or remove that file", .path.display()
    )]
    NoLayout {
        /// The folder.
        path: PathBuf,
    },
    /// Anything else that the system refused.
    #[error("cannot keep locks in {}: to {doing} failed; choose another folder if this stays so", .path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What was tried: `make it`, `look at it`.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    /// The folder in question, if it came to one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::NoHome | Self::Url { .. } => None,
            Self::NotAFolder { path, .. }
            | Self::Denied { path, .. }
            | Self::ReadOnly { path }
            | Self::Stranger { path, .. }
            | Self::WritableByOthers { path, .. }
            | Self::Sticky { path, .. }
            | Self::NoParent { path }
            | Self::NotLocal { path, .. }
            | Self::Layout { path, .. }
            | Self::NoLayout { path }
            | Self::Io { path, .. } => Some(path),
        }
    }
}

/// Why a call to an open file store failed: the source of its [`DatastoreError`]. The text says
/// what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FileError {
    /// Another process stayed inside the shard until the end of the call.
    #[error(
        "{} was locked until the end of this call by {}; such a lock is held for microseconds, so that process is stopped, \
         starved or stuck on its disk: continue or end it", .shard.display(), ByProcess(*.pid)
    )]
    Busy {
        /// The shard file.
        shard: PathBuf,
        /// The process that has locked it, if the system names it.
        pid: Option<u32>,
    },
    /// The call got hold of the shard only after its end.
    #[error("the call got its turn only after its end")]
    Late,
    /// A record that dlock did not write, or that is damaged.
    #[error(
        "{} is not a record of dlock or is damaged; if no process holds that lock, delete the file (after a restart of the \
         machine it is ignored)", .record.display()
    )]
    Unreadable {
        /// The file.
        record: PathBuf,
    },
    /// A record of a later version of dlock.
    #[error("{} was written by a later version of dlock; use that version here, too", .record.display())]
    Newer {
        /// The file.
        record: PathBuf,
    },
    /// Something else than a plain file stands where one of the folder's files belongs.
    #[error(
        "{} is not a plain file (but a link, a folder, a pipe or the like), and dlock did not make it; remove it",
        .path.display()
    )]
    NotPlain {
        /// Where it stands.
        path: PathBuf,
    },
    /// The numbers for fencing tokens are used up. No clock gets there; somebody made this record.
    #[error("{} holds the last fencing token that there is; delete the file when no process holds the lock", .record.display())]
    FencesUsedUp {
        /// The file.
        record: PathBuf,
    },
    /// The folder is not there any more.
    #[error(
        "the folder {} is gone: deleted, moved or unmounted since the store was opened; open the store again to make a new one",
        .folder.display()
    )]
    FolderGone {
        /// The folder.
        folder: PathBuf,
    },
    /// A key, holder description or time to live that core would not have sent.
    #[error("{what}")]
    Invalid {
        /// What is wrong.
        what: String,
    },
    /// Anything else that the system refused.
    #[error("to {doing} {} failed", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: `read`, `write`.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

struct ByProcess(Option<u32>);

impl std::fmt::Display for ByProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("some process"),
        }
    }
}

impl FileError {
    pub(crate) fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        match files::is_not_plain(&source) {
            true => FileError::NotPlain { path },
            false => FileError::Io {
                path,
                doing,
                source,
            },
        }
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Busy { .. } => ErrorKind::Timeout,
            Self::Late => ErrorKind::Stale,
            Self::Unreadable { .. } => ErrorKind::ForeignKey,
            Self::Newer { .. } => ErrorKind::Unsupported,
            Self::FencesUsedUp { .. } => ErrorKind::Protocol,
            Self::FolderGone { .. } => ErrorKind::Unreachable,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::NotPlain { .. } => ErrorKind::Refused,
            // No rights, no space, no file descriptors, a broken disk: the folder is there and
            // declines.
            Self::Io { .. } => ErrorKind::Refused,
        }
    }
}

/// Nothing was written: what fails after the record may have been replaced says so with
/// `may_be_done`.
impl From<FileError> for DatastoreError {
    fn from(error: FileError) -> Self {
        DatastoreError::not_executed(error.kind(), error)
    }
}

/// The error of a call whose record may have been replaced all the same.
pub(crate) fn may_be_done(error: FileError) -> DatastoreError {
    DatastoreError::maybe_executed(error.kind(), error)
}
