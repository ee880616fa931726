//! Locks kept in etcd, for [dlock](dlock_core).
//!
//! ```no_run
//! use dlock_core::Lock;
//! use dlock_etcd::EtcdDatastore;
//! use std::time::Duration;
//!
//! # fn import(_: u64) {}
//! let store = EtcdDatastore::open("etcd://10.0.0.1,10.0.0.2,10.0.0.3")?;
//! let lock = Lock::new(store, "hourly-import");
//! lock.locked_within(Duration::from_secs(30), |guard| {
//!     import(guard.fencing_token().map_or(0, |token| token.get()));
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It needs etcd 3.4 or newer with its JSON gateway, which is on unless it is switched off
//! (`--enable-grpc-gateway=false`). With the feature `tokio` the same store is used from async
//! code. What etcd can promise and what it cannot is said at [`EtcdDatastore`].
#![forbid(unsafe_code)]

#[cfg(feature = "tokio")]
mod aio;
mod config;
mod connection;
mod endpoints;
mod error;
mod findings;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod held;
mod operations;
mod pool;
mod store;
mod waiting;
mod wire;

pub use config::{EtcdBuilder, UrlError};
pub use connection::Connection;
pub use pool::ConnectionManager;
pub use store::EtcdDatastore;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use dlock_net::Resolver;
#[cfg(feature = "tls")]
pub use dlock_net::tls::{TlsError, TlsReason};

/// The r2d2 that [`EtcdDatastore::from_pool`] takes a pool of.
pub use dlock_net::r2d2;
