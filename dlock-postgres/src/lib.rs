//! Locks kept in PostgreSQL, for dlock.
//!
//! ```no_run
//! use dlock_core::Lock;
//! use dlock_postgres::{ConnectionManager, PostgresDatastore};
//! use std::time::Duration;
//!
//! # fn import(_: u64) {}
//! // Once, by a user who may create a schema:
//! ConnectionManager::new("postgres://owner@127.0.0.1/app")?.migrate(Duration::from_secs(10))?;
//!
//! let store = PostgresDatastore::open("postgres://app:secret@127.0.0.1/app")?;
//! let lock = Lock::new(store, "hourly-import");
//! lock.locked_within(Duration::from_secs(30), |guard| {
//!     import(guard.fencing_token().map_or(0, |token| token.get()));
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It needs PostgreSQL 13 or newer, directly or through a pooler such as PgBouncer.
#![forbid(unsafe_code)]

#[cfg(feature = "tokio")]
mod aio;
mod config;
mod connection;
mod error;
mod findings;
mod handshake;
mod held;
mod operations;
mod pool;
mod statements;
mod store;
mod tls;
mod waiting;
mod wire;

pub use config::PostgresBuilder;
pub use connection::Connection;
pub use error::{ServerError, UrlError};
pub use pool::ConnectionManager;
pub use store::{MIGRATION, PostgresDatastore};
pub use tls::{ChannelBinding, SslMode};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub use dlock_net::Resolver;
#[cfg(feature = "tls")]
pub use dlock_net::tls::{TlsError, TlsReason};

/// The r2d2 that [`PostgresDatastore::from_pool`] takes a pool of.
pub use dlock_net::r2d2;
