//! The `dlock` command: `flock(1)` for many hosts.
//!
//! `dlock run hourly-import -- ./import.sh` runs a command while it holds a lock that many hosts
//! share. This library is the command itself, so that its [exit codes](exit_code) and its [command
//! line](args) can be used and tested from Rust.

#[cfg(not(unix))]
compile_error!(
    "the dlock command needs Unix: process groups, signals, fork. The libraries work elsewhere."
);

pub mod args;
mod command;
mod config;
mod doctor;
pub mod exit_code;
mod exit_reason;
mod group;
mod hold;
mod inspect;
mod lease;
mod lock_events;
mod message;
mod metrics_file;
mod pages;
mod run;
mod run_report;
mod session;
mod signals;
mod store;
mod sys;
mod terminal;
mod watcher;

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use args::{Invocation, Verb};

/// Runs the command line `arguments`, without the program's own name. Returns the exit code.
///
/// It takes over the process: it catches signals, forks, and waits for children. Call it only once.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    sys::allocate_in_one_place();
    let code = match args::parse(arguments) {
        Ok(Invocation::Text(text)) => print(text.as_bytes()),
        Ok(Invocation::Verb(verb)) => run_verb(&verb),
        Err(error) => {
            message::report(error);
            exit_code::USAGE
        }
    };
    ExitCode::from(code)
}

fn run_verb(verb: &Verb) -> u8 {
    match verb {
        Verb::Run(run) => run::run(run),
        Verb::Hold(hold) => hold::hold(hold),
        Verb::Status(status) => inspect::status(status),
        Verb::List(list) => inspect::list(list),
        Verb::Break(arguments) => inspect::break_lock(arguments),
        Verb::Forget(forget) => inspect::forget(forget),
        Verb::Key(key) => inspect::key(key),
        Verb::Doctor(arguments) => doctor::doctor(arguments),
        Verb::Completions(completions) => pages::completions(completions),
        Verb::Man(man) => pages::man(man),
    }
}

/// Prints a text. Returns the exit code.
fn print(text: &[u8]) -> u8 {
    print_part(text).err().unwrap_or(0)
}

/// Prints a part of a text. If no more is to be printed, returns the exit code as the error: 0 if
/// the reader has closed the pipe, since it needs no more.
fn print_part(text: &[u8]) -> Result<(), u8> {
    let mut out = std::io::stdout();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(0),
        Err(error) => {
            message::report(format_args!("cannot write to standard output: {error}"));
            Err(exit_code::SYSTEM)
        }
    }
}
