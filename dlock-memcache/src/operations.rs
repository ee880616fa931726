//! The conversations with memcached about a key: claims, extends, releases.
//!
//! They are plain `async fn`s over [`commands::Commands`], which the store polls once.
//! `dlock-model` runs them through every interleaving.

#![allow(
    unreachable_pub,
    missing_docs,
    reason = "private here; the model, which runs the conversation from its own crate, gets it public"
)]

pub mod batch;
pub mod commands;
pub mod grant;
pub mod holding;
pub mod incarnation;
pub mod record;
pub mod revision;
pub mod ttl;
