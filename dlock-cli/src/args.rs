//! The command line: one table for the parser, the help, the manual pages and the completions.

mod hold;
mod inspect;
mod run;
mod section;
#[cfg(test)]
mod tests;
mod usage;
mod value;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Args as _, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use hold::Hold;
pub use inspect::{Break, Doctor, Forget, Key, List, Status};
pub use run::{
    CodeArgs, Codes, DEFAULT_KEEP, LockArgs, LockSection, LogFormat, OnceArgs, Patience, PlaceArgs,
    ReportArgs, Run, RunOptions, StoreArgs, Work,
};
pub(crate) use section::{Fields, section};
pub use usage::UsageError;

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// A text that was asked for: help or the version.
    Text(String),
    /// A verb with its options.
    Verb(Verb),
}

/// Runs a command on one host at a time, though many hosts start it
#[derive(Debug, Parser)]
#[command(name = "dlock", version, max_term_width = 100, after_help = include_str!("help.txt"))]
#[command(args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

/// What dlock is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Verb {
    /// Run a command while holding a lock
    #[command(after_help = include_str!("help_run.txt"))]
    Run(Box<Run>),
    /// Hold a lock for a script, without running a command
    #[command(after_help = include_str!("help_hold.txt"))]
    Hold(Box<Hold>),
    /// Show who holds a lock, and how many wait for it
    #[command(after_help = STATUS)]
    Status(Status),
    /// Show all locks that are held
    #[command(after_help = LIST)]
    List(List),
    /// Free a lock that its holder does not free
    #[command(after_help = BREAK)]
    Break(Break),
    /// Let a job that is marked as done run again
    #[command(after_help = FORGET)]
    Forget(Forget),
    /// Show the key of a lock in the store
    Key(Key),
    /// Look for what endangers the locks in a store
    #[command(after_help = DOCTOR)]
    Doctor(Doctor),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Print a manual page
    Man(Man),
}

/// `dlock completions`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: clap_complete::Shell,
}

/// `dlock man`.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Man {
    /// The verb; without it the page of dlock itself
    #[arg(value_name = "VERB", value_parser = value::text())]
    pub verb: Option<String>,
}

const STATUS: &str = "\
    It exits with 0 whether the lock is held or free: the answer is for people, and old when \
    it is printed. A script that must know tries to acquire the lock.";
const LIST: &str = "\
    Redis is asked by SCAN, for which its user needs the right. memcached cannot list its \
    keys. It exits with 0 whether there are locks or not.";
const BREAK: &str = "\
    Only the lease with that token is freed, in one step of the store, and the next waiter \
    gets the lock. The holder learns of it at its next renewal, which is a third of its time \
    to live away; then dlock ends its command. Look first whether the holder works: until it \
    is ended, two commands may run.\n\nExit codes: 0 freed; 75 the lock is not held with \
    that token, and nothing was freed; 69 the store cannot be used.";
const FORGET: &str = "\
    Exit codes: 0 forgotten; 75 the job is not marked as done, or runs just now; 69 the \
    store cannot be used.";
const DOCTOR: &str = "\
    It tries a lock of its own: acquires it, waits for it, hands it over, releases it. Then it asks \
    the store. Redis: version, eviction, memory, persistence, replicas, clock, rights. memcached: \
    version, evictions, -C, memory, clock. A folder: file system, rights, space, who else may \
    write in it. It changes nothing but that lock. For INFO and CONFIG GET a Redis user needs +info and \
    +config|get; what cannot be checked is a warning.\n\nExit codes: 0 nothing was found; 1 \
    warnings; 2 dangers, a store that cannot be used among them; 64 the command line or the \
    configuration is wrong; 71 the answer could not be printed.";

/// The table of all verbs and options.
pub(crate) fn table() -> Command {
    Cli::command()
}

/// Reads the arguments, without the program's own name.
///
/// # Errors
///
/// [`UsageError`] for anything that `dlock --help` does not describe.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let parsed = match run_alone(&arguments) {
        Some(run) => Ok(Verb::Run(Box::new(run))),
        None => by_table(arguments),
    };
    let verb = match parsed {
        Ok(verb) => verb,
        Err(error) => {
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    Ok(Invocation::Text(error.render().to_string()))
                }
                _ => Err(usage::mistake(&error)),
            };
        }
    };
    if let Verb::Run(run) = &verb {
        run.check()?;
    }
    Ok(Invocation::Verb(verb))
}

fn by_table(arguments: Vec<OsString>) -> Result<Verb, clap::Error> {
    let arguments = std::iter::once(OsString::from("dlock")).chain(arguments);
    let matches = table().try_get_matches_from_mut(arguments)?;
    Ok(Cli::from_arg_matches(&matches)?.verb)
}

/// Reads a command line of `run` by the part of the table that `run` needs: to make the rest takes
/// longer than to read the line, and jobs are started often. `None` for all other lines, for those
/// that are wrong and those that ask for help: the whole table has the words for them.
fn run_alone(arguments: &[OsString]) -> Option<Run> {
    let (verb, words) = arguments.split_first()?;
    if verb != "run" {
        return None;
    }
    let part = Command::new("run")
        .no_binary_name(true)
        .args_override_self(true);
    let matches = Run::augment_args(part).try_get_matches_from(words).ok()?;
    Run::from_arg_matches(&matches).ok()
}
