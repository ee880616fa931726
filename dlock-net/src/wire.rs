//! Requests and replies, and what a failure says about the request.

use std::fmt;
use std::io::{self, BufRead, Read};

use dlock_core::{DatastoreError, Time};

use crate::{Deadline, NetError, Transport, failed_after_sending, failed_before_sending};

const READ_AHEAD: usize = 4096;

/// One connection's requests and replies.
///
/// A wire is *dirty* from the first byte of a request until [`finish`](Self::finish), when the
/// reply was read to its end. A dirty wire must not be used for another request, since the next
/// bytes may belong to the old one.
pub struct Wire<S> {
    stream: S,
    /// That of the stream.
    deadline: Deadline,
    peer: String,
    // `start..end` has arrived and is not consumed yet. The memory is kept from reply to reply.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    dirty: bool,
}

impl<S: Transport> Wire<S> {
    /// A wire over `stream`; `peer` names the server in errors, without credentials.
    pub fn new(stream: S, peer: impl fmt::Display) -> Self {
        Wire {
            deadline: stream.deadline().clone(),
            stream,
            peer: peer.to_string(),
            buffer: Vec::new(),
            start: 0,
            end: 0,
            dirty: false,
        }
    }

    /// Sets the end of the next call.
    pub fn set_deadline(&mut self, deadline: Time) {
        self.deadline.set(deadline);
    }

    /// The end of the current call.
    pub fn deadline(&self) -> Time {
        self.deadline.time()
    }

    /// The server's name in errors.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The underlying stream.
    pub fn transport(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The stream alone, if nothing is under way and nothing has arrived that was not taken.
    pub fn into_transport(self) -> Option<S> {
        (!self.dirty && self.buffered().is_empty()).then_some(self.stream)
    }

    /// Returns whether the connection can take another request: the last reply was read to its end,
    /// nothing unrequested has arrived, and the peer has not closed it.
    pub fn is_usable(&mut self) -> bool {
        !self.dirty && self.buffered().is_empty() && self.stream.is_quiet()
    }

    /// Sends one request.
    ///
    /// # Errors
    ///
    /// Not executed: a server does not run an incomplete request. If several requests are sent at
    /// once, the first of them may have run: use [`may_have_executed`](crate::may_have_executed).
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

    /// Reads a line of at most `most` bytes before its LF. Returns it without its CRLF or LF.
    ///
    /// # Errors
    ///
    /// Maybe executed: the server has the request.
    pub fn line(&mut self, most: usize) -> Result<&[u8], DatastoreError> {
        let mut seen = 0;
        let length = loop {
            let end = self.buffered()[seen..].iter().position(|b| *b == b'\n');
            let length = end.map_or(self.buffered().len(), |at| seen + at);
            if length > most {
                return Err(self.failed(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the line is too long",
                )));
            }
            if end.is_some() {
                break length;
            }
            seen = length;
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
    /// Maybe executed: the server has the request.
    pub fn exactly(&mut self, length: usize) -> Result<&[u8], DatastoreError> {
        while self.buffered().len() < length {
            self.fill()?;
        }
        let from = self.start;
        self.start += length;
        Ok(&self.buffer[from..from + length])
    }

    /// The bytes that have arrived and are not consumed yet.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Waits for more to arrive.
    ///
    /// # Errors
    ///
    /// Maybe executed: the server has the request.
    pub fn fill(&mut self) -> Result<(), DatastoreError> {
        self.read_more().map_err(|error| self.failed(error))
    }

    /// Marks the reply as read to its end.
    pub fn finish(&mut self) {
        self.dirty = false;
    }

    /// The error of a reply that could not be read or parsed. The wire stays dirty.
    pub fn failed(&self, error: io::Error) -> DatastoreError {
        failed_after_sending(NetError::new(&self.peer, "read the reply", error))
    }

    fn read_more(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() < self.end + READ_AHEAD {
            self.buffer.resize(self.end + READ_AHEAD, 0);
        }
        match self.stream.read(&mut self.buffer[self.end..])? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            )),
            read => {
                self.end += read;
                Ok(())
            }
        }
    }
}

