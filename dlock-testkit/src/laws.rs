//! The cases of the suite, a function each. [`LAWS`](crate::LAWS) lists them with the sentence that
//! each one shows.
//!
//! A case returns whether the promise was kept or does not apply, and panics if it was broken; the
//! message begins with the law's number and name. [`conformance!`](crate::conformance) makes a
//! `#[test]` of each. They are public, so that one can be run by itself.

#[cfg(feature = "tokio")]
pub mod async_loss;
#[cfg(feature = "tokio")]
pub mod async_runtime;
pub mod atomic;
pub mod batch;
pub mod bounded;
pub mod clean;
pub mod crossing;
pub mod declared;
#[cfg(feature = "tokio")]
pub mod dropped_acquire;
#[cfg(feature = "tokio")]
pub mod dropped_calls;
#[cfg(feature = "tokio")]
pub mod dropped_once;
#[cfg(feature = "tokio")]
pub mod dropped_release;
pub mod exclusion;
pub mod expiry;
pub mod extend;
pub mod fencing;
pub mod fork;
pub mod found;
pub mod held;
pub mod hold;
pub mod idempotent;
pub mod independent;
pub mod inspected;
pub mod late;
pub mod leaving;
pub mod loss;
pub mod model;
pub mod names;
pub mod once;
pub mod order;
pub mod own;
pub mod process;
pub mod queue;
pub mod stores;
pub mod waiting;
