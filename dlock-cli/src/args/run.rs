//! `dlock run`: which lock, how, and the command to run under it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{UsageError, value};
use crate::exit_code;
use crate::message::escaped;

/// How long a job counts as done without `--keep`.
pub const DEFAULT_KEEP: Duration = Duration::from_secs(86_400);

/// The arguments of `dlock run`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(
    override_usage = "dlock run [OPTIONS] NAME -- COMMAND [ARGUMENTS…]\n       \
                            dlock run [OPTIONS] NAME -c LINE"
)]
pub struct Run {
    /// The lock: of all commands under one NAME in one store, only one runs at a time
    #[arg(value_name = "NAME", value_parser = value::name())]
    pub name: String,
    /// The program, looked up in PATH as a shell does, and its arguments
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<OsString>,
    /// Run this line by `sh -c`, instead of a program
    #[arg(short = 'c', value_name = "LINE", conflicts_with = "command")]
    #[arg(allow_hyphen_values = true)]
    pub line: Option<OsString>,
    /// Where the lock is kept.
    #[command(flatten)]
    pub store: StoreArgs,
    /// How it is held, and how the command is run.
    #[command(flatten)]
    pub options: RunOptions,
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// The program.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Run {
    /// Checks what options say together.
    pub(super) fn check(&self) -> Result<(), UsageError> {
        if self.command.is_empty() && self.line.is_none() {
            return Err(UsageError(format!(
                "there is no command to run; write: dlock run {} -- COMMAND",
                escaped(&self.name)
            )));
        }
        Ok(())
    }

    /// The program and its arguments; `None` if there is none, which a command line that was parsed
    /// never lacks.
    pub fn work(&self) -> Option<Work> {
        if let Some(line) = &self.line {
            return Some(Work {
                program: "sh".into(),
                arguments: vec!["-c".into(), line.clone()],
            });
        }
        let mut words = self.command.iter().cloned();
        Some(Work {
            program: words.next()?,
            arguments: words.collect(),
        })
    }
}

/// Where the lock is kept, and the file that says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Which store")]
pub struct StoreArgs {
    /// The store and the prefix.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Read defaults from FILE; without it from DLOCK_CONFIG, else
    /// $XDG_CONFIG_HOME/dlock/config.toml (~/.config), else /etc/dlock/config.toml
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Where the lock is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Which store")]
pub struct PlaceArgs {
    /// Where the lock is kept (see below); without it that of DLOCK_STORE, of the file
    /// DLOCK_STORE_FILE or of the configuration is used, or else file:. A URL with a password
    /// belongs in one of these: all users of this host see command lines
    #[arg(long, value_name = "URL", value_parser = value::text(), allow_hyphen_values = true)]
    pub store: Option<String>,
    /// The start of the key in the store: TEXT:NAME (default dlock)
    #[arg(long, value_name = "TEXT", value_parser = value::text(), allow_hyphen_values = true)]
    pub prefix: Option<String>,
}

/// The options of `dlock run` that are about the lock and the command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct RunOptions {
    /// How the lock is waited for and held.
    #[command(flatten)]
    pub lock: LockArgs,
    /// When the lease cannot be renewed, ask the command to end (SIGTERM) this long before the
    /// lease ends, and kill it just before (default: a sixth of --ttl)
    #[arg(long, value_name = "TIME", value_parser = value::time())]
    #[arg(help_heading = "How long the lock is held")]
    pub kill_after: Option<Duration>,
    /// End the command after this time: SIGTERM, after --kill-after SIGKILL; exit with 124
    #[arg(long, value_name = "TIME", value_parser = value::time_above_zero())]
    #[arg(help_heading = "How long the lock is held")]
    pub max_hold: Option<Duration>,
    /// A job that is to run once.
    #[command(flatten)]
    pub once: OnceArgs,
    /// Give the command DLOCK_STORE, which is removed otherwise, since it may contain a password
    #[arg(long, help_heading = "Environment of the command")]
    pub pass_store: bool,
    /// What is said about the run.
    #[command(flatten)]
    pub report: ReportArgs,
    /// The exit codes.
    #[command(flatten)]
    pub codes: CodeArgs,
}

/// What a configuration file says of one lock: any option of `dlock run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct LockSection {
    /// The store and the prefix.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// How the lock is held, and how the command is run.
    #[command(flatten)]
    pub options: RunOptions,
}

/// What is said about a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Messages and metrics")]
pub struct ReportArgs {
    /// Print a line when the lock is acquired, and one at the end: how long it was waited for, how
    /// long the command ran, its exit status, the fencing token
    #[arg(long)]
    pub verbose: bool,
    /// How messages are written
    #[arg(long, value_name = "FORMAT")]
    pub log: Option<LogFormat>,
    /// Keep the figures of the last run in FILE, as text for the textfile collector of Prometheus.
    /// Several locks may share a file
    #[arg(long, value_name = "FILE")]
    pub metrics_file: Option<PathBuf>,
}

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line of text that begins with `dlock: `
    Text,
    /// A JSON object on a line
    Json,
}

/// How a lock is waited for and held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct LockArgs {
    /// Wait while somebody else holds the lock: 0 not at all (default), 30s, 5m, forever. Only a
    /// process that waits can take over when the holder dies
    #[arg(long, value_name = "TIME", value_parser = value::patience())]
    #[arg(help_heading = "When somebody else holds the lock")]
    pub wait: Option<Patience>,
    /// Text shown to processes that are refused, beside this host and process id
    #[arg(long, value_name = "TEXT", value_parser = value::text(), allow_hyphen_values = true)]
    #[arg(help_heading = "When somebody else holds the lock")]
    pub label: Option<String>,
    /// How long the lock stays taken if this host dies (default 30s)
    #[arg(long, value_name = "TIME", value_parser = value::time())]
    #[arg(help_heading = "How long the lock is held")]
    pub ttl: Option<Duration>,
    /// Keep the lock at least this long, even if the command ends earlier: for jobs that are
    /// started on many hosts whose clocks differ a little
    #[arg(long, value_name = "TIME", value_parser = value::time())]
    #[arg(help_heading = "How long the lock is held")]
    pub min_hold: Option<Duration>,
}

