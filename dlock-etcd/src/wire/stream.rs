//! An exchange in which both sides go on: one request whose body has a line for each wish, and one
//! answer whose body has a line for each event.

use std::io;

use super::{Chunk, Length, MAX_BODY, chunk, head, malformed, push_start, too_long};

/// The HTTP status of an exchange that goes on.
const OK: u16 = 200;

/// Writes the head of the request. It is the last on its connection: otherwise the server would
/// wait for the end of the request before it answers. It demands a leader: a node that is cut off
/// from the majority would go on to give signs of life, and learn of nothing to report.
pub(crate) fn push_head(request: &mut Vec<u8>, place: (&str, &str), token: Option<&str>) {
    push_start(request, place, token);
    request.extend_from_slice(
        b"Grpc-Metadata-hasleader: true\r\nConnection: close\r\n\
          Transfer-Encoding: chunked\r\n\r\n",
    );
}

/// Writes one line of the body.
pub(crate) fn push_line(request: &mut Vec<u8>, line: &str) {
    request.extend_from_slice(format!("{:x}\r\n{line}\n\r\n", line.len() + 1).as_bytes());
}

/// Reads the lines of the answer, in whatever pieces they arrive.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// Whether the head was read.
    is_begun: bool,
    /// What has arrived of the next line.
    line: Vec<u8>,
}

impl Lines {
    /// Reads the lines in `received` and passes each to `line`, without its end. Returns how many
    /// bytes were read: the rest is to be passed again, with what follows.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] if the answer is no such one;
    /// [`io::ErrorKind::UnexpectedEof`] if it is over.
    pub(crate) fn read(
        &mut self,
        received: &[u8],
        mut line: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        let mut at = 0;
        if !self.is_begun {
            let Some((head, length)) = head(received)? else {
                return Ok(0);
            };
            match (head.status, head.length) {
                (OK, Length::Chunked) => {}
                (status, _) => return Err(refused(status)),
            }
            self.is_begun = true;
            at = length;
        }
        while let Some((chunk, length)) = chunk(&received[at..], MAX_BODY)? {
            at += length;
            let Chunk::Data(mut data) = chunk else {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the server has ended the watch",
                ));
            };
            while let Some(end) = data.iter().position(|byte| *byte == b'\n') {
                self.line.extend_from_slice(&data[..end]);
                data = &data[end + 1..];
                line(&self.line);
                self.line.clear();
            }
            if self.line.len() + data.len() > MAX_BODY {
                return Err(too_long());
            }
            self.line.extend_from_slice(data);
        }
        Ok(at)
    }
}

fn refused(status: u16) -> io::Error {
    malformed(&format!(
        "a watch was answered with the HTTP status {status}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// All lines of `text`, which arrives in pieces of this size, and the error at its end.
    fn lines(text: &str, size: usize) -> (Vec<String>, Option<io::ErrorKind>) {
        let (mut lines, mut buffer, mut found) = (Lines::default(), Vec::new(), Vec::new());
        for piece in text.as_bytes().chunks(size) {
            buffer.extend_from_slice(piece);
            let read = lines.read(&buffer, |line| {
                found.push(String::from_utf8(line.to_vec()).unwrap());
            });
            match read {
                Ok(length) => drop(buffer.drain(..length)),
                Err(error) => return (found, Some(error.kind())),
            }
        }
        (found, None)
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let text = format!("{HEAD}2\r\na\n\r\n3\r\n\nbc\r\n2\r\nd\n\r\n0\r\n\r\n");
        for size in 1..text.len() {
            let ended = Some(io::ErrorKind::UnexpectedEof);
            let all = ["a", "", "bcd"].map(ToOwned::to_owned).to_vec();
            assert_eq!(lines(&text, size), (all, ended), "{size}");
        }
    }

    #[test]
    fn what_is_no_watch_is_an_error() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
            "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            "hello\r\n".to_owned(),
            format!("{HEAD}x\r\n"),
            format!("{HEAD}1\r\nab\r\n"),
            format!("{HEAD}fffffffff\r\n"),
        ] {
            let (found, error) = lines(&text, 7);
            assert_eq!(error, Some(io::ErrorKind::InvalidData), "{text}");
            assert!(found.is_empty());
        }
    }

    #[test]
    fn a_request_goes_on_line_by_line() {
        let mut request = Vec::new();
        push_head(&mut request, ("a:1", "/v3/watch"), Some("t.1"));
        push_line(&mut request, "{\"progress_request\":{}}");
        assert_eq!(
            String::from_utf8(request).unwrap(),
            "POST /v3/watch HTTP/1.1\r\nHost: a:1\r\nAuthorization: t.1\r\n\
             Content-Type: application/json\r\nGrpc-Metadata-hasleader: true\r\n\
             Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
             18\r\n{\"progress_request\":{}}\n\r\n"
        );
    }
}
