//! The cases of the suite, a function each. [`LAWS`](crate::LAWS) lists them with the sentence that each one shows.
//!
//! A case returns whether the promise was kept or does not apply, and panics if it was broken; the message begins with
//! the law's number and name. [`conformance!`](crate::conformance) makes a `#[test]` of each. They are public for whoever
//! wants to run one by itself.

pub mod atomic;
pub mod bounded;
pub mod clean;
pub mod declared;
pub mod exclusion;
pub mod expiry;
pub mod extend;
pub mod fencing;
pub mod fork;
pub mod held;
pub mod hold;
pub mod idempotent;
pub mod independent;
pub mod leaving;
pub mod loss;
pub mod model;
pub mod names;
pub mod once;
pub mod own;
pub mod process;
pub mod queue;
pub mod stores;
pub mod waiting;
