//! Lists the file names of a folder, a few at a time.

use std::fs::File;
use std::io;
use std::path::Path;

/// Lists at most `most` names of the folder from `position` on. Returns them with the position of
/// the next one, `None` at the end. Position 0 is the beginning; other positions are defined by the
/// file system. If the file system rejects one, the list starts at the beginning.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn names(
    folder: &Path,
    position: u64,
    most: usize,
) -> io::Result<(Vec<String>, Option<u64>)> {
    use rustix::fs::{RawDir, SeekFrom, seek};

    let folder = File::open(folder)?;
    if position != 0 && seek(&folder, SeekFrom::Start(position)).is_err() {
        seek(&folder, SeekFrom::Start(0))?;
    }
    // Room for some thirty entries.
    let mut space = Vec::with_capacity(4096);
    let mut entries = RawDir::new(&folder, space.spare_capacity_mut());
    let mut names = Vec::new();
    let mut next = position;
    while names.len() < most {
        let Some(entry) = entries.next() else {
            return Ok((names, None));
        };
        let entry = entry?;
        next = entry.next_entry_cookie();
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok((names, Some(next)))
}

/// The same for systems without stable positions: here a position is the index of an entry.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn names(
    folder: &Path,
    position: u64,
    most: usize,
) -> io::Result<(Vec<String>, Option<u64>)> {
    let skipped = usize::try_from(position).unwrap_or(usize::MAX);
    let mut entries = std::fs::read_dir(folder)?.skip(skipped);
    let mut names = Vec::new();
    while names.len() < most {
        let Some(entry) = entries.next() else {
            return Ok((names, None));
        };
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok((names, Some(position.saturating_add(most as u64))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_once_however_many_at_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        for number in 0..300 {
            std::fs::write(scratch.path().join(format!("file-{number}")), "").unwrap();
        }
        for most in [1, 7, 1000] {
            let (mut all, mut position) = (Vec::new(), Some(0));
            while let Some(at) = position {
                let (some, next) = names(scratch.path(), at, most).unwrap();
                assert!(some.len() <= most);
                all.extend(some);
                position = next;
            }
            all.retain(|name| name.starts_with("file-"));
            all.sort();
            all.dedup();
            assert_eq!(all.len(), 300, "{most} at a time");
        }
    }

    #[test]
    fn an_invalid_position_gives_names_or_the_end() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("file"), "").unwrap();
        for position in [1, 42, u64::MAX >> 1, u64::MAX] {
            names(scratch.path(), position, 10).unwrap();
        }
    }
}
