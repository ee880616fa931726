//! The few commands of memcached's meta protocol that locks need.
//!
//! Answers are taken apart by `memcache::exp`, requests are text; the bytes go over the socket that keeps the call's deadline. Whoever sends a key
//! has had it [checked](check_key).

use std::io::Write as _;
use std::time::Duration;
use std::{fmt, str};

use dlock_core::{DatastoreError, ErrorKind, Time};
use dlock_net::{Link, Socket, Transport, Wire, nothing_was_done};
use memcache::exp::{MAX_KEY_LENGTH, MetaResponse, ReturnCode};

use crate::error::{Problem, answered};
use crate::greeting::read_stats;
use crate::life::Life;
use crate::record::MAX_RECORD;

/// No line of an answer is longer, not even one of the statistics.
pub(crate) const MAX_LINE: usize = 8192;
/// A value up to this size is read to its end; a larger one costs the connection.
const MAX_VALUE: usize = 64 << 10;

/// One connection to a memcached server, which knows which life of the server it leads to.
#[derive(Debug)]
pub struct Connection {
    wire: Wire<Socket>,
    /// Its memory is kept from call to call.
    request: Vec<u8>,
    life: Life,
    /// Whether that life is old enough to grant.
    grown_up: bool,
}

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
#[derive(Debug)]
pub(crate) struct Item {
    /// Empty if it is too long to be one of ours.
    pub(crate) value: Vec<u8>,
    /// `None`: for ever.
    pub(crate) seconds: Option<u32>,
    pub(crate) cas: u64,
}

impl Link for Connection {
    fn set_deadline(&mut self, deadline: Time) {
        self.wire.set_deadline(deadline);
    }

    fn is_usable(&mut self) -> bool {
        self.wire.is_usable()
    }
}

impl Connection {
    /// Finds out which life of the server is at the other end of `wire`, and whether it can keep locks.
    pub(crate) fn handshake(mut wire: Wire<Socket>) -> Result<Self, DatastoreError> {
        let stats = read_stats(&mut wire)?;
        let (life, grown_up) = stats.life(wire.peer())?;
        stats.check(wire.peer())?;
        Ok(Connection {
            wire,
            request: Vec::new(),
            life,
            grown_up,
        })
    }

    /// The life of the server that this connection leads to.
    pub(crate) fn life(&self) -> Life {
        self.life
    }

    /// Whether the life is old enough to grant; asks the server again if it was not.
    pub(crate) fn is_grown_up(&mut self) -> Result<bool, DatastoreError> {
        if !self.grown_up {
            (self.life, self.grown_up) = read_stats(&mut self.wire)?.life(self.wire.peer())?;
        }
        Ok(self.grown_up)
    }

    /// What is left of the call.
    pub(crate) fn time_left(&mut self) -> Duration {
        let deadline = self.wire.transport().deadline();
        deadline.left().unwrap_or(Duration::ZERO)
    }

    /// The server, as errors name it.
    pub(crate) fn peer(&self) -> &str {
        self.wire.peer()
    }

    /// Stores `value` unless the key is there.
    pub(crate) fn add(
        &mut self,
        key: &str,
        seconds: u32,
        value: &str,
    ) -> Result<Stored, DatastoreError> {
        self.request.clear();
        push_set(&mut self.request, key, format_args!("ME"), seconds, value);
        self.wire.send(&self.request)?;
        self.stored()
    }

    /// Stores `value` if the key's number is `cas`.
    pub(crate) fn replace(
        &mut self,
        key: &str,
        cas: u64,
        seconds: u32,
        value: &str,
    ) -> Result<Stored, DatastoreError> {
        self.request.clear();
        push_replace(&mut self.request, key, cas, seconds, value);
        self.wire.send(&self.request)?;
        self.stored()
    }

