//! The verbs of operators.

use clap::Args;

use super::{StoreArgs, value};

/// `dlock status`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Status {
    /// The locks
    #[arg(value_name = "NAME", value_parser = value::name(), required = true)]
    pub names: Vec<String>,
    /// Show also whether this job of the lock is done
    #[arg(long, value_name = "ID", value_parser = value::text(), allow_hyphen_values = true)]
    pub once: Option<String>,
    /// Print JSON: a list with an object for each lock
    #[arg(long)]
    pub json: bool,
    /// Where the locks are kept.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `dlock list`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct List {
    /// Only the locks whose names start with this
    #[arg(value_name = "PREFIX", value_parser = value::text())]
    pub start: Option<String>,
    /// Print JSON: a list with an object for each lock
    #[arg(long)]
    pub json: bool,
    /// Where the locks are kept.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `dlock break`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Break {
    /// The lock
    #[arg(value_name = "NAME", value_parser = value::name())]
    pub name: String,
    /// The fencing token of the holder, which `dlock status NAME` shows
    #[arg(long, value_name = "N", value_parser = value::token())]
    pub token: u64,
    /// Where the lock is kept.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `dlock forget`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Forget {
    /// The lock
    #[arg(value_name = "NAME", value_parser = value::name())]
    pub name: String,
    /// The job, as it was given to `dlock run --once`
    #[arg(long = "once", value_name = "ID", value_parser = value::text())]
    #[arg(allow_hyphen_values = true)]
    pub job: String,
    /// Where the lock is kept.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `dlock key`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Key {
    /// The lock
    #[arg(value_name = "NAME", value_parser = value::name())]
    pub name: String,
    /// Where the lock is kept.
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `dlock doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Doctor {
    /// Print JSON: an object with a list of what was found
    #[arg(long)]
    pub json: bool,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
}
