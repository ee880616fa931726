//! A resource that is guarded by fencing tokens: a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// More than the longest line.
const TAIL: i64 = 64;

/// A file to which only the holder of the highest fencing token so far can append. Processes that
/// share the path share the resource.
#[derive(Debug, Clone)]
pub struct Resource {
    path: PathBuf,
}

impl Resource {
    /// The resource in this file, which is made by the first write.
    pub fn at(path: impl AsRef<Path>) -> Self {
        Resource {
            path: path.as_ref().to_owned(),
        }
    }

    /// Appends a line under `token`; `false` if the file has taken a higher one before, and nothing
    /// was written.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn write(&self, token: u64) -> io::Result<bool> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&self.path)?;
        append(&mut file, token)
    }
}

/// Appends a line under `token` to a file that is open for reading and appending.
pub(super) fn append(file: &mut File, token: u64) -> io::Result<bool> {
    flock(&*file, FlockOperation::LockExclusive)?;
    let written = append_locked(file, token);
    // Also if the file stays open.
    flock(&*file, FlockOperation::Unlock)?;
    written
}

fn append_locked(file: &mut File, token: u64) -> io::Result<bool> {
    if highest(file)?.is_some_and(|highest| token < highest) {
        return Ok(false);
    }
    file.write_all(format!("{token}\n").as_bytes())?;
    Ok(true)
}

/// The token of the last complete line, which is the highest since lower ones are refused.
fn highest(file: &mut File) -> io::Result<Option<u64>> {
    let length = file.metadata()?.len();
    let tail = i64::try_from(length).unwrap_or(TAIL).min(TAIL);
    file.seek(SeekFrom::End(-tail))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    Ok(complete.lines().last().and_then(|line| line.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resource_refuses_lower_tokens_and_takes_equal_ones() {
        let folder = tempfile::tempdir().unwrap();
        let resource = Resource::at(folder.path().join("resource"));
        for (token, accepted) in [
            (7, true),
            (7, true),
            (6, false),
            (u64::MAX, true),
            (8, false),
        ] {
            assert_eq!(resource.write(token).unwrap(), accepted, "{token}");
        }
    }
}
