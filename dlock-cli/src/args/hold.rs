//! `dlock hold`: a lock without a command.

use clap::Args;

use super::{Codes, LockArgs, LogFormat, StoreArgs, value};
use crate::exit_code;

/// The arguments of `dlock hold`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Hold {
    /// The lock
    #[arg(value_name = "NAME", value_parser = value::name())]
    pub name: String,
    /// Send SIGTERM to the parent, the script, when the lease is about to be lost
    #[arg(long)]
    pub signal_parent: bool,
    /// How messages are written
    #[arg(long, value_name = "FORMAT")]
    pub log: Option<LogFormat>,
    /// Where the lock is kept.
    #[command(flatten)]
    pub store: StoreArgs,
    /// How the lock is waited for and held.
    #[command(flatten)]
    pub lock: LockArgs,
}

impl Hold {
    /// The exit codes, which no option replaces.
    pub fn codes(&self) -> Codes {
        Codes {
            held: exit_code::HELD,
            done: exit_code::DONE,
            unreachable: exit_code::UNREACHABLE,
            lost: exit_code::LOST,
        }
    }
}
