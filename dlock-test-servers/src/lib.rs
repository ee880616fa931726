//! Real servers as values, and a proxy that breaks the connections to them.
//!
//! A server is a private process on its own address, and ends when the value is dropped. A test
//! that needs a server starts one and throws it away. Nothing is shared, so it may stop it, kill
//! it, fill it or empty it:
//!
//! ```no_run
//! use dlock_test_servers::RedisServer;
//!
//! let mut server = RedisServer::start();
//! server.command(["SET", "k", "v"]);
//! server.pause(); // accepts connections, answers nothing
//! server.resume();
//! server.restart_with_data();
//! server.restart_empty();
//! println!("{}", server.url());
//! ```
//!
//! A [`RedisCluster`] is made of such servers: its nodes can be killed and stopped, their replicas
//! take over, and slots move between them key by key.
//!
//! A set of a primary, replicas and sentinels is a value too: see [`SentinelSet`].
//!
//! An [`EtcdServer`] is a cluster of one, and an [`EtcdCluster`] has three nodes that can be
//! killed, stopped, and cut off from each other.
//!
//! A [`PostgresServer`] can have a standby, sessions that keep a transaction open, and a
//! [`PostgresPooler`] before it. It refuses to run as root: then the user `postgres` runs it, or
//! `nobody`.
//!
//! What goes wrong here panics: a test cannot go on without its server. A missing binary is such a
//! failure, never a skip, and says what installs it. Another binary (a Valkey, another version) is
//! chosen by environment: `DLOCK_REDIS_SERVER`, `DLOCK_MEMCACHED`, `DLOCK_ETCD`, and
//! `DLOCK_POSTGRES` with the folder that has `initdb` and `postgres` in it.
//!
//! A server does not outlive the test process, even when that is killed.
//!
//! What happens when an answer is late, cut or lost is tested with a proxy between a client and its
//! server: see [`faults`].
//!
//! For Unix alone: elsewhere the crate is empty.
#![cfg(unix)]
#![forbid(unsafe_code)]

mod etcd;
mod etcd_cluster;
mod etcd_network;
pub mod faults;
mod memcached;
mod postgres;
mod process;
mod redis;
mod redis_builder;
mod redis_cluster;
mod redis_cluster_builder;
mod resp;
mod sentinel;
#[cfg(feature = "tls")]
mod tls;
#[cfg(target_os = "linux")]
mod wall_clock;

pub use etcd::EtcdServer;
pub use etcd_cluster::EtcdCluster;
pub use memcached::MemcachedServer;
pub use postgres::{PostgresPooler, PostgresServer, PostgresSession};
pub use redis::RedisServer;
pub use redis_builder::RedisBuilder;
pub use redis_cluster::RedisCluster;
pub use redis_cluster_builder::RedisClusterBuilder;
pub use resp::Reply;
pub use sentinel::{SentinelBuilder, SentinelSet};
#[cfg(feature = "tls")]
pub use tls::TlsCertificate;

#[cfg(test)]
mod tests;

/// The README's code, so that `cargo test` compiles it.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
