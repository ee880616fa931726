//! The folder: how it is created and checked when a store is opened, and the names of its files.
//!
//! | file | what it is |
//! | --- | --- |
//! | `layout` | the version of this layout |
//! | `shard-00` … `shard-63` | locked while a process reads or writes a record of the shard; never written, renamed or deleted; its length says how many bytes of the shard's queue count |
//! | `shard-00.spare` … | what the process inside the shard writes a new record to, before it swaps it with the old one |
//! | `….lease` | a record, see [`crate::record`] |
//! | `shard-00.queue` … | the waiters for the keys of the shard, see [`crate::queue`] |
//! | `wake-…` | a pipe that a process with waiters reads, see [`crate::pipe`] |
//! | `shard-00.fence` … | the highest token of the records that were deleted in the shard, as a free record |
//! | `swept` | where the last look for old records stopped, and when: its time of modification |

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use crate::failpoint::{Failpoint, reached};
use crate::{OpenError, file_system, files};

const LAYOUT: &str = "dlock file store, layout 1\n";
/// The start of the file `layout` of every version.
const LAYOUT_TITLE: &str = "dlock file store, layout ";
/// The most bytes of it that are read.
const LAYOUT_MOST: u64 = 64;

/// How a folder is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenMode {
    /// The permission bits of the folder if it has to be created; `None` for a folder of the user
    /// alone, whatever the umask.
    pub(crate) mode: Option<u32>,
    /// Whether a folder that other users own or may write in is refused.
    pub(crate) private: bool,
}

/// A folder that passed the checks.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The permission bits of the files. Only users that may write in the folder can open them: a
    /// user that can open a shard file can lock it for ever.
    pub(crate) file_mode: u32,
}

impl Folder {
    /// Creates the folder if it does not exist, and checks that locks can be kept in it.
    pub(crate) fn open(path: &Path, open_mode: OpenMode) -> Result<Self, OpenError> {
        Self::open_on(file_system::refused, path, open_mode)
    }

    fn open_on(
        refused: impl FnOnce(&Path) -> io::Result<Option<&'static str>>,
        path: &Path,
        open_mode: OpenMode,
    ) -> Result<Self, OpenError> {
        // Absolute, so that a later change of the working directory has no effect.
        let path = std::path::absolute(path).map_err(|error| failed(path, "look at it", error))?;
        let found = match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make(&path, open_mode)?;
                fs::metadata(&path)
            }
            found => found,
        };
        let found = found.map_err(|error| failed(&path, "look at it", error))?;
        if !found.is_dir() {
            let part = path.clone();
            return Err(OpenError::NotAFolder { path, part });
        }
        let mode = found.mode() & 0o7777;
        if open_mode.private {
            check_private(&path, found.uid(), mode)?;
        }
        if mode & 0o1000 != 0 && mode & 0o022 != 0 {
            return Err(OpenError::Sticky { path, mode });
        }
        check_rights(&path).map_err(|error| failed(&path, "read, write and search it", error))?;
        let refused = refused(&path).map_err(|error| failed(&path, "look at it", error))?;
        if let Some(file_system) = refused {
            return Err(OpenError::NotLocal { path, file_system });
        }
        let folder = Folder {
            path,
            file_mode: file_mode(mode),
        };
        folder.check_layout()?;
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn shard(&self, shard: u8) -> PathBuf {
        self.path.join(format!("shard-{shard:02}"))
    }

    pub(crate) fn spare(&self, shard: u8) -> PathBuf {
        self.path.join(format!("shard-{shard:02}.spare"))
    }

    pub(crate) fn queue(&self, shard: u8) -> PathBuf {
        self.path.join(format!("shard-{shard:02}.queue"))
    }

    pub(crate) fn record(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    pub(crate) fn swept(&self) -> PathBuf {
        self.path.join("swept")
    }

    /// Makes sure that the folder has this version's layout. All processes write the same text, so
    /// a half-written file is simply written again.
    fn check_layout(&self) -> Result<(), OpenError> {
        let path = self.path.join("layout");
        let failed = |doing| move |error| failed(&self.path, doing, error);
        let foreign = || OpenError::NoLayout {
            path: self.path.clone(),
        };
        let found = match layout_in(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) if files::is_not_plain(&error) => return Err(foreign()),
            found => found
                .map_err(failed("read its file `layout`"))?
                .ok_or_else(foreign)?,
        };
        if found == LAYOUT.as_bytes() {
            return Ok(());
        }
        if !LAYOUT.as_bytes().starts_with(&found) {
            return Err(match named_version(&found) {
                None => foreign(),
                Some(found) => OpenError::Layout {
                    path: self.path.clone(),
                    found,
                },
            });
        }
        let file = files::open_to_write(&path, self.file_mode);
        file.and_then(|(file, _)| file.write_all_at(LAYOUT.as_bytes(), 0))
            .map_err(failed("write its file `layout`"))
    }
}

/// The content of the file `layout`; `None` if it is not a plain file.
fn layout_in(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = files::open_to_read(path)?;
    let found = file.metadata()?;
    files::content(&file, &found, LAYOUT_MOST)
}

