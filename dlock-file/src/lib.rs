//! Locks between the processes of one host, kept in a folder: no server needed.
//!
//! ```
//! use dlock_core::{Attempt, Claim, Clock, Datastore};
//! use dlock_file::FileDatastore;
//! use std::time::Duration;
//!
//! # let scratch = tempfile::tempdir()?;
//! # let folder = scratch.path().join("locks");
//! let store = FileDatastore::open(folder)?;
//! let claim = Claim::new("dlock:hourly-import", &Clock::BOOTTIME, Duration::from_secs(2))?;
//! assert!(matches!(store.acquire(&claim, Duration::from_secs(30))?, Attempt::Granted(_)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

#[cfg(not(unix))]
compile_error!(
    "dlock-file needs a Unix system: it relies on flock, file modes and an atomic rename"
);

mod config;
mod error;
mod fault;
mod file_system;
mod folder;
mod lock_owner;
mod moment;
mod place;
mod protocol;
mod record;
mod shard;
mod store;
mod sweep;
#[cfg(test)]
mod tests;

pub use config::FileBuilder;
pub use error::{FileError, OpenError};
pub use store::FileDatastore;
