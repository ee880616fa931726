//! Where the reference store keeps its records: in memory, or in a folder that other processes can open.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use dlock_core::{Clock, OwnerToken, Time};
use rustix::fs::{FlockOperation, flock};

/// What is known of a key that was claimed once. It stays when the key is free, for its fencing token.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) owner: Option<OwnerToken>,
    pub(crate) until: Time,
    pub(crate) fence: u64,
    pub(crate) sequence: u64,
    pub(crate) holder: String,
}

#[derive(Clone)]
pub(crate) enum Backing {
    Memory(Arc<Memory>),
    Folder(PathBuf),
}

#[derive(Default)]
pub(crate) struct Memory {
    is_busy: Mutex<bool>,
    changed: Condvar,
    records: Mutex<HashMap<String, Record>>,
}

/// A turn as the store's one writer.
pub(crate) enum Turn {
    Memory(Arc<Memory>),
    /// The lock on the file ends with it.
    Folder(PathBuf, #[allow(dead_code)] File),
}

impl Backing {
    /// Waits for the writer's turn; `None` when it did not come by `end`.
    pub(crate) fn turn(&self, end: Time) -> Option<Turn> {
        let left = || Clock::BOOTTIME.now().until(end);
        match self {
            Backing::Memory(memory) => {
                let mut is_busy = memory.is_busy.lock().unwrap();
                while *is_busy {
                    if left().is_zero() {
                        return None;
                    }
                    is_busy = memory.changed.wait_timeout(is_busy, left()).unwrap().0;
                }
                *is_busy = true;
                Some(Turn::Memory(Arc::clone(memory)))
            }
            Backing::Folder(folder) => {
                let path = folder.join("writer");
                let mut options = OpenOptions::new();
                let file = options.create(true).append(true).open(path).unwrap();
                while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                    if left().is_zero() {
                        return None;
                    }
                    thread::sleep(Duration::from_micros(200));
                }
                Some(Turn::Folder(folder.clone(), file))
            }
        }
    }
}

impl Turn {
    pub(crate) fn load(&self, key: &str) -> Option<Record> {
        match self {
            Turn::Memory(memory) => memory.records().get(key).cloned(),
            Turn::Folder(folder, _) => {
                let text = fs::read_to_string(file_of(folder, key)).ok()?;
                let mut fields = text.splitn(5, ' ');
                let mut field = || fields.next().unwrap();
                Some(Record {
                    owner: OwnerToken::from_hex(field()),
                    until: Time::from_nanos(field().parse().unwrap()),
                    fence: field().parse().unwrap(),
                    sequence: field().parse().unwrap(),
                    holder: field().to_owned(),
                })
            }
        }
    }

    pub(crate) fn save(&self, key: &str, record: &Record) {
        match self {
            Turn::Memory(memory) => {
                memory.records().insert(key.to_owned(), record.clone());
            }
            Turn::Folder(folder, _) => {
                let file = file_of(folder, key);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                let owner = record
                    .owner
                    .map_or("-".to_owned(), |owner| owner.to_string());
                let text = format!(
                    "{owner} {} {} {} {}",
                    record.until.as_nanos(),
                    record.fence,
                    record.sequence,
                    record.holder
                );
                fs::write(file, text).unwrap();
            }
        }
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        match self {
            Turn::Memory(memory) => memory.records().keys().cloned().collect(),
            Turn::Folder(..) => Vec::new(),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Turn::Memory(memory) = self {
            *memory.is_busy.lock().unwrap() = false;
            memory.changed.notify_one();
        }
    }
}

impl Memory {
    fn records(&self) -> MutexGuard<'_, HashMap<String, Record>> {
        self.records.lock().unwrap()
    }
}

/// In hex, so that every key is a name, in folders of names that are short enough.
fn file_of(folder: &Path, key: &str) -> PathBuf {
    let hex: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut path = folder.to_owned();
    for part in hex.as_bytes().chunks(200) {
        path.push(String::from_utf8_lossy(part).into_owned());
    }
    path.set_extension("record");
    path
}
