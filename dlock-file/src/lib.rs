//! Locks between the processes of one host, kept in a folder, for [dlock](dlock_core): no server needed.
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
//! One small text file a key, replaced atomically under an `flock`: a process that is killed at any moment leaves the folder usable, and its
//! lock ends when its lease does. What that can promise and what it cannot is said at [`FileDatastore`].
//!
//! For Unix. On Linux a lease is judged by the clock that nobody can set, network file systems are refused, and an error names the
//! process that is in the way; on other systems the wall clock decides, and those two are left to the user.

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
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(target_os = "linux", target_os = "android"))]
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

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
