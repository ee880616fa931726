//! Where the reference store keeps its records: in memory, or in a folder that other processes can
//! open.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use dlock_core::{Clock, OwnerToken, Time};
use rustix::fs::{FlockOperation, flock};

use super::queue::Place;

/// What is known of a key that was claimed once. It stays when the key is free, for its fencing
/// token.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) owner: Option<OwnerToken>,
    pub(crate) until: Time,
    pub(crate) fence: u64,
    pub(crate) sequence: u64,
    pub(crate) holder: String,
}

/// Stands in the place of a holder's description in a record that no lock client wrote.
pub(crate) const FOREIGN: &str = "written by somebody else";

#[derive(Clone)]
pub(crate) enum Backing {
    Memory(Arc<Memory>),
    /// With the gate at which this handle's threads wait, so that only one of them asks for the
    /// file's lock.
    Folder(PathBuf, Arc<Gate>),
}

#[derive(Default)]
pub(crate) struct Memory {
    gate: Arc<Gate>,
    records: Mutex<HashMap<String, Record>>,
    queues: Mutex<HashMap<String, Vec<Place>>>,
}

/// Lets one thread through at a time.
#[derive(Default)]
pub(crate) struct Gate {
    is_busy: Mutex<bool>,
    changed: Condvar,
}

/// A turn as the store's one writer.
pub(crate) struct Turn {
    place: Where,
    // The lock on the file ends before another thread is let through.
    _file: Option<File>,
    _passage: Passage,
}

enum Where {
    Memory(Arc<Memory>),
    Folder(PathBuf),
}

impl Backing {
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Backing::Folder(folder.to_owned(), Arc::default())
    }

    /// Reads without taking a turn, so a process that is stopped during a read blocks nobody.
    pub(crate) fn peek(&self, key: &str) -> Option<Record> {
        match self {
            Backing::Memory(memory) => memory.records().get(key).cloned(),
            Backing::Folder(folder, _) => read(folder, key),
        }
    }

    /// Waits for the writer's turn; `None` when it did not come by `end`.
    pub(crate) fn turn(&self, end: Time) -> Option<Turn> {
        match self {
            Backing::Memory(memory) => Some(Turn {
                place: Where::Memory(Arc::clone(memory)),
                _file: None,
                _passage: memory.gate.pass(end)?,
            }),
            Backing::Folder(folder, gate) => {
                let passage = gate.pass(end)?;
                let path = folder.join("writer");
                let mut options = OpenOptions::new();
                let file = options.create(true).append(true).open(path).unwrap();
                while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                    if Clock::BOOTTIME.now() >= end {
                        return None;
                    }
                    thread::sleep(Duration::from_micros(200));
                }
                Some(Turn {
                    place: Where::Folder(folder.clone()),
                    _file: Some(file),
                    _passage: passage,
                })
            }
        }
    }
}

impl Gate {
    fn pass(self: &Arc<Self>, end: Time) -> Option<Passage> {
        let mut is_busy = self.is_busy.lock().unwrap();
        while *is_busy {
            let left = Clock::BOOTTIME.now().until(end);
            if left.is_zero() {
                // It may have been given its turn too late.
                self.changed.notify_one();
                return None;
            }
            is_busy = self.changed.wait_timeout(is_busy, left).unwrap().0;
        }
        *is_busy = true;
        Some(Passage(Arc::clone(self)))
    }
}

/// Through the gate, until it is dropped.
struct Passage(Arc<Gate>);

impl Drop for Passage {
    fn drop(&mut self) {
        *self.0.is_busy.lock().unwrap() = false;
        self.0.changed.notify_one();
    }
}

impl Turn {
    pub(crate) fn load(&self, key: &str) -> Option<Record> {
        match &self.place {
            Where::Memory(memory) => memory.records().get(key).cloned(),
            Where::Folder(folder) => read(folder, key),
        }
    }

    pub(crate) fn save(&self, key: &str, record: &Record) {
        match &self.place {
            Where::Memory(memory) => {
                memory.records().insert(key.to_owned(), record.clone());
            }
            Where::Folder(folder) => {
                let file = file_of(folder, key);
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
                replace(&file, &text);
            }
        }
    }

    pub(crate) fn load_queue(&self, key: &str) -> Vec<Place> {
        match &self.place {
            Where::Memory(memory) => {
                let queues = memory.queues.lock().unwrap();
                queues.get(key).cloned().unwrap_or_default()
            }
            Where::Folder(folder) => {
                let file = file_of(folder, key).with_extension("queue");
                let text = fs::read_to_string(file).unwrap_or_default();
                let place = |line: &str| {
                    let mut fields = line.splitn(3, ' ');
                    Some(Place {
                        owner: OwnerToken::from_hex(fields.next()?)?,
                        process: fields.next()?.parse().ok()?,
                        holder: fields.next()?.to_owned(),
                    })
                };
                text.lines().filter_map(place).collect()
            }
        }
    }

    pub(crate) fn save_queue(&self, key: &str, places: &[Place]) {
        match &self.place {
            Where::Memory(memory) => {
                let mut queues = memory.queues.lock().unwrap();
                queues.insert(key.to_owned(), places.to_vec());
            }
            Where::Folder(folder) => {
                let file = file_of(folder, key).with_extension("queue");
                let line = |place: &Place| {
                    let Place {
                        owner,
                        process,
                        holder,
                    } = place;
                    format!("{owner} {process} {holder}\n")
                };
                replace(&file, &places.iter().map(line).collect::<String>());
            }
        }
    }

    /// The same; `None` where they are not known.
    pub(crate) fn names(&self) -> Option<Vec<String>> {
        match &self.place {
            Where::Memory(_) => Some(self.keys()),
            Where::Folder(_) => None,
        }
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        match &self.place {
            Where::Memory(memory) => memory.records().keys().cloned().collect(),
            Where::Folder(_) => Vec::new(),
        }
    }
}

impl Memory {
    fn records(&self) -> MutexGuard<'_, HashMap<String, Record>> {
        self.records.lock().unwrap()
    }
}

fn read(folder: &Path, key: &str) -> Option<Record> {
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

/// As a whole or not at all: a process may be killed while it writes.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
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
