//! The file that one recorder appends to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use dlock_core::Time;

use crate::{Event, SUFFIX, What};

pub(super) struct Log {
    file: Mutex<File>,
    actor: Arc<str>,
    store: Arc<str>,
}

impl Log {
    pub(super) fn create(folder: &Path, actor: &str, store: &str) -> io::Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(folder.join(format!("{actor}.{SUFFIX}")))?;
        Ok(Self::over(file, actor, store))
    }

    /// A log that is appended to a file that is open already.
    pub(super) fn over(file: File, actor: &str, store: &str) -> Self {
        Log {
            file: Mutex::new(file),
            actor: actor.into(),
            store: store.into(),
        }
    }

    /// # Panics
    ///
    /// If the file cannot be written.
    pub(super) fn record(&self, key: &str, (before, after): (Time, Time), what: What) {
        let event = Event {
            actor: Arc::clone(&self.actor),
            before,
            after,
            store: Arc::clone(&self.store),
            key: key.into(),
            what,
        };
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(format!("{event}\n").as_bytes())
            .expect("the history file can be written");
    }
}
