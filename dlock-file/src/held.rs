//! The keys that are held, a page at a time, for operators.

use std::io;
use std::time::Duration;

use dlock_core::{DatastoreError, HeldPage, PageMark};

use crate::FileError;
use crate::folder::Folder;
use crate::listing;
use crate::now::Clocks;
use crate::operations;
use crate::record::Record;
use crate::record_path::RecordPath;
use crate::shard::Shard;

/// The number of file names of a page.
const PAGE: usize = 256;

/// One page, see [`dlock_core::Inspect::held`]. Each record is read under the lock of its shard,
/// which is waited for while `time_left` is not zero.
pub(crate) fn held(
    folder: &Folder,
    clocks: &Clocks,
    time_left: impl Fn() -> Duration,
    prefix: &str,
    after: Option<&PageMark>,
) -> Result<HeldPage, DatastoreError> {
    let position = match after {
        None => 0,
        Some(mark) => mark.as_str().parse().map_err(|_| mark.unknown())?,
    };
    let failed = |error: io::Error| FileError::io(folder.path(), "list", error);
    let (names, next) = listing::names(folder.path(), position, PAGE).map_err(failed)?;
    let mut keys = Vec::new();
    for record_path in names.iter().filter_map(|name| RecordPath::of_file(name)) {
        let shard = Shard::lock(folder, record_path.shard, &time_left)?;
        let now = clocks.now();
        let is_right = |record: &Record| RecordPath::of(&record.key) == record_path;
        let record = match shard.read(&record_path, is_right, &now) {
            Ok(Some(record)) => record,
            // It must not hide the others. A claim of this lock reports the file.
            Ok(None) | Err(FileError::Unreadable { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        if !record.key.starts_with(prefix) {
            continue;
        }
        let key = record.key.clone();
        if let Some(held) = operations::holder(Some(record), &now).answer {
            keys.push((key, held));
        }
    }
    let next = next.map(|position| PageMark::new(position.to_string()));
    Ok(HeldPage::new(keys, next))
}
