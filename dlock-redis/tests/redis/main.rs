//! What `dlock-redis` promises, against real servers that are broken in every way at hand.

// The servers are started by means that only Unix has.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod beside_others;
mod broken_connections;
#[cfg(target_os = "linux")]
mod clocks;
mod costs;
mod locks;
mod queue;
mod queue_faults;
mod queue_losses;
mod rights;
mod scripted;
mod server_events;
mod stopped_servers;
mod support;
