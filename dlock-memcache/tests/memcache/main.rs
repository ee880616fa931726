//! The promises of `dlock-memcache`, tested with real servers and many kinds of faults.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[cfg(feature = "tokio")]
mod aio;
mod batches;
mod conformance;
mod faults;
mod name_servers;
mod promises;
mod servers;
mod several_servers;
mod support;
mod unexpected_servers;
