//! HTTP/1.1: how a request is written and an answer is read.

pub(crate) mod stream;

use std::io::{self, BufRead as _};

use dlock_core::DatastoreError;
use dlock_net::{Transport, Wire};
use httparse::{EMPTY_HEADER, Response, Status};

/// The most bytes before the body of an answer.
const MAX_HEAD: usize = 16 * 1024;
/// The most header fields of an answer.
const MAX_FIELDS: usize = 64;
/// The most bytes of the body: a page of held keys has a tenth of that.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// The most bytes of an answer in chunks, with what is around them.
const MAX_CHUNKED: usize = 2 * MAX_BODY;
/// The most bytes of a line between two chunks.
const MAX_LINE: usize = 1024;

/// A request after which the server ends the connection.
#[cfg(feature = "tokio")]
pub(crate) const FAREWELL: &[u8] =
    b"GET /version HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\n\r\n";

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// Whether the server ends the connection after it.
    pub(crate) is_last: bool,
}

/// What comes before the body.
struct Head {
    status: u16,
    length: Length,
    is_last: bool,
}

/// How the end of the body is known.
enum Length {
    Bytes(usize),
    Chunked,
}

/// Writes a POST of a JSON text to `request`. `token` is that of a login.
pub(crate) fn push_post(
    request: &mut Vec<u8>,
    place: (&str, &str),
    token: Option<&str>,
    body: &str,
) {
    push_start(request, place, token);
    let mut push = |text: &str| request.extend_from_slice(text.as_bytes());
    push("Content-Length: ");
    push(&body.len().to_string());
    push("\r\n\r\n");
    push(body);
}

/// Writes a GET to `request`.
pub(crate) fn push_get(request: &mut Vec<u8>, (host, path): (&str, &str)) {
    let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    request.extend_from_slice(text.as_bytes());
}

/// All of the head but the length of the body.
fn push_start(request: &mut Vec<u8>, (host, path): (&str, &str), token: Option<&str>) {
    let mut push = |text: &str| request.extend_from_slice(text.as_bytes());
    push("POST ");
    push(path);
    push(" HTTP/1.1\r\nHost: ");
    push(host);
    if let Some(token) = token {
        push("\r\nAuthorization: ");
        push(token);
    }
    push("\r\nContent-Type: application/json\r\n");
}

/// Reads an answer to its end.
///
/// # Errors
///
/// Maybe executed: the server has the request.
pub(crate) fn answer<S: Transport>(wire: &mut Wire<S>) -> Result<Answer, DatastoreError> {
    loop {
        let parsed = parse(wire.buffered());
        match parsed.map_err(|error| wire.failed(error))? {
            Some((answer, length)) => {
                wire.consume(length);
                wire.finish();
                return Ok(answer);
            }
            None => wire.fill()?,
        }
    }
}

/// The first answer in what was received, and its length; `None` if its end has not arrived.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] if no answer begins like this.
pub(crate) fn parse(received: &[u8]) -> io::Result<Option<(Answer, usize)>> {
    let mut body = Vec::new();
    let parsed = walk(received, |part| body.extend_from_slice(part))?;
    Ok(parsed.map(|(head, length)| {
        let answer = Answer {
            status: head.status,
            body,
            is_last: head.is_last,
        };
        (answer, length)
    }))
}

/// The length of the first answer; `None` if its end has not arrived.
///
/// # Errors
///
/// As [`parse`].
#[cfg(any(test, fuzzing, feature = "tokio"))]
pub(crate) fn split(received: &[u8]) -> io::Result<Option<usize>> {
    Ok(walk(received, |_| {})?.map(|(_, length)| length))
}

/// Passes each part of the first answer's body to `part`.
fn walk(received: &[u8], mut part: impl FnMut(&[u8])) -> io::Result<Option<(Head, usize)>> {
    let Some((head, mut at)) = head(received)? else {
        return Ok(None);
    };
    match head.length {
        Length::Bytes(length) => {
            let Some(body) = received[at..].get(..length) else {
                return Ok(None);
            };
            part(body);
            at += length;
        }
        Length::Chunked => {
            let mut length = 0;
            loop {
                let Some((chunk, taken)) = chunk(&received[at..], MAX_BODY - length)? else {
                    return Ok(None);
                };
                at += taken;
                if at > MAX_CHUNKED {
                    return Err(too_long());
                }
                let Chunk::Data(data) = chunk else { break };
                length += data.len();
                part(data);
            }
            let Some(taken) = trailer(&received[at..])? else {
                return Ok(None);
            };
            at += taken;
        }
    }
    Ok(Some((head, at)))
}

fn head(received: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let mut response = Response::new(&mut fields);
    let parsed = response.parse(received);
    match parsed.map_err(|error| malformed(&error.to_string()))? {
        Status::Complete(length) if length > MAX_HEAD => {
            Err(malformed("the head of the answer is too long"))
        }
        Status::Complete(length) => {
            let head = Head::of(&response).ok_or_else(|| malformed("the answer has no length"))?;
            match head.length {
                Length::Bytes(bytes) if bytes > MAX_BODY => Err(too_long()),
                _ => Ok(Some((head, length))),
            }
        }
        Status::Partial if received.len() > MAX_HEAD => {
            Err(malformed("the head of the answer is too long"))
        }
        Status::Partial => Ok(None),
    }
}

