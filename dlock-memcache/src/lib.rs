//! Locks kept in memcached, for dlock.
//!
//! ```no_run
//! use dlock_core::Lock;
//! use dlock_memcache::MemcacheDatastore;
//! use std::time::Duration;
//!
//! # fn import(_: u64) {}
//! let store = MemcacheDatastore::connect("memcache://127.0.0.1:11211")?;
//! let lock = Lock::new(store, "hourly-import");
//! lock.locked_within(Duration::from_secs(30), |guard| {
//!     import(guard.fencing_token().map_or(0, |token| token.get()));
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! memcached 1.6 or newer, one server per store. Its weaknesses as a keeper of locks are those of a cache:
//! [`MemcacheDatastore`] begins with them.
#![forbid(unsafe_code)]

mod abandoned;
mod batch;
mod config;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod grant;
mod greeting;
mod holding;
mod life;
mod pool;
mod protocol;
mod record;
mod reply;
mod store;
mod ttl;

pub use config::MemcacheBuilder;
pub use error::UrlError;
pub use pool::ConnectionManager;
pub use protocol::Connection;
pub use store::MemcacheDatastore;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The r2d2 that [`MemcacheDatastore::from_pool`] takes a pool of.
pub use r2d2;
