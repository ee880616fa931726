//! Opens files in a folder in which other users may write. A file is not trusted to be what its
//! name says until it was checked.
//!
//! No open follows a link out of the folder, waits for the other end of a pipe, or leaves a
//! descriptor to a child. Only plain files are read, and never more than dlock would have written.
//! A file is written in place only if it has no second name, so a hard-linked copy of the folder,
//! or a foreign file that was linked into it, keeps its content.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// How often a file is opened again because another process replaces it at the same time.
pub(crate) const TRIES: usize = 16;

fn options() -> OpenOptions {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.custom_flags(flags.bits().cast_signed());
    options
}

/// Opens a file to read it. The caller must check that it is a plain file.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    options().read(true).open(path)
}

/// Opens a pipe to write into it; fails if no process reads it. The caller must check that it is a
/// pipe.
pub(crate) fn open_to_tell(path: &Path) -> io::Result<File> {
    options().write(true).open(path)
}

/// Opens a pipe to read and write it. The caller must check that it is a pipe.
pub(crate) fn open_both_ways(path: &Path) -> io::Result<File> {
    options().read(true).write(true).open(path)
}

/// The content of a file, at most `most` bytes of it; `None` if it is not a plain file or is
/// truncated while it is read.
pub(crate) fn content(file: &File, found: &Metadata, most: u64) -> io::Result<Option<Vec<u8>>> {
    if !found.is_file() {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(found.len().min(most)).unwrap_or(0)];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        read => read.map(|()| Some(bytes)),
    }
}

/// Opens a file to lock it, and creates it empty if it does not exist. The caller must check that
/// it is a plain file. It may have a second name, since its content is never written.
pub(crate) fn open_or_make(path: &Path, mode: u32) -> io::Result<File> {
    for _ in 0..TRIES {
        match options().read(true).write(true).open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            file => return file,
        }
        if let Some(file) = make(path, mode)? {
            return Ok(file);
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens a plain file that has only this name, to write it in place. Anything else with this name
/// is removed, and a new, empty file is created.
///
/// A second name that is created after this call does no harm: it is a name of the file that is
/// about to be written.
pub(crate) fn open_to_write(path: &Path, mode: u32) -> io::Result<(File, Metadata)> {
    for _ in 0..TRIES {
        match options().read(true).write(true).open(path) {
            Ok(file) => {
                let found = file.metadata()?;
                if found.is_file() && found.nlink() == 1 {
                    return Ok((file, found));
                }
                remove(path)?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if is_not_plain(&error) => remove(path)?,
            Err(error) => return Err(error),
        }
        if let Some(file) = make(path, mode)? {
            let found = file.metadata()?;
            return Ok((file, found));
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens an existing plain file that has only this name, to write it in place.
pub(crate) fn open_alone(path: &Path) -> io::Result<(File, Metadata)> {
    let file = options().read(true).write(true).open(path)?;
    let found = file.metadata()?;
    match found.is_file() && found.nlink() == 1 {
        true => Ok((file, found)),
        false => Err(Errno::MLINK.into()),
    }
}

/// Creates an empty file; `None` if one exists by now.
fn make(path: &Path, mode: u32) -> io::Result<Option<File>> {
    let mut options = options();
    let options = options.read(true).write(true).create_new(true).mode(mode);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
        file => {
            let file = file?;
            // The umask may have removed some permissions.
            file.set_permissions(Permissions::from_mode(mode))?;
            Ok(Some(file))
        }
    }
}

/// Deletes a name, unless it names a folder that is not empty.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            fs::remove_dir(path).map_err(|_| error)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Returns whether an open failed because the name belongs to a link, a folder, a socket or a
/// device without a driver.
pub(crate) fn is_not_plain(error: &io::Error) -> bool {
    [Errno::LOOP, Errno::ISDIR, Errno::NXIO, Errno::NODEV]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
