//! Bytes of memcached's meta protocol: how a request is written and an answer is read.
//!
//! `memcache::exp` parses the first lines of answers. Each function that reads one reads it whole
//! and then marks the wire as clean. In any other case the wire stays dirty, and the connection is
//! not used again.

pub(crate) mod answers;
#[cfg(any(test, fuzzing, feature = "tokio"))]
mod frame;
#[cfg(any(test, fuzzing, feature = "tokio"))]
pub(crate) mod shared;

use dlock_core::DatastoreError;
use dlock_net::{Transport, Wire};
use memcache::exp::MetaResponse;

use crate::error::answered;
use crate::operations::commands::{Deleted, Item, Key, Replacement, Stored};
use answers::{OTHER_LENGTH, header, is_in_step, unexpected};

/// The longest line of an answer, including statistics.
pub(crate) const MAX_LINE: usize = 8192;
/// A value up to this size is read to its end. For a larger one the connection is replaced.
const MAX_VALUE: usize = 64 << 10;

/// Appends the request that replaces a record.
pub(crate) fn push_replace(requests: &mut Vec<u8>, replacement: &Replacement<'_>) {
    let Replacement {
        key,
        cas,
        seconds,
        value,
    } = replacement;
    push_set(requests, *key, Some(*cas), *seconds, value);
}

/// Appends the request that stores a record where there is none.
pub(crate) fn push_add(requests: &mut Vec<u8>, key: Key<'_>, seconds: u32, value: &str) {
    push_set(requests, key, None, seconds, value);
}

/// In place of the record with the number `cas`, or where there is none.
fn push_set(requests: &mut Vec<u8>, key: Key<'_>, cas: Option<u64>, seconds: u32, value: &str) {
    let [mut length, mut number, mut time] = [itoa::Buffer::new(); 3];
    let (length, time) = (length.format(value.len()), time.format(seconds));
    push(requests, &["ms ", key.as_str(), " ", length]);
    match cas {
        Some(cas) => push(requests, &[" C", number.format(cas)]),
        None => push(requests, &[" ME"]),
    }
    push(requests, &[" T", time, " c\r\n", value, "\r\n"]);
}

/// Appends the request that deletes the record with the number `cas`.
pub(crate) fn push_delete(requests: &mut Vec<u8>, key: Key<'_>, cas: u64) {
    let mut number = itoa::Buffer::new();
    push(
        requests,
        &["md ", key.as_str(), " C", number.format(cas), "\r\n"],
    );
}

/// Appends the request that deletes whatever is at the key.
pub(crate) fn push_delete_unconditionally(requests: &mut Vec<u8>, key: Key<'_>) {
    push(requests, &["md ", key.as_str(), "\r\n"]);
}

/// Appends the request that reads the key.
pub(crate) fn push_get(requests: &mut Vec<u8>, key: Key<'_>) {
    push(requests, &["mg ", key.as_str(), " v t c\r\n"]);
}

/// Appends a request, in parts.
fn push(request: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        request.extend_from_slice(part.as_bytes());
    }
}

/// The answer to a store.
pub(crate) fn stored<S: Transport>(wire: &mut Wire<S>) -> Result<Stored, DatastoreError> {
    let answer = read_line(wire).and_then(|answer| answers::stored(wire.peer(), &answer));
    ended(wire, answer)
}

/// The answers to `count` stores that were sent together, as far as they arrived.
pub(crate) fn many_stored<S: Transport>(
    wire: &mut Wire<S>,
    count: usize,
) -> Result<Vec<Result<Stored, DatastoreError>>, DatastoreError> {
    let mut answers = Vec::with_capacity(count);
    for _ in 0..count {
        let answer = match read_line(wire) {
            // There was no answer at all: a dead connection, which can be replaced.
            Err(error) if answers.is_empty() && !is_in_step(&error) => return Err(error),
            answer => answer.and_then(|answer| answers::stored(wire.peer(), &answer)),
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
    let answer = read_line(wire).and_then(|answer| answers::deleted(wire.peer(), &answer));
    ended(wire, answer)
}

/// The answer of one line to a command, whatever it says.
pub(crate) fn acknowledged<S: Transport>(wire: &mut Wire<S>) -> Result<(), DatastoreError> {
    let answer = read_line(wire).and_then(|answer| answers::acknowledged(wire.peer(), &answer));
    ended(wire, answer)
}

/// The answer to a get; `None` if the key is not there.
pub(crate) fn item<S: Transport>(wire: &mut Wire<S>) -> Result<Option<Item>, DatastoreError> {
    let answer = read_item(wire);
    if leaves_in_step(&answer) {
        wire.finish();
    }
    answer.map(|(item, _)| item)
}

/// The answers to `count` gets that were sent together, as far as they arrived.
pub(crate) fn many_items<S: Transport>(
    wire: &mut Wire<S>,
    count: usize,
) -> Result<Vec<Result<Option<Item>, DatastoreError>>, DatastoreError> {
    let mut answers = Vec::with_capacity(count);
    for _ in 0..count {
        let answer = read_item(wire);
        let lost = !leaves_in_step(&answer);
        match answer {
            // There was no answer at all: a dead connection, which can be replaced.
            Err(error) if answers.is_empty() && lost => return Err(error),
            answer => answers.push(answer.map(|(item, _)| item)),
        }
        if lost {
            return Ok(answers);
        }
    }
    wire.finish();
    Ok(answers)
}

/// Returns whether the next line will be the next command's answer.
fn leaves_in_step<T>(answer: &Result<(T, IsWhole), DatastoreError>) -> bool {
    match answer {
        Ok((_, whole)) => *whole,
        Err(error) => is_in_step(error),
    }
}

/// Whether an answer was read to its end.
type IsWhole = bool;

fn read_item<S: Transport>(wire: &mut Wire<S>) -> Result<(Option<Item>, IsWhole), DatastoreError> {
    let line = wire.line(MAX_LINE)?.to_vec();
    let Some(header) = header(wire.peer(), &line)? else {
        return Ok((None, true));
    };
    // dlock did not write a longer value, so it is not needed. Replacing the connection is cheaper
    // than reading it.
    if header.length > MAX_VALUE {
        return Ok((Some(header.without_value()), false));
    }
    let item = header.with_value(wire.exactly(header.length + 2)?);
    let item = item.ok_or_else(|| unexpected(wire.peer(), OTHER_LENGTH))?;
    Ok((Some(item), true))
}

fn read_line<S: Transport>(wire: &mut Wire<S>) -> Result<MetaResponse, DatastoreError> {
    let answer = MetaResponse::parse_header(wire.line(MAX_LINE)?);
    answer.map_err(|error| answered(wire.peer(), error))
}

/// Ends an answer: marks the wire as clean, unless the next line may be something other than the
/// next command's answer.
fn ended<T, S: Transport>(
    wire: &mut Wire<S>,
    answer: Result<T, DatastoreError>,
) -> Result<T, DatastoreError> {
    if answer.as_ref().err().is_none_or(is_in_step) {
        wire.finish();
    }
    answer
}

#[cfg(test)]
mod tests;
