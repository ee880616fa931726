//! The command line.

use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use dlock_core::duration;
use lexopt::Arg::{Long, Short, Value};

use crate::exit_code;
use crate::message::escaped;

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// `dlock --help`.
    Help,
    /// `dlock run --help`.
    RunHelp,
    /// `dlock --version`.
    Version,
    /// `dlock run …`.
    Run(Box<Run>),
}

/// `dlock run`: which lock, how, and the command to run under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The id of the lock.
    pub name: String,
    /// The program, looked up in `PATH` as a shell does.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// `--store`. Without it `DLOCK_STORE` is used, and without that the file store.
    pub store: Option<String>,
    /// `--prefix`: the start of the key, before the name.
    pub prefix: Option<String>,
    /// `--label`: text shown to processes that are refused.
    pub label: Option<String>,
    /// `--ttl`: how long the lock stays taken if its holder crashes.
    pub ttl: Option<Duration>,
    /// `--wait`.
    pub wait: Patience,
    /// `--min-hold`.
    pub min_hold: Option<Duration>,
    /// `--once` with its `--keep`.
    pub once: Option<Once>,
    /// `--kill-after`: how long before the end of the lease the command is asked to end.
    pub kill_after: Option<Duration>,
    /// `--pass-store`: whether the command inherits `DLOCK_STORE`.
    pub pass_store: bool,
    /// The exit codes.
    pub codes: Codes,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// The job's id, for example `2026-11-24T19`.
    pub job: String,
    /// How long the job counts as done.
    pub keep: Duration,
}

/// The exit codes that flags can replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codes {
    /// `--conflict-exit-code`.
    pub held: u8,
    /// `--done-exit-code`.
    pub done: u8,
    /// `--unreachable-exit-code`.
    pub unreachable: u8,
    /// `--lost-exit-code`.
    pub lost: u8,
}

impl Default for Codes {
    fn default() -> Self {
        Codes {
            held: exit_code::HELD,
            done: exit_code::DONE,
            unreachable: exit_code::UNREACHABLE,
            lost: exit_code::LOST,
        }
    }
}

/// How long a job counts as done without `--keep`.
pub const DEFAULT_KEEP: Duration = Duration::from_secs(86_400);

/// A command line that is wrong. Its text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Reads the arguments, without the program's own name.
///
/// # Errors
///
/// [`UsageError`] for anything that `dlock --help` does not describe.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let help = "see `dlock --help`";
    match parser.next().map_err(|error| usage(&error, help))? {
        None => Err(UsageError(
            "there is no subcommand; write for example: dlock run NAME -- COMMAND; see `dlock --help`"
                .to_owned(),
        )),
        Some(Short('h') | Long("help")) => Ok(Invocation::Help),
        Some(Short('V') | Long("version")) => Ok(Invocation::Version),
        Some(Value(word)) if word == "run" => parse_run(parser),
        Some(Value(word)) if word == "help" => Ok(match parser.next() {
            Ok(Some(Value(word))) if word == "run" => Invocation::RunHelp,
            _ => Invocation::Help,
        }),
        Some(Value(word)) => Err(UsageError(format!(
            "there is no subcommand `{}`; did you mean `dlock run NAME -- COMMAND`? {help}",
            escaped(&word.to_string_lossy())
        ))),
        Some(other) => Err(usage(&other.unexpected(), help)),
    }
}