impl Head {
    fn of(response: &Response<'_, '_>) -> Option<Self> {
        let (mut length, mut is_last) = (None, false);
        for field in response.headers.iter() {
            let is = |name| field.name.eq_ignore_ascii_case(name);
            let value = std::str::from_utf8(field.value).ok()?.trim();
            if is("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
                length = Some(Length::Chunked);
            } else if is("content-length") && length.is_none() {
                length = Some(Length::Bytes(value.parse().ok()?));
            } else if is("connection") {
                is_last = value.eq_ignore_ascii_case("close");
            }
        }
        Some(Head {
            status: response.code?,
            length: length?,
            is_last,
        })
    }
}

/// A part of a body whose length is not known at its beginning.
enum Chunk<'a> {
    Data(&'a [u8]),
    /// It is over.
    Last,
}

/// The first chunk, of at most `most` bytes, and its length with what is around it.
fn chunk(received: &[u8], most: usize) -> io::Result<Option<(Chunk<'_>, usize)>> {
    let Some((size, start)) = line(received)? else {
        return Ok(None);
    };
    let size = size.split(|byte| *byte == b';').next().unwrap_or_default();
    let size = std::str::from_utf8(size).ok();
    let size = size.and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
    let size = size.ok_or_else(|| malformed("a chunk has no size"))?;
    if size == 0 {
        return Ok(Some((Chunk::Last, start)));
    }
    if size > most {
        return Err(too_long());
    }
    let Some(data) = received[start..].get(..size) else {
        return Ok(None);
    };
    match line(&received[start + size..])? {
        Some((b"", end)) => Ok(Some((Chunk::Data(data), start + size + end))),
        Some(_) => Err(malformed("a chunk is longer than its size")),
        None => Ok(None),
    }
}

/// The length of the fields that follow a body, with the empty line at their end.
fn trailer(received: &[u8]) -> io::Result<Option<usize>> {
    let mut at = 0;
    for _ in 0..MAX_FIELDS {
        let Some((field, length)) = line(&received[at..])? else {
            return Ok(None);
        };
        at += length;
        if field.is_empty() {
            return Ok(Some(at));
        }
    }
    Err(malformed("the answer has no end"))
}

/// The first line, without its CRLF or LF, and its length with it.
fn line(received: &[u8]) -> io::Result<Option<(&[u8], usize)>> {
    let end = received
        .iter()
        .take(MAX_LINE + 1)
        .position(|byte| *byte == b'\n');
    match end {
        Some(end) => {
            let line = &received[..end];
            Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1)))
        }
        None if received.len() > MAX_LINE => Err(malformed("a line of the answer is too long")),
        None => Ok(None),
    }
}

fn too_long() -> io::Error {
    malformed("the answer is too long")
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dlock_core::ErrorKind;
    use dlock_net::testing::Pieces;

    fn wire(text: &str, rhythm: usize) -> Wire<Pieces> {
        Wire::new(Pieces::new(text.as_bytes(), rhythm), "here:1")
    }

    #[test]
    fn answers_are_the_same_however_they_arrive() {
        let plain = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
        let chunked = "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n\
                       3\r\n{\"a\r\n4;x=y\r\n\":1}\r\n0\r\nX: y\r\n\r\n";
        for rhythm in 0..12 {
            let mut wire = wire(&format!("{plain}{chunked}"), rhythm);
            for status in [200, 404] {
                let answer = answer(&mut wire).unwrap();
                assert_eq!((answer.status, &*answer.body), (status, &b"{\"a\":1}"[..]));
                assert!(!answer.is_last);
            }
            assert!(wire.buffered().is_empty());
        }
    }

    #[test]
    fn the_last_answer_of_a_connection_is_known() {
        let text = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert!(answer(&mut wire(text, 0)).unwrap().is_last);
    }

    #[test]
    fn what_is_no_answer_is_an_error_that_leaves_the_outcome_open() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD));
        for text in [
            "+PONG\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
            &long,
        ] {
            let error = answer(&mut wire(text, 5)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{text:.60}: {error}");
            assert!(error.may_have_executed());
        }
        // Much more around the chunks than in them.
        let mut around = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        let chunk = format!("1;{}\r\nx\r\n", "x".repeat(MAX_LINE - 10));
        around.push_str(&chunk.repeat(MAX_CHUNKED / chunk.len() + 1));
        let error = parse(around.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"a\"";
        let error = answer(&mut wire(cut, 0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
    }

    #[test]
    fn a_request_has_its_length_and_its_login() {
        let mut request = Vec::new();
        push_post(&mut request, ("a:1", "/v3/kv/range"), Some("t.1"), "{}");
        assert_eq!(
            String::from_utf8(request).unwrap(),
            "POST /v3/kv/range HTTP/1.1\r\nHost: a:1\r\nAuthorization: t.1\r\n\
             Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        );
    }
}
