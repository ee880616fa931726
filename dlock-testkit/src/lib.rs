//! The conformance suite for stores of dlock, with real servers and faults.

pub mod faults;
#[cfg(unix)]
pub mod servers;
