//! What is wrong with a command line, on one line that says what to write instead.

use std::error::Error as _;
use std::fmt;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::message::escaped;

/// A command line that is wrong. Its text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError(pub(super) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// The parser's complaint in our words.
pub(super) fn mistake(error: &clap::Error) -> UsageError {
    let context = |kind| error.get(kind).map(shown);
    let argument = context(ContextKind::InvalidArg).unwrap_or_default();
    let flag = argument.split(' ').next().unwrap_or_default();
    let help = help_for(error);
    UsageError(match error.kind() {
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "there is no subcommand; write for example: dlock run NAME -- COMMAND; see `dlock --help`"
                .to_owned()
        }
        ErrorKind::InvalidSubcommand => {
            let word = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            let meant = context(ContextKind::SuggestedSubcommand)
                .unwrap_or_else(|| "run NAME -- COMMAND".to_owned());
            format!("there is no subcommand `{word}`; did you mean `dlock {meant}`? {help}")
        }
        ErrorKind::MissingRequiredArgument if argument.contains("NAME") => {
            format!("the lock has no name; {}", usage_of(error))
        }
        ErrorKind::MissingRequiredArgument => format!("{argument} is missing; {help}"),
        ErrorKind::ValueValidation if flag == "<NAME>" => {
            match error.source().map(ToString::to_string) {
                Some(problem) if problem.starts_with("must") => {
                    format!("the lock's name {problem}")
                }
                _ => format!("the lock has no name; {}", usage_of(error)),
            }
        }
        ErrorKind::ValueValidation => {
            let problem = error.source().map(ToString::to_string);
            format!("{flag}: {}", problem.unwrap_or_default())
        }
        ErrorKind::InvalidValue
            if context(ContextKind::InvalidValue).is_none_or(|value| value.is_empty()) =>
        {
            format!("{flag} needs a value; {help}")
        }
        ErrorKind::InvalidValue => {
            let value = context(ContextKind::InvalidValue).unwrap_or_default();
            let valid = context(ContextKind::ValidValue).unwrap_or_default();
            format!("`{value}` is not a {flag}; write one of {valid}")
        }
        ErrorKind::UnknownArgument if !argument.starts_with('-') && is_about_run(error) => format!(
            "found `{argument}` where `--` was expected; write: dlock run NAME -- COMMAND"
        ),
        ErrorKind::UnknownArgument => match context(ContextKind::SuggestedArg) {
            Some(meant) => {
                format!("there is no option `{argument}`; did you mean `{meant}`? {help}")
            }
            None => format!("there is no option `{argument}`; {help}"),
        },
        ErrorKind::TooManyValues => format!("{flag} takes no value; {help}"),
        ErrorKind::ArgumentConflict => match context(ContextKind::PriorArg) {
            Some(prior) if !prior.contains(flag) => {
                format!("{flag} and {prior} exclude each other; {help}")
            }
            _ => format!("{flag} is given twice; {help}"),
        },
        _ => {
            let text = error.render().to_string();
            let line = text.lines().next().unwrap_or_default();
            format!("{}; {help}", escaped(line.trim_start_matches("error: ")))
        }
    })
}

fn shown(value: &ContextValue) -> String {
    match value {
        ContextValue::String(text) => escaped(text),
        ContextValue::Strings(texts) => escaped(&texts.join(", ")),
        other => escaped(&other.to_string()),
    }
}

/// The line of usage that the parser attached, without the many spaces of a synopsis.
fn usage_of(error: &clap::Error) -> String {
    if is_about_run(error) {
        return "write: dlock run NAME -- COMMAND".to_owned();
    }
    help_for(error)
}

fn verb_of(error: &clap::Error) -> Option<String> {
    let text = error.render().to_string();
    let usage = text.split("Usage: dlock ").nth(1)?;
    let verb = usage.split_whitespace().next()?;
    verb.chars()
        .all(|letter| letter.is_ascii_lowercase())
        .then(|| verb.to_owned())
}

fn is_about_run(error: &clap::Error) -> bool {
    verb_of(error).as_deref() == Some("run")
}

fn help_for(error: &clap::Error) -> String {
    match verb_of(error) {
        Some(verb) => format!("see `dlock {verb} --help`"),
        None => "see `dlock --help`".to_owned(),
    }
}
