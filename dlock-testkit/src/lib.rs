//! The conformance suite for stores of dlock, with real servers and faults.

mod case;
mod client;
pub mod faults;
#[cfg(unix)]
mod forked;
pub mod laws;
mod leaks;
mod orders;
mod other;
#[cfg(unix)]
pub mod servers;
mod subject;
mod suite;
mod threads;
mod verdict;

pub use other::other_process;
#[doc(hidden)]
pub use subject::__Reopen;
pub use subject::Subject;
pub use suite::{LAWS, Promise};
pub use verdict::Verdict;
