//! What `dlock-postgres` promises, against real servers that are broken in every way at hand.

// The servers are started by means that only Unix has.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[cfg(feature = "tokio")]
mod aio;
mod check;
mod conformance;
mod failover;
mod faults;
mod findings;
mod prepared;
mod queue;
mod queue_faults;
mod schema;
mod support;
mod tls;
mod traps;
