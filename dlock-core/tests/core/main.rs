//! The promises of core to its users, on the store in memory.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[cfg(feature = "tokio")]
mod aio;
mod delivery;
mod fake_clock;
mod guard;
mod hold;
mod holder;
mod keeper;
mod layer;
mod loss;
mod memory;
#[cfg(feature = "metrics")]
mod metrics;
mod observer;
mod once;
#[cfg(all(feature = "tokio", feature = "tracing"))]
mod panics;
mod support;
#[cfg(feature = "tracing")]
mod tracing;
mod urgency;
mod waiting;
