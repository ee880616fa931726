//! Locks between the processes of one host, kept in a folder, for [dlock](dlock_core): no server
//! needed.
//!
//! ```
//! use dlock_core::Lock;
//! use dlock_file::FileDatastore;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! # let folder = scratch.path().join("locks");
//! let store = FileDatastore::open(folder)?; // or `open_default()`, this user's own folder
//! let lock = Lock::new(store, "hourly-import");
//! let rows = lock.locked_within(Duration::from_secs(30), |guard| {
//!     println!("importing under token {:?}", guard.fencing_token());
//!     42
//! })?;
//! # assert_eq!(rows, 42);
//! # Ok(())
//! # }
//! ```
//!
//! Each key has one small text file, which is replaced atomically under an `flock`. If a process is
//! killed, at whatever moment, the folder stays usable and the lock ends with its lease.
//! [`FileDatastore`] says what this guarantees and what it does not.
//!
//! It needs Unix. On Linux, leases are measured on a clock that nobody can set, network file
//! systems are refused, and an error names the process that blocks a call. On other systems the
//! wall clock is used, and the other two are left to the user.

#![forbid(unsafe_code)]

#[cfg(not(unix))]
compile_error!(
    "dlock-file needs a Unix system: it relies on flock, file modes and an atomic rename"
);

mod config;
mod error;
mod failpoint;
mod file_system;
mod files;
mod findings;
mod folder;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod held;
mod listing;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod lock_owner;
mod now;
mod operations;
mod pipe;
mod queue;
mod record;
mod record_path;
mod shard;
mod store;
mod sweep;
#[cfg(test)]
mod tests;
mod turn;
mod waiting;

pub use config::FileBuilder;
pub use error::{FileError, OpenError};
pub use store::FileDatastore;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
