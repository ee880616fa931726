//! Locks kept in memcached, for dlock.
//!
//! ```no_run
//! use dlock_core::Lock;
//! use dlock_memcache::MemcacheDatastore;
//! use std::time::Duration;
//!
//! # fn import(_: u64) {}
//! let store = MemcacheDatastore::open("memcache://127.0.0.1:11211")?;
//! let lock = Lock::new(store, "hourly-import");
//! lock.locked_within(Duration::from_secs(30), |guard| {
//!     import(guard.fencing_token().map_or(0, |token| token.get()));
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It needs memcached 1.6 or newer, with one server per store. As a store of locks memcached has
//! the weaknesses of a cache: the documentation of [`MemcacheDatastore`] begins with them.
#![forbid(unsafe_code)]

#[cfg(feature = "tokio")]
mod aio;
mod config;
mod connection;
mod error;
mod findings;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod incarnations;
#[cfg(not(dlock_model))]
mod operations;
#[cfg(dlock_model)]
#[doc(hidden)]
pub mod operations;
mod pool;
mod store;
mod wire;

pub use config::{MemcacheBuilder, UrlError};
pub use connection::Connection;
pub use pool::ConnectionManager;
pub use store::MemcacheDatastore;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use dlock_net::Resolver;

/// The r2d2 that [`MemcacheDatastore::from_pool`] takes a pool of.
pub use r2d2;