/// The layout that the file names, such as `layout 2`. Nothing else of the file is shown, since it
/// may be a foreign file.
fn named_version(found: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(found).ok()?;
    let version = text.strip_prefix(LAYOUT_TITLE)?.strip_suffix('\n')?;
    let version: u32 = version.parse().ok()?;
    Some(format!("layout {version}"))
}

/// Creates the folder, but not its parents, so that a mistyped path gives an error. The parents of
/// the default folder are created as well: by convention they are this user's own.
fn make(path: &Path, open_mode: OpenMode) -> Result<(), OpenError> {
    let mut builder = DirBuilder::new();
    let made = builder
        .recursive(open_mode.private)
        .mode(0o700)
        .create(path);
    let made = match made {
        // Another process has created it.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let path = path.to_owned();
            return Err(OpenError::NoParent { path });
        }
        made => made,
    };
    let mode = Permissions::from_mode(open_mode.mode.unwrap_or(0o700));
    made.and_then(|()| fs::set_permissions(path, mode))
        .map_err(|error| failed(path, "make it", error))
}

/// Checks whether this user may use the folder, for a clear error. Some systems do not answer (old
/// kernels, and container hosts that refuse unknown system calls); there the first use fails
/// instead.
fn check_rights(path: &Path) -> io::Result<()> {
    let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
    let answer = reached(Failpoint::CheckingRights).and_then(|()| {
        rustix::fs::accessat(CWD, path, all, AtFlags::EACCESS).map_err(io::Error::from)
    });
    match answer {
        Err(error) if !is_about_rights(&error) => Ok(()),
        answer => answer,
    }
}

/// Returns whether the error answers the question: no right, read-only, or no such folder.
fn is_about_rights(error: &io::Error) -> bool {
    [Errno::ACCESS, Errno::ROFS, Errno::NOENT, Errno::NOTDIR]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn check_private(path: &Path, owner: u32, mode: u32) -> Result<(), OpenError> {
    let user = rustix::process::geteuid().as_raw();
    if owner != user {
        let path = path.to_owned();
        return Err(OpenError::Stranger { path, owner, user });
    }
    if mode & 0o022 != 0 {
        let path = path.to_owned();
        return Err(OpenError::WritableByOthers { path, mode });
    }
    Ok(())
}

/// Read and write permission for the owner, and for group and others if they may write in the
/// folder.
fn file_mode(folder: u32) -> u32 {
    let group = if folder & 0o020 != 0 { 0o060 } else { 0 };
    let others = if folder & 0o002 != 0 { 0o006 } else { 0 };
    0o600 | group | others
}

fn failed(path: &Path, doing: &'static str, source: io::Error) -> OpenError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::PermissionDenied => OpenError::Denied {
            path,
            doing,
            user: rustix::process::geteuid().as_raw(),
            source,
        },
        ErrorKind::ReadOnlyFilesystem => OpenError::ReadOnly { path },
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            let not_a_folder = |part: &&Path| fs::metadata(part).is_ok_and(|found| !found.is_dir());
            let part = path.ancestors().find(not_a_folder).unwrap_or(&path);
            let part = part.to_owned();
            OpenError::NotAFolder { path, part }
        }
        _ => OpenError::Io {
            path,
            doing,
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failpoint::testing::with_plan;

    const MANNER: OpenMode = OpenMode {
        mode: None,
        private: false,
    };

    #[test]
    fn a_folder_that_is_not_local_is_refused_and_left_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let error = Folder::open_on(|_| Ok(Some("NFS")), scratch.path(), MANNER).unwrap_err();
        assert!(matches!(error, OpenError::NotLocal { .. }), "{error}");
        assert!(error.to_string().contains("is on NFS"), "{error}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_system_that_cannot_check_rights_does_not_stop_a_folder_from_being_used() {
        let scratch = tempfile::tempdir().unwrap();
        for errno in [Errno::PERM, Errno::NOSYS, Errno::INVAL, Errno::OPNOTSUPP] {
            let plan = move |step| match step {
                Failpoint::CheckingRights => Err(errno.into()),
                _ => Ok(()),
            };
            let opened = with_plan(plan, || Folder::open(scratch.path(), MANNER));
            assert!(opened.is_ok(), "{errno:?}");
        }
        for errno in [Errno::ACCESS, Errno::ROFS] {
            let plan = move |_| Err(errno.into());
            let opened = with_plan(plan, || Folder::open(scratch.path(), MANNER));
            assert!(opened.is_err(), "{errno:?}");
        }
    }

    #[test]
    fn a_read_only_file_system_is_told_apart_from_missing_rights() {
        let read_only = failed(Path::new("/x"), "make it", Errno::ROFS.into());
        assert!(
            read_only.to_string().contains("is read-only"),
            "{read_only}"
        );
        let denied = failed(Path::new("/x"), "make it", Errno::ACCESS.into());
        assert!(denied.to_string().contains("may not make it"), "{denied}");
    }

    #[test]
    fn files_are_open_to_users_that_may_write_in_the_folder() {
        for (folder, files) in [
            (0o700, 0o600),
            (0o755, 0o600),
            (0o2770, 0o660),
            (0o775, 0o660),
            (0o777, 0o666),
        ] {
            assert_eq!(file_mode(folder), files, "{folder:o}");
        }
    }
}
