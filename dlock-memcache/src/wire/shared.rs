//! Reads the answers on a connection that many calls share. No I/O.

use std::io;

use dlock_core::DatastoreError;

use super::answers::{self, OTHER_LENGTH, header, is_in_step, parsed, unexpected};
use super::frame::{self, MAX_SHARED_VALUE, without_end};
use crate::operations::commands::{Deleted, Item, Stored};

/// What a request is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stored,
    Deleted,
    Acknowledged,
    Item,
    Stats,
}

/// An answer to a request of that kind.
#[derive(Debug)]
pub(crate) enum Answer {
    Stored(Stored),
    Deleted(Deleted),
    Acknowledged,
    Item(Option<Item>),
    /// All lines but the last.
    Stats(String),
}

/// Splits what arrives on one connection into answers, and reads them.
#[derive(Debug)]
pub(crate) struct Reader {
    peer: String,
    /// Whether the last answer that was split off is cut short: what follows is the rest of it.
    is_cut: bool,
    /// Whether what follows the last answer that was read may be something other than the next.
    is_out_of_step: bool,
}

impl Reader {
    /// A reader of what the server `peer` sends.
    pub(crate) fn new(peer: String) -> Self {
        Reader {
            peer,
            is_cut: false,
            is_out_of_step: false,
        }
    }

    /// The length of the first answer in `received`, or `None` if its end has not arrived.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] if no answer begins like this,
    /// [`io::ErrorKind::ConnectionAborted`] after an answer that the next one does not follow.
    pub(crate) fn split(&mut self, received: &[u8]) -> io::Result<Option<usize>> {
        if self.is_cut || self.is_out_of_step {
            return Err(out_of_step());
        }
        let first = frame::first(received)?;
        self.is_cut = first.is_some_and(|frame| !frame.is_whole);
        Ok(first.map(|frame| frame.length))
    }

    /// Reads one answer, or the server's error about this request. Returns also whether the
    /// connection takes no more requests.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::ConnectionAborted`] after an answer that the next one does not follow.
    pub(crate) fn read(
        &mut self,
        answer: &[u8],
        kind: Kind,
    ) -> io::Result<(Result<Answer, DatastoreError>, bool)> {
        if self.is_out_of_step {
            return Err(out_of_step());
        }
        let read = self.answer(answer, kind);
        self.is_out_of_step = read.as_ref().is_err_and(|error| !is_in_step(error));
        // Others may have been split off before the one that is cut short.
        let is_cut =
            || frame::first(answer).is_ok_and(|first| first.is_some_and(|it| !it.is_whole));
        Ok((read, self.is_out_of_step || self.is_cut && is_cut()))
    }

    fn answer(&self, answer: &[u8], kind: Kind) -> Result<Answer, DatastoreError> {
        let peer = &*self.peer;
        let end = answer.iter().position(|b| *b == b'\n');
        let (line, rest) = answer.split_at(end.map_or(answer.len(), |end| end + 1));
        let line = without_end(line);
        match kind {
            Kind::Stored => answers::stored(peer, &parsed(peer, line)?).map(Answer::Stored),
            Kind::Deleted => answers::deleted(peer, &parsed(peer, line)?).map(Answer::Deleted),
            Kind::Acknowledged => {
                answers::acknowledged(peer, &parsed(peer, line)?).map(|()| Answer::Acknowledged)
            }
            Kind::Item => item(peer, line, rest).map(Answer::Item),
            Kind::Stats => stats(peer, answer).map(Answer::Stats),
        }
    }
}

fn item(peer: &str, line: &[u8], value: &[u8]) -> Result<Option<Item>, DatastoreError> {
    let Some(header) = header(peer, line)? else {
        return Ok(None);
    };
    if header.length > MAX_SHARED_VALUE {
        return Ok(Some(header.without_value()));
    }
    match header.with_value(value) {
        Some(item) => Ok(Some(item)),
        None => Err(unexpected(peer, OTHER_LENGTH)),
    }
}

fn stats(peer: &str, answer: &[u8]) -> Result<String, DatastoreError> {
    let mut lines = answer.split_inclusive(|b| *b == b'\n');
    let last = without_end(lines.next_back().unwrap_or_default());
    match last {
        b"END" => {
            let all: Vec<_> = lines.collect();
            Ok(String::from_utf8_lossy(&all.concat()).into_owned())
        }
        other => Err(unexpected(peer, &String::from_utf8_lossy(other))),
    }
}

fn out_of_step() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the answer before it was not what it should be",
    )
}
