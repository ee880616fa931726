//! Requests and replies, and what is known when one fails.

use std::fmt;
use std::io::{self, BufRead, Read};

use dlock_core::{DatastoreError, Time};

use crate::{NetError, Transport, failed_after_sending, failed_before_sending};

const READ_AHEAD: usize = 4096;

/// One connection's requests and replies.
///
/// It is *dirty* from the first byte of a request until [`finish`](Self::finish) says that the reply was read to its end: a dirty one
/// must not be used again, since what arrives next may belong to the old request.
pub struct Wire<S> {
    stream: S,
    peer: String,
    buffer: Vec<u8>,
    start: usize,
    dirty: bool,
}

impl<S: Transport> Wire<S> {
    /// A wire over `stream`; `peer` names the server in errors, without credentials.
    pub fn new(stream: S, peer: impl fmt::Display) -> Self {
        Wire {
            stream,
            peer: peer.to_string(),
            buffer: Vec::new(),
            start: 0,
            dirty: false,
        }
    }

    /// Sets the end of the next call.
    pub fn set_deadline(&mut self, deadline: Time) {
        self.stream.deadline().set(deadline);
    }

    /// The server, as errors name it.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The stream below.
    pub fn transport(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Whether the connection can take another request: the last reply was read to its end, nothing unasked for has arrived and
    /// the peer has not closed it.
    pub fn is_usable(&mut self) -> bool {
        !self.dirty && self.buffered().is_empty() && self.stream.is_quiet()
    }

    /// Sends one request.
    ///
    /// # Errors
    ///
    /// Not executed: a server does not run a request that it has not got to the end. If several requests go out at once, the
    /// first of them may have run: use [`may_have_executed`](crate::may_have_executed).
    pub fn send(&mut self, request: &[u8]) -> Result<(), DatastoreError> {
        self.dirty = true;
        let sent = self
            .stream
            .write_all(request)
            .and_then(|()| self.stream.flush());
        sent.map_err(|error| {
            failed_before_sending(NetError::new(&self.peer, "send the request", error))
        })
    }

    /// Reads a line of at most `most` bytes; it comes without its CRLF or LF.
    ///
    /// # Errors
    ///
    /// Maybe executed: the request is with the server.
    pub fn line(&mut self, most: usize) -> Result<&[u8], DatastoreError> {
        let mut seen = 0;
        let length = loop {
            if let Some(at) = self.buffered()[seen..].iter().position(|b| *b == b'\n') {
                break seen + at;
            }
            seen = self.buffered().len();
            if seen > most {
                return Err(self.failed(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line that is too long",
                )));
            }
            self.fill()?;
        };
        let from = self.start;
        self.start += length + 1;
        let line = &self.buffer[from..from + length];
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// Reads exactly `length` bytes.
    ///
    /// # Errors
    ///
    /// Maybe executed: the request is with the server.
    pub fn exactly(&mut self, length: usize) -> Result<&[u8], DatastoreError> {
        while self.buffered().len() < length {
            self.fill()?;
        }
        let from = self.start;
        self.start += length;
        Ok(&self.buffer[from..from + length])
    }

    /// What has arrived and was not taken yet.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Waits for more to arrive.
    ///
    /// # Errors
    ///
    /// Maybe executed: the request is with the server.
    pub fn fill(&mut self) -> Result<(), DatastoreError> {
        self.read_more().map_err(|error| self.failed(error))
    }

    /// The whole reply has been read.
    pub fn finish(&mut self) {
        self.dirty = false;
    }

    /// The error of a reply that could not be read or understood; the wire stays dirty.
    pub fn failed(&self, error: io::Error) -> DatastoreError {
        failed_after_sending(NetError::new(&self.peer, "read the reply", error))
    }

    fn read_more(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let length = self.buffer.len();
        self.buffer.resize(length + READ_AHEAD, 0);
        let read = self.stream.read(&mut self.buffer[length..]);
        self.buffer
            .truncate(length + read.as_ref().map_or(0, |n| *n));
        match read {
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            )),
            done => done.map(drop),
        }
    }
}

/// For parsers that want a reader. Errors come without the server's name; pass them through [`Wire::failed`].
impl<S: Transport> Read for Wire<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buf.len());
        buf[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl<S: Transport> BufRead for Wire<S> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.buffered().is_empty() {
            self.read_more()?;
        }
        Ok(self.buffered())
    }

    fn consume(&mut self, amount: usize) {
        self.start = (self.start + amount).min(self.buffer.len());
    }
}

/// Without what went over it: that may hold a password.
impl<S> fmt::Debug for Wire<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("peer", &self.peer)
            .field("dirty", &self.dirty)
            .finish_non_exhaustive()
    }
}
