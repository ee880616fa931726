//! The promises of `dlock-etcd`, tested with real servers and many kinds of faults.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod cluster;
mod conformance;
mod costs;
mod faults;
mod promises;
mod support;
mod tls;
mod users;