    /// Sends the `count` requests that [`push_replace`] made. The answers come in order, as far as they came.
    pub(crate) fn replace_many(
        &mut self,
        requests: &[u8],
        count: usize,
    ) -> Result<Vec<Result<Stored, DatastoreError>>, DatastoreError> {
        self.wire
            .send(requests)
            .map_err(dlock_net::may_have_executed)?;
        let mut answers = Vec::with_capacity(count);
        for _ in 0..count {
            let answer = self.read_answer();
            let lost = !is_in_step(&answer);
            match answer {
                // Nothing was answered: a dead connection, which can be replaced.
                Err(error) if lost && answers.is_empty() => return Err(error),
                answer => answers.push(answer.and_then(|answer| self.stored_from(&answer))),
            }
            if lost {
                return Ok(answers);
            }
        }
        self.wire.finish();
        Ok(answers)
    }

    /// Deletes the key if its number is `cas`.
    pub(crate) fn delete(&mut self, key: &str, cas: u64) -> Result<Deleted, DatastoreError> {
        self.ask(format_args!("md {key} C{cas}"))?;
        match self.answer()?.rc() {
            ReturnCode::Hd => Ok(Deleted::Done),
            ReturnCode::Nf => Ok(Deleted::NotFound),
            ReturnCode::Ex => Ok(Deleted::Other),
            other => Err(self.odd(&format!("{other:?}"))),
        }
    }

    /// Deletes the key whatever its number is: for servers without such numbers.
    pub(crate) fn delete_unconditionally(&mut self, key: &str) -> Result<(), DatastoreError> {
        self.ask(format_args!("md {key}"))?;
        self.answer().map(drop)
    }

    /// Reads the key; `None` if it is not there. An error means that nothing was done.
    pub(crate) fn get(&mut self, key: &str) -> Result<Option<Item>, DatastoreError> {
        self.get_item(key).map_err(nothing_was_done)
    }

