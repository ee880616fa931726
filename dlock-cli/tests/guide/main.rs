//! What the guide shows for a shell is run, with the real binary.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![cfg(all(feature = "redis", feature = "memcache", feature = "postgres"))]

mod configuration;
mod crontab;
mod kubernetes;
mod languages;
mod on_call;
mod pages;
mod sandbox;
mod shell;
mod sql;
#[allow(dead_code, reason = "the other test program uses all of it")]
#[path = "../cli/support.rs"]
mod support;
mod units;
