//! The promises of `dlock-net`, tested against servers that misbehave.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod deadline;
#[cfg(target_os = "linux")]
mod fork;
// Forks, and the way the servers are stopped, are Unix.
#[cfg(all(unix, feature = "tokio"))]
mod mux;
#[cfg(target_os = "linux")]
mod name_server;
#[cfg(target_os = "linux")]
mod no_threads;
mod pool;
mod support;
#[cfg(target_os = "linux")]
mod threads;