    fn get_item(&mut self, key: &str) -> Result<Option<Item>, DatastoreError> {
        self.ask(format_args!("mg {key} v t c"))?;
        let line = self.wire.line(MAX_LINE)?.to_vec();
        let answer = MetaResponse::parse_header(&line);
        let answer = answer.map_err(|error| answered(self.wire.peer(), error));
        let has_value = matches!(&answer, Ok(answer) if answer.rc() == ReturnCode::Va);
        if is_in_step(&answer) && !has_value {
            self.wire.finish();
        }
        let answer = answer?;
        match answer.rc() {
            ReturnCode::En => return Ok(None),
            ReturnCode::Va => {}
            other => return Err(self.odd(&format!("{other:?}"))),
        }
        let Some((length, seconds, cas)) = value_header(&line, &answer) else {
            return Err(self.odd(&String::from_utf8_lossy(&line)));
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let value = if length <= MAX_VALUE {
            let mut value = self.wire.exactly(length + 2)?.to_vec();
            if !value.ends_with(b"\r\n") {
                return Err(self.odd("a value of another length than announced"));
            }
            value.truncate(length);
            self.wire.finish();
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

    fn ask(&mut self, line: fmt::Arguments<'_>) -> Result<(), DatastoreError> {
        self.request.clear();
        // Writing to a Vec cannot fail.
        let _ = write!(self.request, "{line}\r\n");
        self.wire.send(&self.request)
    }

    fn stored(&mut self) -> Result<Stored, DatastoreError> {
        let answer = self.answer()?;
        self.stored_from(&answer)
    }

    fn stored_from(&self, answer: &MetaResponse) -> Result<Stored, DatastoreError> {
        match answer.rc() {
            ReturnCode::Hd => flag(answer, b'c')
                .and_then(number)
                .map(Stored::Done)
                .ok_or_else(|| self.odd("HD without a CAS number")),
            ReturnCode::Nf => Ok(Stored::NotFound),
            ReturnCode::Ex | ReturnCode::Ns => Ok(Stored::Other),
            other => Err(self.odd(&format!("{other:?}"))),
        }
    }

    /// The answer to a command that is answered with one line.
    fn answer(&mut self) -> Result<MetaResponse, DatastoreError> {
        let answer = self.read_answer();
        if is_in_step(&answer) {
            self.wire.finish();
        }
        answer
    }

    fn read_answer(&mut self) -> Result<MetaResponse, DatastoreError> {
        let answer = MetaResponse::parse_header(self.wire.line(MAX_LINE)?);
        answer.map_err(|error| answered(self.wire.peer(), error))
    }

    fn odd(&self, answer: &str) -> DatastoreError {
        odd(&self.wire, answer)
    }
}

/// Whether the next line will be the next command's answer. So it is after an error that the server answers a store with; after one about the
/// command itself the server may go on to take the value for a command.
fn is_in_step(answer: &Result<MetaResponse, DatastoreError>) -> bool {
    match answer {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::Refused,
    }
}

/// Appends the request of [`Connection::replace`], for [`Connection::replace_many`].
pub(crate) fn push_replace(requests: &mut Vec<u8>, key: &str, cas: u64, seconds: u32, value: &str) {
    push_set(requests, key, format_args!("C{cas}"), seconds, value);
}

fn push_set(
    requests: &mut Vec<u8>,
    key: &str,
    condition: fmt::Arguments<'_>,
    seconds: u32,
    value: &str,
) {
    let length = value.len();
    // Writing to a Vec cannot fail.
    let _ = write!(
        requests,
        "ms {key} {length} {condition} T{seconds} c\r\n{value}\r\n"
    );
}

/// Refuses a key that would be more than a key on the wire, or that memcached would not take.
pub(crate) fn check_key(key: &str) -> Result<(), DatastoreError> {
    let fits = (1..=MAX_KEY_LENGTH).contains(&key.len());
    if fits && key.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(DatastoreError::not_executed(
        ErrorKind::Invalid,
        Problem::Key,
    ))
}

/// The error of an answer that the protocol does not allow, shown as far as that is harmless.
pub(crate) fn odd(wire: &Wire<Socket>, answer: &str) -> DatastoreError {
    let problem = Problem::Odd {
        peer: wire.peer().to_owned(),
        answer: answer.chars().take(80).collect(),
    };
    DatastoreError::maybe_executed(ErrorKind::Protocol, problem)
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(line: &[u8]) -> Option<(u64, Option<u32>, u64)> {
        value_header(line, &MetaResponse::parse_header(line).ok()?)
    }

    #[test]
    fn the_line_before_a_value_is_read() {
        assert_eq!(header(b"VA 3 t30 c7"), Some((3, Some(30), 7)));
        assert_eq!(header(b"VA 0 c7 t-1"), Some((0, None, 7)));
        assert_eq!(
            header(b"VA 3 t99999999999 c7"),
            Some((3, Some(u32::MAX), 7))
        );
        for line in [
            &b"VA 3 t30"[..],
            b"VA 3 c7",
            b"VA 3 t-2 c7",
            b"VA 3 t c7",
            b"VA  3 t30 c7",
            b"VA +3 t30 c7",
        ] {
            assert_eq!(header(line), None, "{}", String::from_utf8_lossy(line));
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_the_reader_panic(line in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = header(&line);
        }

        #[test]
        fn no_text_makes_the_reader_panic(line in "(VA|HD|EX|NS)?[ 0-9tc+-]{0,30}") {
            let _ = header(line.as_bytes());
        }
    }

    #[test]
    fn keys_that_are_more_than_a_key_are_refused() {
        for key in [
            "",
            "a b",
            "a\r\nflush_all",
            "a\0",
            "a\tb",
            "\u{7f}",
            "schlüssel",
            &"x".repeat(251),
        ] {
            let error = check_key(key).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{key:?}");
            assert!(!error.may_have_executed());
        }
        check_key(&"x".repeat(250)).unwrap();
        check_key("dlock:hourly-import%20x").unwrap();
    }

    #[test]
    fn only_digits_are_a_number() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        for text in [&b""[..], b"-1", b"+1", b"1 ", b"18446744073709551616", b"x"] {
            assert_eq!(number(text), None, "{text:?}");
        }
    }
}
