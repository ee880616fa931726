//! What the command promises. The tests run the real binary.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod config;
mod cron;
#[cfg(all(target_os = "linux", feature = "redis", feature = "memcache"))]
mod doctor;
mod environment;
mod exit_codes;
#[cfg(target_os = "linux")]
mod hanging;
mod hold;
mod inherited;
mod lease;
#[cfg(target_os = "linux")]
mod limits;
#[cfg(all(target_os = "linux", feature = "redis"))]
mod name_servers;
#[cfg(all(
    feature = "redis",
    feature = "memcache",
    feature = "etcd",
    feature = "postgres"
))]
mod operators;
#[cfg(target_os = "linux")]
mod other_user;
mod race;
mod recipes;
#[cfg(all(target_os = "linux", feature = "redis", feature = "memcache"))]
mod rewriting_proxy;
mod run_options;
#[cfg(all(feature = "redis", feature = "memcache", feature = "etcd"))]
mod servers;
mod signals;
mod support;
mod terminal;
