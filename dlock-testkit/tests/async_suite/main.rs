//! The async suite: an async store passes all of it, and each broken behaviour of an async store or
//! lock is caught by the case that names it.

// Helpers of tests are tests.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "it is a test"
)]

mod broken_locks;
mod broken_stores;
mod caught;
#[path = "../../src/pauses.rs"]
mod pauses;
mod suspending;
