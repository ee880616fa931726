//! What the answers of memcached's meta protocol mean. No I/O: each function is given what has
//! arrived, and the server's name for its errors.

use std::str;

use dlock_core::{DatastoreError, ErrorKind};
use memcache::exp::{MetaResponse, ReturnCode};

use crate::error::{Problem, answered};
use crate::operations::commands::{Deleted, Item, Stored};
use crate::operations::record::MAX_RECORD;

/// The first line of an answer, unless it is an error.
pub(crate) fn parsed(peer: &str, line: &[u8]) -> Result<MetaResponse, DatastoreError> {
    MetaResponse::parse_header(line).map_err(|error| answered(peer, error))
}

/// The answer to a store.
pub(crate) fn stored(peer: &str, answer: &MetaResponse) -> Result<Stored, DatastoreError> {
    match answer.rc() {
        ReturnCode::Hd => flag(answer, b'c')
            .and_then(number)
            .map(Stored::Done)
            .ok_or_else(|| unexpected(peer, "HD without a CAS number")),
        ReturnCode::Nf => Ok(Stored::NotFound),
        ReturnCode::Ex | ReturnCode::Ns => Ok(Stored::Other),
        other => Err(unexpected(peer, &format!("{other:?}"))),
    }
}

/// The answer to a delete.
pub(crate) fn deleted(peer: &str, answer: &MetaResponse) -> Result<Deleted, DatastoreError> {
    match answer.rc() {
        ReturnCode::Hd => Ok(Deleted::Done),
        ReturnCode::Nf => Ok(Deleted::NotFound),
        ReturnCode::Ex => Ok(Deleted::Other),
        other => Err(unexpected(peer, &format!("{other:?}"))),
    }
}

/// The answer of one line to a command, whatever it says.
pub(crate) fn acknowledged(peer: &str, answer: &MetaResponse) -> Result<(), DatastoreError> {
    match answer.rc() {
        ReturnCode::Va => Err(unexpected(peer, "a value")),
        _ => Ok(()),
    }
}

/// The line before a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) length: usize,
    /// The remaining seconds; `None`: for ever.
    pub(crate) seconds: Option<u32>,
    pub(crate) cas: u64,
}

/// The first line of the answer to a get; `None` if the key is not there.
pub(crate) fn header(peer: &str, line: &[u8]) -> Result<Option<Header>, DatastoreError> {
    let answer = parsed(peer, line)?;
    match answer.rc() {
        ReturnCode::En => Ok(None),
        ReturnCode::Va => value_header(line, &answer)
            .map(Some)
            .ok_or_else(|| unexpected(peer, &String::from_utf8_lossy(line))),
        other => Err(unexpected(peer, &format!("{other:?}"))),
    }
}

impl Header {
    /// The item whose value was not read.
    pub(crate) fn without_value(self) -> Item {
        Item {
            value: Vec::new(),
            seconds: self.seconds,
            cas: self.cas,
        }
    }

    /// The item with this value, which the end of a line follows; `None` if it does not.
    pub(crate) fn with_value(self, value: &[u8]) -> Option<Item> {
        let value = value.strip_suffix(b"\r\n")?;
        let mut item = self.without_value();
        if value.len() <= MAX_RECORD {
            item.value.extend_from_slice(value);
        }
        Some(item)
    }
}

/// What a value without the end of a line after it is.
pub(crate) const OTHER_LENGTH: &str = "a value of another length than announced";

fn value_header(line: &[u8], answer: &MetaResponse) -> Option<Header> {
    let seconds = match flag(answer, b't')? {
        b"-1" => None,
        seconds => Some(u32::try_from(number(seconds)?).unwrap_or(u32::MAX)),
    };
    Some(Header {
        length: value_length(line)?,
        seconds,
        cas: number(flag(answer, b'c')?)?,
    })
}

/// The length of the value that follows a line. The parsed line does not expose it.
pub(super) fn value_length(line: &[u8]) -> Option<usize> {
    let length = line.split(|b| *b == b' ').nth(1).and_then(number)?;
    Some(usize::try_from(length).unwrap_or(usize::MAX))
}

/// The error of an unexpected answer, which it shows escaped and shortened.
pub(crate) fn unexpected(peer: &str, answer: &str) -> DatastoreError {
    let problem = Problem::Unexpected {
        peer: peer.to_owned(),
        answer: answer.chars().take(80).collect(),
    };
    DatastoreError::maybe_executed(ErrorKind::Protocol, problem)
}

/// Returns whether the next line will be the next command's answer. It will after an error in
/// answer to a store. After an error about the command itself the server may interpret the value as
/// a command, and after an unexpected answer anything may follow.
pub(crate) fn is_in_step(error: &DatastoreError) -> bool {
    error.kind() == ErrorKind::Refused
}

/// The value of a flag in an answer.
fn flag(answer: &MetaResponse, letter: u8) -> Option<&[u8]> {
    answer.flags().find_map(|flag| flag.strip_prefix(&[letter]))
}

pub(super) fn number(digits: &[u8]) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain
        .then(|| str::from_utf8(digits).ok()?.parse().ok())
        .flatten()
}
