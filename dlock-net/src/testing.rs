//! Helpers for the tests of the server backends.

#[cfg(feature = "tokio")]
mod ends;
mod passwords;
mod pieces;
#[cfg(feature = "tokio")]
mod runtimes;
mod seeds;

#[cfg(feature = "tokio")]
pub use ends::EndingProgram;
pub use passwords::{SECRET, with_passwords};
pub use pieces::Pieces;
#[cfg(feature = "tokio")]
pub use runtimes::{current_thread, runtimes};
pub use seeds::hold_on_seeds;
