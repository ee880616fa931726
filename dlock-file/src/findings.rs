//! What endangers locks in a folder, for operators: a full disk, users that may write in it. A
//! folder in which no locks can be kept, on a network file system for example, is refused when it
//! is opened.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use dlock_core::{DatastoreError, Finding};

use crate::FileError;
use crate::folder::Folder;

/// The least free space, in bytes: many thousand records.
const LEAST_SPACE: u64 = 1024 * 1024;
/// The least number of files that can still be made: each lock is one.
const LEAST_FILES: u64 = 128;

/// What is free on the disk of a folder.
#[derive(Debug, Clone, Copy)]
struct Free {
    /// Bytes.
    space: u64,
    /// How many files can be made; `None` where only the space limits them.
    files: Option<u64>,
}

/// What is found in the folder.
pub(crate) fn findings(folder: &Folder) -> Result<Vec<Finding>, DatastoreError> {
    let path = folder.path();
    let failed = |error: io::Error| FileError::io(path, "look at", error);
    let free = free(path).map_err(failed)?;
    let mode = mode(path).map_err(failed)?;
    let findings = [
        full(path, free),
        writable(path, mode),
        replaceable(path).map_err(failed)?,
    ];
    Ok(findings.into_iter().flatten().collect())
}

fn free(path: &Path) -> io::Result<Free> {
    let found = rustix::fs::statvfs(path)?;
    Ok(Free {
        space: found.f_bavail.saturating_mul(found.f_frsize),
        files: (found.f_files > 0).then_some(found.f_favail),
    })
}

fn mode(path: &Path) -> io::Result<u32> {
    fs::metadata(path).map(|found| found.permissions().mode() & 0o7777)
}

fn full(path: &Path, free: Free) -> Option<Finding> {
    let what = match free {
        Free { space, .. } if space < LEAST_SPACE => format!("only {space} bytes are"),
        Free {
            files: Some(files), ..
        } if files < LEAST_FILES => format!("only {files} more files can be made and are"),
        _ => return None,
    };
    Some(Finding::danger(
        format!("the disk of {} is full: {what} free", path.display()),
        "a lock that is not there yet cannot be acquired",
        "free space on that disk, or choose another folder",
    ))
}

fn writable(path: &Path, mode: u32) -> Option<Finding> {
    let what = |who| format!("{who} may write in {} (mode {mode:04o})", path.display());
    let why = "who may write in it can take, break or delete any lock";
    if mode & 0o002 != 0 {
        let remedy = format!("chmod o-w {}", path.display());
        return Some(Finding::danger(
            what("every user of this host"),
            why,
            remedy,
        ));
    }
    (mode & 0o020 != 0).then(|| {
        let remedy = format!(
            "if its group is not meant to share these locks: chmod g-w {}",
            path.display()
        );
        Finding::warning(what("the group of the folder"), why, remedy)
    })
}

/// A folder above that lets every user put another folder in the place of ours.
fn replaceable(path: &Path) -> io::Result<Option<Finding>> {
    for above in path.ancestors().skip(1) {
        let mode = mode(above)?;
        if mode & 0o002 != 0 && mode & 0o1000 == 0 {
            let (above, path) = (above.display(), path.display());
            return Ok(Some(Finding::danger(
                format!("every user of this host may write in {above} (mode {mode:04o})"),
                format!("who may write in it can put another folder in the place of {path}"),
                format!("chmod o-w {above}, or choose a folder elsewhere"),
            )));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dlock_core::Severity;

    const HERE: &str = "/locks";

    #[test]
    fn a_disk_without_space_or_without_room_for_files_is_full() {
        for (space, files, words) in [
            (LEAST_SPACE, Some(LEAST_FILES), None),
            (LEAST_SPACE, None, None),
            (0, None, Some("only 0 bytes are free")),
            (4096, Some(1000), Some("only 4096 bytes are free")),
            (1 << 40, Some(3), Some("only 3 more files can be made")),
        ] {
            let found = full(Path::new(HERE), Free { space, files });
            let what = found.map(|finding| finding.what);
            match words {
                Some(words) => assert!(what.is_some_and(|what| what.contains(words))),
                None => assert_eq!(what, None),
            }
        }
    }

    #[test]
    fn a_folder_that_others_may_write_is_worse_than_one_of_a_group() {
        let severity = |mode| writable(Path::new(HERE), mode).map(|found| found.severity);
        assert_eq!(severity(0o755), None);
        assert_eq!(severity(0o2770), Some(Severity::Warning));
        assert_eq!(severity(0o777), Some(Severity::Danger));
    }

    #[test]
    fn a_folder_above_that_others_may_write_is_found_unless_it_is_sticky() {
        let scratch = tempfile::tempdir().unwrap();
        let above = scratch.path().join("above");
        let folder = above.join("locks");
        fs::create_dir_all(&folder).unwrap();
        let found = |mode| {
            fs::set_permissions(&above, fs::Permissions::from_mode(mode)).unwrap();
            replaceable(&folder).unwrap().is_some()
        };
        assert!(!found(0o755));
        assert!(!found(0o1777));
        assert!(found(0o777));
    }
}
