//! The `dlock` command: `flock(1)` for many hosts.
//!
//! `dlock run hourly-import -- ./import.sh` runs a command while it holds a lock that many hosts share. This library is the
//! command itself, so that its [exit codes](exit_code) and its [command line](args) can be used and tested from Rust.

#[cfg(not(unix))]
compile_error!(
    "the dlock command needs Unix: process groups, signals, fork. The libraries work elsewhere."
);

pub mod args;
mod command;
pub mod exit_code;
mod group;
mod run;
mod say;
mod seen;
mod signals;
mod store;
mod sys;
mod terminal;
mod watcher;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use args::Request;

/// Does what the arguments say (without the program's own name), and tells what to exit with.
///
/// It catches signals, forks, and waits for children: it takes over the process and is to be called once.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let code = match args::parse(arguments) {
        Ok(Request::Run(run)) => run::run(&run),
        Ok(Request::Help) => print(include_str!("help.txt")),
        Ok(Request::RunHelp) => print(include_str!("help_run.txt")),
        Ok(Request::Version) => print(concat!("dlock ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(error) => {
            say::say(error);
            exit_code::USAGE
        }
    };
    ExitCode::from(code)
}

fn print(text: &str) -> u8 {
    // A reader that closed the pipe has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}
