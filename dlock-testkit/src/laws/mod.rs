//! The cases of the suite, a function each. [`LAWS`](crate::LAWS) lists them with the sentence that each one shows.
//!
//! A case returns whether the promise was kept or does not apply, and panics if it was broken; the message begins with
//! the law's number and name. [`conformance!`](crate::conformance) makes a `#[test]` of each. They are public for whoever
//! wants to run one by itself.

pub mod atomic;
pub mod bounded;
pub mod clean;
pub mod declared;
pub mod expiry;
pub mod extend;
pub mod fencing;
pub mod held;
pub mod idempotent;
pub mod independent;
pub mod own;
pub mod process;
