//! Histories of locks: real processes write down what they did, and a checker says whether that can
//! have been.
//!
//! Each process has a [`Recorder`], which acquires, looks, writes and releases through a
//! [`Lock`](dlock_core::Lock) and appends an [`Event`] for each of these to a file of its own, with
//! the time (`CLOCK_BOOTTIME`, the same for all processes of a host) before and after the call. A
//! program that injects faults meanwhile records a [`What::Fault`] for each. Then [`History::read`]
//! takes in all files of the folder and [`History::check`] holds them against these
//! [properties](Property):
//!
//! - **Exclusion.** The leases of a key, as their holders believed in them, never overlap.
//! - **Own.** No lease ends before its holder's reckoning, whatever others release or extend.
//! - **Length.** No lease is reckoned with for longer than its time to live and the store's
//!   granularity.
//! - **Fencing.** Tokens strictly increase in the real-time order of grants, and always.
//! - **Guarded resource.** It never accepts a lower token after a higher one, and never refuses a
//!   holder whose lease is valid.
//! - **Minimum hold** and **once** are kept.
//! - **Order and waiting**, where the store queues its waiters, in times without faults: nobody who
//!   begins to wait is served before one who waits already, and no key stays free while somebody
//!   waits for it.
//! - **Clean.** When an async acquire, release or job was dropped and its clean-up is over, its key
//!   is not held by it, unless a call of the clean-up failed.
//! - **Progress.** When the faults are over, every key is acquired again.
//! - **Commands.** A job that a command runs under a lock, and records as a [`JobRecord`], does not
//!   outlive its lease or its command; the command ends, with a status that is true.
//! - **Thrives.** A healthy process is granted its key while other processes crash, and after they
//!   died.
//! - **Not vacuous.** Enough was granted, refused, waited for and broken for the rest to mean
//!   something.
//!
//! Where a store lost its data, or its clock was set, two may believe for a while that they hold a
//! lock: until the end of a lease that the store had granted by then, as its holder recorded it. So
//! much is excused, counted and reported, and nothing else. Fencing tokens are never excused. A
//! store that [confirms](dlock_core::Datastore::confirm) may declare a lease shorter than it
//! granted it; that is counted as cut short.
//!
//! ```
//! use dlock_core::{Lock, MemoryDatastore, Wait};
//! use dlock_history::{History, Recorder, Rules};
//!
//! let folder = tempfile::tempdir()?;
//! let recorder = Recorder::create(folder.path(), "worker-1", "memory", MemoryDatastore::new())?;
//! let lock = Lock::new(recorder.store(), "import");
//! let mut holding = recorder.acquire(&lock, &Wait::none())?;
//! assert!(!holding.look().is_zero());
//! holding.release()?;
//!
//! let report = History::read(folder.path())?.check(&Rules::default());
//! assert!(report.violations.is_empty(), "{report}");
//! assert_eq!(report.figures.grants, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! For Unix alone: elsewhere the crate is empty.
#![cfg(unix)]
#![forbid(unsafe_code)]

#[cfg(feature = "tokio")]
mod aio;
mod check;
mod event;
mod figures;
mod holding;
mod job;
mod lease;
mod ledger;
mod log;
mod outside;
mod properties;
mod recorder;
mod report;
mod resource;
mod waiting;
mod witness;

use std::fs;
use std::io;
use std::path::Path;

#[cfg(feature = "tokio")]
pub use aio::{AsyncHolding, AsyncRecorder};
pub use event::{End, Event, Harm, What};
pub use figures::Figures;
pub use holding::{Holding, Section};
pub use job::JobRecord;
pub use recorder::Recorder;
pub use report::{Property, Report, Rules, Violation};
pub use resource::Resource;

/// What the name of a history file ends with.
const SUFFIX: &str = "history";

/// The events of all processes.
#[derive(Debug, Clone, Default)]
pub struct History {
    events: Vec<Event>,
}

impl History {
    /// Reads the files that [`Recorder`]s left in a folder. A line that is not complete is ignored:
    /// its process was killed while writing it.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or a complete line that is no event.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut events = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|suffix| suffix != SUFFIX) {
                continue;
            }
            let actor = path.file_stem().unwrap_or_default().to_string_lossy();
            let text = fs::read_to_string(&path)?;
            event::parse(&actor, &text, &mut events).map_err(|line| {
                let message = format!("{}: no event: {line}", path.display());
                io::Error::new(io::ErrorKind::InvalidData, message)
            })?;
        }
        Ok(Self::of(events))
    }

    /// A history of these events, in whatever order.
    pub fn of(mut events: Vec<Event>) -> Self {
        events.sort_by_key(|event| (event.before, event.after));
        History { events }
    }

    /// The events, by the time at which they began.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Holds the history against all properties.
    pub fn check(&self, rules: &Rules) -> Report {
        check::check(self, rules)
    }
}

#[cfg(test)]
mod tests;

/// The README's code, so that `cargo test` compiles it.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
