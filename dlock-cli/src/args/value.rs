//! The values of options.

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use dlock_core::duration;

use super::Patience;
use crate::message::escaped;

/// A text, which must be UTF-8.
pub(super) fn text() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().try_map(utf8)
}

/// The name of a lock.
pub(super) fn name() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().try_map(|word| match utf8(word)? {
        name if name.is_empty() => Err("the lock has no name".to_owned()),
        name => Ok(name),
    })
}

/// A duration with a unit. A zero needs none.
pub(super) fn time() -> impl TypedValueParser<Value = Duration> {
    OsStringValueParser::new()
        .try_map(|word| duration_of(&utf8(word)?).map_err(|error| error.to_string()))
}

/// A duration in which something can happen.
pub(super) fn time_above_zero() -> impl TypedValueParser<Value = Duration> {
    OsStringValueParser::new().try_map(|word| {
        match duration_of(&utf8(word)?).map_err(|error| error.to_string())? {
            Duration::ZERO => Err("must be more than 0".to_owned()),
            time => Ok(time),
        }
    })
}

/// How long to wait.
pub(super) fn patience() -> impl TypedValueParser<Value = Patience> {
    OsStringValueParser::new().try_map(|word| {
        let text = utf8(word)?;
        if text == "forever" {
            return Ok(Patience::Forever);
        }
        duration_of(&text)
            .map(Patience::AtMost)
            .map_err(|error| format!("{error}, or `forever`"))
    })
}

/// An exit code.
pub(super) fn code() -> impl TypedValueParser<Value = u8> {
    OsStringValueParser::new().try_map(|word| {
        let text = utf8(word)?;
        text.parse().map_err(|_| {
            format!(
                "`{}` is not an exit code; write a number from 0 to 255",
                escaped(&text)
            )
        })
    })
}

/// A fencing token.
pub(super) fn token() -> impl TypedValueParser<Value = u64> {
    OsStringValueParser::new().try_map(|word| {
        let text = utf8(word)?;
        text.parse().map_err(|_| {
            format!(
                "`{}` is not a token; write the number that `dlock status` shows",
                escaped(&text)
            )
        })
    })
}

fn utf8(word: OsString) -> Result<String, String> {
    word.into_string().map_err(|word| {
        format!(
            "must be UTF-8 text, not {}",
            escaped(&word.to_string_lossy())
        )
    })
}

fn duration_of(text: &str) -> Result<Duration, duration::ParseDurationError> {
    match text {
        "0" => Ok(Duration::ZERO),
        text => duration::parse(text),
    }
}
