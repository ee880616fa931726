//! What the examples share: a store from a URL, and processes that play the servers.
//!
//! What they are about stands in `src/bin`, one file each.

#![forbid(unsafe_code)]

mod stage;
mod store;

pub use stage::{Line, Part, Process, Stage, say};
pub use store::open;

use std::process::ExitCode;

/// Whatever goes wrong in an example ends it with a message.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// What `main` returns: 0, or 1 after the message and its causes on standard error.
#[allow(clippy::print_stderr)]
pub fn exit(outcome: Outcome) -> ExitCode {
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    eprintln!("error: {message}");
    ExitCode::FAILURE
}
