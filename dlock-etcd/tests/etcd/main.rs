//! The promises of `dlock-etcd`, tested with real servers and many kinds of faults.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[cfg(feature = "tokio")]
mod aio;
mod batches;
mod cluster;
mod conformance;
mod costs;
mod faults;
mod findings;
mod gate;
mod late_copies;
mod partition;
mod points;
mod promises;
mod queue;
mod queue_faults;
mod refused;
mod support;
mod tls;
mod users;
