//! What the examples share: a store from a URL, and processes that act as servers.
//!
//! Each example is one file in `src/bin`.

#![forbid(unsafe_code)]

mod cluster;
mod store;

pub use cluster::{Cluster, Line, Process, Role, report};
pub use store::open;

use std::process::ExitCode;

/// Any error ends an example with a message.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// The exit code for `main`: 0, or 1 after the message and its causes on standard error.
#[allow(clippy::print_stderr)]
pub fn exit(outcome: Outcome) -> ExitCode {
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        // Some errors repeat their cause in their own text.
        if !message.contains(&inner) {
            message = format!("{message}: {inner}");
        }
        cause = error.source();
    }
    eprintln!("error: {message}");
    ExitCode::FAILURE
}