/// For parsers that need a reader. Its errors lack the server's name: pass them through
/// [`Wire::failed`].
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
        self.start = (self.start + amount).min(self.end);
    }
}

/// Without the data, which may contain a password.
impl<S> fmt::Debug for Wire<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("peer", &self.peer)
            .field("dirty", &self.dirty)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns its data in pieces, then closes.
    struct Pieces(Vec<Vec<u8>>, Deadline);

    impl Read for Pieces {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0);
            let length = piece.len().min(buf.len());
            buf[..length].copy_from_slice(&piece[..length]);
            if length < piece.len() {
                self.0.insert(0, piece[length..].to_vec());
            }
            Ok(length)
        }
    }

    impl io::Write for Pieces {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Transport for Pieces {
        fn deadline(&self) -> &Deadline {
            &self.1
        }
        fn is_quiet(&mut self) -> bool {
            true
        }
    }

    fn wire(pieces: &[&[u8]]) -> Wire<Pieces> {
        let pieces = pieces.iter().map(|piece| piece.to_vec()).collect();
        Wire::new(Pieces(pieces, Deadline::default()), "here:1")
    }

    #[test]
    fn lines_and_blocks_are_the_same_however_they_arrive() {
        let long = vec![b'x'; 3 * READ_AHEAD];
        let mut whole = b"first\r\nsecond\nabc\r\n".to_vec();
        whole.extend_from_slice(&long);
        whole.extend_from_slice(b"\r\n");
        for size in [1, 2, 7, 100, READ_AHEAD, whole.len()] {
            let pieces: Vec<&[u8]> = whole.chunks(size).collect();
            let mut wire = wire(&pieces);
            assert_eq!(wire.line(10).unwrap(), b"first");
            assert_eq!(wire.line(10).unwrap(), b"second");
            assert_eq!(wire.exactly(5).unwrap(), b"abc\r\n");
            assert_eq!(wire.exactly(long.len() + 2).unwrap()[..long.len()], long);
            assert!(wire.buffered().is_empty());
            let error = wire.line(10).unwrap_err();
            assert!(error.may_have_executed(), "the server closed");
        }
    }

    #[test]
    fn a_line_has_its_limit() {
        for pieces in [&[&b"123456\r\n"[..]][..], &[b"1234", b"56"]] {
            let error = wire(pieces).line(5).unwrap_err();
            assert_eq!(error.kind(), dlock_core::ErrorKind::Protocol);
        }
        assert_eq!(wire(&[b"12345\n"]).line(5).unwrap(), b"12345");
    }

    #[test]
    fn it_is_usable_only_between_calls() {
        let mut wire = wire(&[b"answer\r\nmore"]);
        assert!(wire.is_usable());
        wire.send(b"question").unwrap();
        assert!(!wire.is_usable(), "the reply is still to come");
        wire.line(10).unwrap();
        wire.finish();
        assert!(!wire.is_usable(), "more than the reply has arrived");
    }

    #[test]
    fn the_stream_is_given_away_only_between_calls() {
        assert!(wire(&[]).into_transport().is_some());
        for (length, is_finished) in [(8, false), (12, true)] {
            let mut wire = wire(&[&b"answer\r\nmore"[..length]]);
            wire.send(b"question").unwrap();
            wire.line(10).unwrap();
            if is_finished {
                wire.finish();
            }
            assert!(wire.into_transport().is_none(), "{length}");
        }
    }

    #[test]
    fn a_reader_gets_what_is_buffered_first() {
        let mut wire = wire(&[b"line\r\nrest", b" of it"]);
        wire.line(10).unwrap();
        let mut rest = [0; 4];
        wire.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"rest");
        assert_eq!(wire.fill_buf().unwrap(), b" of it");
        wire.consume(usize::from(u16::MAX));
        assert_eq!(
            wire.fill_buf().unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