fn parse_run(mut parser: lexopt::Parser) -> Result<Invocation, UsageError> {
    let mut name = None;
    let mut command = Vec::new();
    let mut job = None;
    let mut keep = None;
    let mut run = Run {
        name: String::new(),
        program: OsString::new(),
        arguments: Vec::new(),
        store: None,
        prefix: None,
        label: None,
        ttl: None,
        wait: Patience::AtMost(Duration::ZERO),
        min_hold: None,
        once: None,
        kill_after: None,
        pass_store: false,
        codes: Codes::default(),
    };
    let help = "see `dlock run --help`";
    loop {
        if let Some(mut rest) = parser.try_raw_args()
            && rest.peek().is_some_and(|next| next == "--")
        {
            rest.next();
            command.extend(rest);
            break;
        }
        let Some(argument) = parser.next().map_err(|error| usage(&error, help))? else {
            break;
        };
        match argument {
            Short('h') | Long("help") => return Ok(Invocation::RunHelp),
            Long("store") => run.store = Some(text(&mut parser, "--store")?),
            Long("prefix") => run.prefix = Some(text(&mut parser, "--prefix")?),
            Long("label") => run.label = Some(text(&mut parser, "--label")?),
            Long("ttl") => run.ttl = Some(time(&mut parser, "--ttl")?),
            Long("min-hold") => run.min_hold = Some(time(&mut parser, "--min-hold")?),
            Long("kill-after") => run.kill_after = Some(time(&mut parser, "--kill-after")?),
            Long("once") => job = Some(text(&mut parser, "--once")?),
            Long("keep") => keep = Some(time(&mut parser, "--keep")?),
            Long("pass-store") => run.pass_store = true,
            Long("wait") => run.wait = patience(&mut parser)?,
            Long("conflict-exit-code") => {
                run.codes.held = code(&mut parser, "--conflict-exit-code")?;
            }
            Long("done-exit-code") => run.codes.done = code(&mut parser, "--done-exit-code")?,
            Long("unreachable-exit-code") => {
                run.codes.unreachable = code(&mut parser, "--unreachable-exit-code")?;
            }
            Long("lost-exit-code") => run.codes.lost = code(&mut parser, "--lost-exit-code")?,
            Value(word) if name.is_none() => name = Some(utf8(word, "the lock's name")?),
            Value(word) => {
                return Err(UsageError(format!(
                    "found `{}` where `--` was expected; write: dlock run NAME -- COMMAND",
                    escaped(&word.to_string_lossy())
                )));
            }
            other => return Err(usage(&other.unexpected(), help)),
        }
    }
    run.name = name.filter(|name| !name.is_empty()).ok_or_else(|| {
        UsageError("the lock has no name; write: dlock run NAME -- COMMAND".to_owned())
    })?;
    let mut command = command.into_iter();
    run.program = command.next().ok_or_else(|| {
        UsageError(format!(
            "there is no command to run; write: dlock run {} -- COMMAND",
            escaped(&run.name)
        ))
    })?;
    run.arguments = command.collect();
    run.once = match (job, keep) {
        (Some(job), keep) => Some(Once {
            job,
            keep: keep.unwrap_or(DEFAULT_KEEP),
        }),
        (None, Some(_)) => {
            return Err(UsageError(
                "--keep has no effect without --once; give --once ID too".to_owned(),
            ));
        }
        (None, None) => None,
    };
    Ok(Invocation::Run(Box::new(run)))
}

fn usage(error: &lexopt::Error, help: &str) -> UsageError {
    UsageError(format!("{}; {help}", escaped(&error.to_string())))
}

fn value(parser: &mut lexopt::Parser, flag: &str) -> Result<OsString, UsageError> {
    parser
        .value()
        .map_err(|_| UsageError(format!("{flag} needs a value; see `dlock run --help`")))
}

fn text(parser: &mut lexopt::Parser, flag: &str) -> Result<String, UsageError> {
    utf8(value(parser, flag)?, flag)
}

fn utf8(word: OsString, what: &str) -> Result<String, UsageError> {
    word.into_string().map_err(|word| {
        UsageError(format!(
            "{what} must be UTF-8 text, not {}",
            escaped(&word.to_string_lossy())
        ))
    })
}

fn time(parser: &mut lexopt::Parser, flag: &str) -> Result<Duration, UsageError> {
    let text = text(parser, flag)?;
    duration_of(&text).map_err(|error| UsageError(format!("{flag}: {error}")))
}

/// A zero needs no unit.
fn duration_of(text: &str) -> Result<Duration, duration::ParseDurationError> {
    match text {
        "0" => Ok(Duration::ZERO),
        text => duration::parse(text),
    }
}

