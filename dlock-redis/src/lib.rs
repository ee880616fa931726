//! Locks kept in Redis or Valkey, for [dlock](dlock_core).
//!
//! ```no_run
//! use dlock_core::Lock;
//! use dlock_redis::RedisDatastore;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = RedisDatastore::open("redis://127.0.0.1/")?;
//! let lock = Lock::new(store, "hourly-import");
//! let rows = lock.locked_within(Duration::from_secs(30), |guard| {
//!     println!("importing under token {:?}", guard.fencing_token());
//!     42
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! One round trip to acquire, to extend and to release. Each claim carries the server time after
//! which it must do nothing: a server that was stopped and goes on holds no lock for a client that
//! gave up long ago. What one server can promise and what it cannot is said at [`RedisDatastore`].
//!
//! The rights that a Redis user needs, with the default key prefix:
//!
//! ```text
//! user dlock on >password resetchannels -@all ~dlock:* ~{dlock:*}:* +eval +evalsha +time +get +set +incr +incrby +pexpire +pexpiretime +pttl +del \
//!     &dlock:wake:* +exists +subscribe +publish +zadd +zrem +zrange +zscore +zcard +hget +hset +hdel +hlen +hgetall
//! ```
//!
//! In a cluster also `+cluster|slots +asking`, with sentinels `+role`, with `wait_replicas`
//! `+wait`, and in a database other than 0 `+select`.

#![forbid(unsafe_code)]

#[cfg(feature = "tokio")]
mod aio;
mod cluster;
mod config;
mod connection;
mod error;
mod findings;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod held;
mod operations;
mod pool;
mod replicas;
mod sentinel;
mod server;
mod servers;
mod store;
mod waiting;
mod wire;

pub use config::{RedisBuilder, UrlError};
pub use connection::Connection;
#[cfg(feature = "tls")]
pub use dlock_net::tls::{TlsError, TlsReason};
pub use error::ServerError;
pub use pool::ConnectionManager;
pub use replicas::TooFewReplicas;
pub use store::RedisDatastore;

pub use dlock_net::Resolver;

/// The r2d2 whose pools [`RedisDatastore::from_pool`] takes.
pub use dlock_net::r2d2;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
