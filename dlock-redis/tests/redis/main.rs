//! What `dlock-redis` promises, against real servers that are broken in every way at hand.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod beside_others;
mod broken_connections;
mod costs;
mod locks;
mod rights;
mod scripted;
mod server_events;
mod stopped_servers;
mod support;
