//! What `dlock-redis` promises, against real servers that are broken in every way at hand.

// The servers are started by means that only Unix has.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[cfg(feature = "tokio")]
mod aio;
mod beside_others;
mod both_forms;
mod broken_connections;
#[cfg(target_os = "linux")]
mod clocks;
mod cluster;
mod conformance;
mod contention;
mod costs;
mod dead_waiters;
mod deletes;
mod inspect;
mod locks;
mod name_servers;
mod old_data;
mod queue;
mod queue_faults;
mod queue_losses;
mod replicas;
mod rights;
mod scripted;
mod sentinel;
mod server_events;
mod stopped_servers;
mod support;
#[cfg(feature = "tls")]
mod tls;
