//! Helpers for the tests of the server backends.

mod passwords;
mod pieces;
mod seeds;

pub use passwords::{SECRET, with_passwords};
pub use pieces::Pieces;
pub use seeds::hold_on_seeds;