fn patience(parser: &mut lexopt::Parser) -> Result<Patience, UsageError> {
    let text = text(parser, "--wait")?;
    if text == "forever" {
        return Ok(Patience::Forever);
    }
    duration_of(&text)
        .map(Patience::AtMost)
        .map_err(|error| UsageError(format!("--wait: {error}, or `forever`")))
}

fn code(parser: &mut lexopt::Parser, flag: &str) -> Result<u8, UsageError> {
    let text = text(parser, flag)?;
    text.parse().map_err(|_| {
        UsageError(format!(
            "{flag}: `{}` is not an exit code; write a number from 0 to 255",
            escaped(&text)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn run(line: &str) -> Run {
        match parsed(line) {
            Ok(Invocation::Run(run)) => *run,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_flag_is_read_before_and_after_the_name() {
        let flags = "--store file: --prefix p --label l --ttl 1m --wait forever --min-hold 5m --once J \
                     --keep 2h --kill-after 3s --pass-store --conflict-exit-code 0 --done-exit-code 1 \
                     --unreachable-exit-code 2 --lost-exit-code=3";
        let before = run(&format!("run {flags} n -- cmd --ttl x -- y"));
        let after = run(&format!("run n {flags} -- cmd --ttl x -- y"));
        assert_eq!(before, after);
        let minutes = |n: u64| Some(Duration::from_secs(60 * n));
        assert_eq!(
            before,
            Run {
                name: "n".into(),
                program: "cmd".into(),
                arguments: ["--ttl", "x", "--", "y"].map(OsString::from).to_vec(),
                store: Some("file:".into()),
                prefix: Some("p".into()),
                label: Some("l".into()),
                ttl: minutes(1),
                wait: Patience::Forever,
                min_hold: minutes(5),
                once: Some(Once {
                    job: "J".into(),
                    keep: Duration::from_secs(7200)
                }),
                kill_after: Some(Duration::from_secs(3)),
                pass_store: true,
                codes: Codes {
                    held: 0,
                    done: 1,
                    unreachable: 2,
                    lost: 3
                },
            }
        );
    }

    #[test]
    fn without_flags_it_tries_once_and_a_job_counts_as_done_for_a_day() {
        let default = run("run n -- true");
        assert_eq!(default.wait, Patience::AtMost(Duration::ZERO));
        assert_eq!(default.codes, Codes::default());
        assert_eq!(run("run --wait 0 n -- true").wait, default.wait);
        assert_eq!(
            run("run --once j n -- true").once.map(|once| once.keep),
            Some(DEFAULT_KEEP)
        );
    }

    #[test]
    fn help_and_version_need_nothing_else() {
        for (line, request) in [
            ("--help", Invocation::Help),
            ("-h", Invocation::Help),
            ("help", Invocation::Help),
            ("help run", Invocation::RunHelp),
            ("run --help", Invocation::RunHelp),
            ("run n -h", Invocation::RunHelp),
            ("--version", Invocation::Version),
            ("-V", Invocation::Version),
        ] {
            assert_eq!(parsed(line), Ok(request), "{line}");
        }
    }

    #[test]
    fn each_error_names_the_mistake_and_what_to_write() {
        for (line, expected) in [
            ("", "dlock run NAME -- COMMAND"),
            ("lock n", "there is no subcommand `lock`"),
            ("--frob", "--frob"),
            ("run", "the lock has no name"),
            ("run -- true", "the lock has no name"),
            ("run n", "no command to run; write: dlock run n -- COMMAND"),
            ("run n --", "no command to run"),
            ("run n true", "found `true` where `--` was expected"),
            ("run --frob n -- true", "--frob"),
            ("run --ttl", "--ttl needs a value"),
            ("run --ttl 30 n -- true", "--ttl: `30` is not a duration"),
            ("run --wait 30 n -- true", "or `forever`"),
            ("run --keep 1d n -- true", "give --once ID too"),
            ("run --lost-exit-code 256 n -- true", "number from 0 to 255"),
            ("run --pass-store=1 n -- true", "--pass-store"),
        ] {
            let error = parsed(line).unwrap_err().to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