impl LockArgs {
    /// How long to wait.
    pub fn patience(&self) -> Patience {
        self.wait.unwrap_or(Patience::AtMost(Duration::ZERO))
    }
}

/// How long to wait for a lock that somebody else holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// For at most this long; zero tries once.
    AtMost(Duration),
    /// As long as it takes.
    Forever,
}

/// A job that is to run once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Once")]
pub struct OnceArgs {
    /// If the command succeeds remember the job ID of NAME as done, and do not run it again
    #[arg(long = "once", value_name = "ID", value_parser = value::text())]
    #[arg(allow_hyphen_values = true)]
    pub job: Option<String>,
    /// For how long it is remembered (default 1d)
    #[arg(long, value_name = "TIME", value_parser = value::time())]
    pub keep: Option<Duration>,
}

/// The exit codes that flags can replace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Exit codes (with 0 dlock also prints no message)")]
pub struct CodeArgs {
    /// For a crontab: exit with 0 and print nothing if somebody else holds the lock, or the job is
    /// done
    #[arg(long)]
    pub cron: bool,
    /// Exit with N instead of 75 if somebody else holds the lock
    #[arg(long, value_name = "N", value_parser = value::code())]
    pub conflict_exit_code: Option<u8>,
    /// Exit with N instead of 75 if the job of --once is done already
    #[arg(long, value_name = "N", value_parser = value::code())]
    pub done_exit_code: Option<u8>,
    /// Exit with N instead of 69 if the store cannot be used
    #[arg(long, value_name = "N", value_parser = value::code())]
    pub unreachable_exit_code: Option<u8>,
    /// Exit with N instead of 70 if the lease was lost; the message is printed even with 0
    #[arg(long, value_name = "N", value_parser = value::code())]
    pub lost_exit_code: Option<u8>,
}

/// The exit codes in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codes {
    /// Somebody else holds the lock.
    pub held: u8,
    /// The job of `--once` is done.
    pub done: u8,
    /// The store cannot be used.
    pub unreachable: u8,
    /// The lease was lost.
    pub lost: u8,
}

impl PlaceArgs {
    /// Where these say nothing, what `other` says.
    #[must_use]
    pub fn or(self, other: PlaceArgs) -> Self {
        let PlaceArgs { store, prefix } = other;
        PlaceArgs {
            store: self.store.or(store),
            prefix: self.prefix.or(prefix),
        }
    }
}

impl LockArgs {
    /// Where these say nothing, what `other` says.
    #[must_use]
    pub fn or(self, other: LockArgs) -> Self {
        let LockArgs {
            wait,
            label,
            ttl,
            min_hold,
        } = other;
        LockArgs {
            wait: self.wait.or(wait),
            label: self.label.or(label),
            ttl: self.ttl.or(ttl),
            min_hold: self.min_hold.or(min_hold),
        }
    }
}

impl OnceArgs {
    fn or(self, other: OnceArgs) -> Self {
        let OnceArgs { job, keep } = other;
        OnceArgs {
            job: self.job.or(job),
            keep: self.keep.or(keep),
        }
    }
}

impl ReportArgs {
    fn or(self, other: ReportArgs) -> Self {
        let ReportArgs {
            verbose,
            log,
            metrics_file,
        } = other;
        ReportArgs {
            verbose: self.verbose || verbose,
            log: self.log.or(log),
            metrics_file: self.metrics_file.or(metrics_file),
        }
    }
}

impl CodeArgs {
    fn or(self, other: CodeArgs) -> Self {
        let CodeArgs {
            cron,
            conflict_exit_code,
            done_exit_code,
            unreachable_exit_code,
            lost_exit_code,
        } = other;
        CodeArgs {
            cron: self.cron || cron,
            conflict_exit_code: self.conflict_exit_code.or(conflict_exit_code),
            done_exit_code: self.done_exit_code.or(done_exit_code),
            unreachable_exit_code: self.unreachable_exit_code.or(unreachable_exit_code),
            lost_exit_code: self.lost_exit_code.or(lost_exit_code),
        }
    }
}

impl RunOptions {
    /// Where these say nothing, what `other` says.
    #[must_use]
    pub fn or(self, other: RunOptions) -> Self {
        let RunOptions {
            lock,
            kill_after,
            max_hold,
            once,
            pass_store,
            report,
            codes,
        } = other;
        RunOptions {
            lock: self.lock.or(lock),
            kill_after: self.kill_after.or(kill_after),
            max_hold: self.max_hold.or(max_hold),
            once: self.once.or(once),
            pass_store: self.pass_store || pass_store,
            report: self.report.or(report),
            codes: self.codes.or(codes),
        }
    }

    /// The exit codes in use.
    pub fn codes(&self) -> Codes {
        let codes = &self.codes;
        let unless_cron = |code| if codes.cron { 0 } else { code };
        Codes {
            held: codes
                .conflict_exit_code
                .unwrap_or(unless_cron(exit_code::HELD)),
            done: codes.done_exit_code.unwrap_or(unless_cron(exit_code::DONE)),
            unreachable: codes
                .unreachable_exit_code
                .unwrap_or(exit_code::UNREACHABLE),
            lost: codes.lost_exit_code.unwrap_or(exit_code::LOST),
        }
    }
}
