//! The answers of memcached's meta protocol, read off a wire.
//!
//! `memcache::exp` takes their first lines apart. Each function reads one whole answer and says so to the wire; after any other end the
//! wire stays dirty and the connection is not used again.

use std::str;

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::{Transport, Wire};
use memcache::exp::{MetaResponse, ReturnCode};

use crate::error::{Problem, answered};
use crate::record::MAX_RECORD;

/// No line of an answer is longer, not even one of the statistics.
pub(crate) const MAX_LINE: usize = 8192;
/// A value up to this size is read to its end; a larger one costs the connection.
const MAX_VALUE: usize = 64 << 10;

/// The answer to a store with a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Done; the record now has this number.
    Done(u64),
    /// There is no such key.
    NotFound,
    /// The key's number is another one, or, for an add: there is such a key.
    Other,
}

/// The answer to a delete with a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deleted {
    Done,
    NotFound,
    Other,
}

/// What stands at a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Empty if it is too long to be one of ours.
    pub(crate) value: Vec<u8>,
    /// `None`: for ever.
    pub(crate) seconds: Option<u32>,
    pub(crate) cas: u64,
}

/// The answer to a store.
pub(crate) fn stored<S: Transport>(wire: &mut Wire<S>) -> Result<Stored, DatastoreError> {
    let answer = read_line(wire).and_then(|answer| stored_from(wire, &answer));
    ended(wire, answer)
}

/// The answers to `count` stores that went out together, as far as they came.
pub(crate) fn many_stored<S: Transport>(
    wire: &mut Wire<S>,
    count: usize,
) -> Result<Vec<Result<Stored, DatastoreError>>, DatastoreError> {
    let mut answers = Vec::with_capacity(count);
    for _ in 0..count {
        let answer = match read_line(wire) {
            // Nothing was answered: a dead connection, which can be replaced.
            Err(error) if answers.is_empty() && !is_in_step(&error) => return Err(error),
            answer => answer.and_then(|answer| stored_from(wire, &answer)),
        };
        let lost = answer.as_ref().is_err_and(|error| !is_in_step(error));
        answers.push(answer);
        if lost {
            return Ok(answers);
        }
    }
    wire.finish();
    Ok(answers)
}

/// The answer to a delete.
pub(crate) fn deleted<S: Transport>(wire: &mut Wire<S>) -> Result<Deleted, DatastoreError> {
    let answer = read_line(wire).and_then(|answer| match answer.rc() {
        ReturnCode::Hd => Ok(Deleted::Done),
        ReturnCode::Nf => Ok(Deleted::NotFound),
        ReturnCode::Ex => Ok(Deleted::Other),
        other => Err(odd(wire, &format!("{other:?}"))),
    });
    ended(wire, answer)
}

/// The answer of one line to a command, whatever it says.
pub(crate) fn acknowledged<S: Transport>(wire: &mut Wire<S>) -> Result<(), DatastoreError> {
    let answer = read_line(wire).and_then(|answer| match answer.rc() {
        ReturnCode::Va => Err(odd(wire, "a value")),
        _ => Ok(()),
    });
    ended(wire, answer)
}

/// The answer to a get; `None` if the key is not there.
pub(crate) fn item<S: Transport>(wire: &mut Wire<S>) -> Result<Option<Item>, DatastoreError> {
    let line = wire.line(MAX_LINE)?.to_vec();
    let answer = MetaResponse::parse_header(&line);
    let answer = match answer.map_err(|error| answered(wire.peer(), error)) {
        Err(error) => return ended(wire, Err(error)),
        Ok(answer) => answer,
    };
    match answer.rc() {
        ReturnCode::En => return ended(wire, Ok(None)),
        ReturnCode::Va => {}
        other => return Err(odd(wire, &format!("{other:?}"))),
    }
    let Some((length, seconds, cas)) = value_header(&line, &answer) else {
        return Err(odd(wire, &String::from_utf8_lossy(&line)));
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let value = if length <= MAX_VALUE {
        let mut value = wire.exactly(length + 2)?.to_vec();
        if !value.ends_with(b"\r\n") {
            return Err(odd(wire, "a value of another length than announced"));
        }
        value.truncate(length);
        wire.finish();
        value
    } else {
        // It is not ours, so nobody needs it. The connection stays dirty and is replaced, which is cheaper than to read on.
        Vec::new()
    };
    let value = if length <= MAX_RECORD {
        value
    } else {
        Vec::new()
    };
    Ok(Some(Item {
        value,
        seconds,
        cas,
    }))
}

/// The error of an answer that the protocol does not allow, shown as far as that is harmless.
pub(crate) fn odd<S: Transport>(wire: &Wire<S>, answer: &str) -> DatastoreError {
    let problem = Problem::Odd {
        peer: wire.peer().to_owned(),
        answer: answer.chars().take(80).collect(),
    };
    DatastoreError::maybe_executed(ErrorKind::Protocol, problem)
}

fn read_line<S: Transport>(wire: &mut Wire<S>) -> Result<MetaResponse, DatastoreError> {
    let answer = MetaResponse::parse_header(wire.line(MAX_LINE)?);
    answer.map_err(|error| answered(wire.peer(), error))
}

/// The end of an answer: tells the wire, unless the next line may be something else than the next command's answer.
fn ended<T, S: Transport>(
    wire: &mut Wire<S>,
    answer: Result<T, DatastoreError>,
) -> Result<T, DatastoreError> {
    if answer.as_ref().err().is_none_or(is_in_step) {
        wire.finish();
    }
    answer
}

/// Whether the next line will be the next command's answer. So it is after an error that the server answers a store with; after one about the
/// command itself the server may go on to take the value for a command, and after an odd answer nobody knows what comes.
fn is_in_step(error: &DatastoreError) -> bool {
    error.kind() == ErrorKind::Refused
}

fn stored_from<S: Transport>(
    wire: &Wire<S>,
    answer: &MetaResponse,
) -> Result<Stored, DatastoreError> {
    match answer.rc() {
        ReturnCode::Hd => flag(answer, b'c')
            .and_then(number)
            .map(Stored::Done)
            .ok_or_else(|| odd(wire, "HD without a CAS number")),
        ReturnCode::Nf => Ok(Stored::NotFound),
        ReturnCode::Ex | ReturnCode::Ns => Ok(Stored::Other),
        other => Err(odd(wire, &format!("{other:?}"))),
    }
}

/// Length, seconds left (`None`: for ever) and number from the line before a value.
fn value_header(line: &[u8], answer: &MetaResponse) -> Option<(u64, Option<u32>, u64)> {
    // The parsed answer keeps the length to itself.
    let length = line.split(|b| *b == b' ').nth(1).and_then(number)?;
    let seconds = match flag(answer, b't')? {
        b"-1" => None,
        seconds => Some(u32::try_from(number(seconds)?).unwrap_or(u32::MAX)),
    };
    Some((length, seconds, number(flag(answer, b'c')?)?))
}

/// What follows the letter of a flag in an answer.
fn flag(answer: &MetaResponse, letter: u8) -> Option<&[u8]> {
    answer.flags().find_map(|flag| flag.strip_prefix(&[letter]))
}

fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain
        .then(|| str::from_utf8(digits).ok()?.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests;
