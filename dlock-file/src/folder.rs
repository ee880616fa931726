//! The folder: how it is made and checked when a store is opened, and what its files are called.
//!
//! | file | what it is |
//! | --- | --- |
//! | `layout` | the version of this layout |
//! | `shard-00` … `shard-63` | locked by whoever reads or writes a record of the shard; empty; never renamed or deleted |
//! | `shard-00.spare` … | what the process inside the shard writes a new record to, before it swaps it with the old one |
//! | `….lease` | a record, see [`crate::record`] |
//! | `swept` | when old records were last looked for: its time of modification |

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use crate::{OpenError, file_system};

const LAYOUT: &str = "dlock file store, layout 1\n";

/// How a folder is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// The permission bits of the folder if it has to be made; `None` for the user's own, whatever the umask.
    pub(crate) mode: Option<u32>,
    /// Whether a folder that others own or may write is refused.
    pub(crate) private: bool,
}

/// A folder that passed the checks.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// The permission bits of the files: they are for whoever may write in the folder, and for nobody else, since whoever can open a
    /// shard file can lock it for ever.
    pub(crate) file_mode: u32,
}

impl Folder {
    /// Makes the folder if it is not there, and checks that locks can be kept in it.
    pub(crate) fn open(path: &Path, manner: Manner) -> Result<Self, OpenError> {
        Self::open_on(file_system::refused, path, manner)
    }

    fn open_on(
        refused: impl FnOnce(&Path) -> io::Result<Option<&'static str>>,
        path: &Path,
        manner: Manner,
    ) -> Result<Self, OpenError> {
        // Absolute, so that a later change of the working directory changes nothing.
        let path = std::path::absolute(path).map_err(|error| failed(path, "look at it", error))?;
        let found = match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make(&path, manner.mode).map_err(|error| failed(&path, "make it", error))?;
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
        if manner.private {
            check_private(&path, found.uid(), mode)?;
        }
        let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(CWD, &path, all, AtFlags::EACCESS)
            .map_err(|errno| failed(&path, "read, write and search it", errno.into()))?;
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

    pub(crate) fn record(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    pub(crate) fn swept(&self) -> PathBuf {
        self.path.join("swept")
    }

    /// Options to open a file of the folder with. They do not follow a link out of it, and do not wait for the other end of a pipe.
    pub(crate) fn files(&self) -> OpenOptions {
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let mut options = OpenOptions::new();
        options
            .mode(self.file_mode)
            .custom_flags(flags.bits().cast_signed());
        options
    }

    /// Opens a file of the folder to read and write it; makes an empty one if it is not there.
    pub(crate) fn open_or_make(&self, path: &Path) -> io::Result<fs::File> {
        let mut options = self.files();
        let options = options.read(true).write(true);
        match options.open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let file = options.create(true).open(path)?;
                // The umask may have taken some away.
                file.set_permissions(Permissions::from_mode(self.file_mode))?;
                Ok(file)
            }
            file => file,
        }
    }

    /// Makes sure that the folder is laid out as this version of dlock does it. All write the same, so that a half-written
    /// file is simply written again.
    fn check_layout(&self) -> Result<(), OpenError> {
        let file = self.path.join("layout");
        let found = match fs::read(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            found => found.map_err(|error| failed(&self.path, "read its file `layout`", error))?,
        };
        if found == LAYOUT.as_bytes() {
            return Ok(());
        }
        if !LAYOUT.as_bytes().starts_with(&found) {
            let found = String::from_utf8_lossy(&found[..found.len().min(80)]);
            return Err(OpenError::Layout {
                path: self.path.clone(),
                found: found.trim_end().to_owned(),
            });
        }
        let file = self.open_or_make(&file);
        file.and_then(|file| file.write_all_at(LAYOUT.as_bytes(), 0))
            .map_err(|error| failed(&self.path, "write its file `layout`", error))
    }
}

fn make(path: &Path, mode: Option<u32>) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode.unwrap_or(0o700)))
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

/// Read and write for the owner, and for the group and the others if they may write in the folder.
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

    #[test]
    fn a_folder_that_is_not_local_is_refused_and_left_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let manner = Manner {
            mode: None,
            private: false,
        };
        let error = Folder::open_on(|_| Ok(Some("NFS")), scratch.path(), manner).unwrap_err();
        assert!(matches!(error, OpenError::NotLocal { .. }), "{error}");
        assert!(error.to_string().contains("is on NFS"), "{error}");
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_read_only_file_system_is_told_apart_from_missing_rights() {
        let read_only = failed(Path::new("/x"), "make it", rustix::io::Errno::ROFS.into());
        assert!(
            read_only.to_string().contains("is read-only"),
            "{read_only}"
        );
        let denied = failed(Path::new("/x"), "make it", rustix::io::Errno::ACCESS.into());
        assert!(denied.to_string().contains("may not make it"), "{denied}");
    }

    #[test]
    fn files_are_for_those_who_may_write_in_the_folder() {
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
