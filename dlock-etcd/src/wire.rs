//! HTTP/1.1: how a request is written and an answer is read, within the deadline of the call.

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
/// The most bytes of a line between two chunks.
const MAX_LINE: usize = 1024;

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
    (host, path): (&str, &str),
    token: Option<&str>,
    body: &str,
) {
    let mut push = |text: &str| request.extend_from_slice(text.as_bytes());
    push("POST ");
    push(path);
    push(" HTTP/1.1\r\nHost: ");
    push(host);
    if let Some(token) = token {
        push("\r\nAuthorization: ");
        push(token);
    }
    push("\r\nContent-Type: application/json\r\nContent-Length: ");
    push(&body.len().to_string());
    push("\r\n\r\n");
    push(body);
}

/// Reads an answer to its end.
///
/// # Errors
///
/// Maybe executed: the server has the request.
pub(crate) fn answer<S: Transport>(wire: &mut Wire<S>) -> Result<Answer, DatastoreError> {
    let head = head(wire)?;
    let mut body = Vec::new();
    match head.length {
        Length::Bytes(length) => take(wire, length, &mut body)?,
        Length::Chunked => take_chunks(wire, &mut body)?,
    }
    wire.finish();
    Ok(Answer {
        status: head.status,
        body,
        is_last: head.is_last,
    })
}

fn head<S: Transport>(wire: &mut Wire<S>) -> Result<Head, DatastoreError> {
    loop {
        let mut fields = [EMPTY_HEADER; MAX_FIELDS];
        let mut response = Response::new(&mut fields);
        let parsed = response.parse(wire.buffered());
        match parsed.map_err(|error| malformed(wire, &error.to_string()))? {
            Status::Complete(length) => {
                let head = Head::of(&response);
                wire.consume(length);
                return head.ok_or_else(|| malformed(wire, "the answer has no length"));
            }
            Status::Partial if wire.buffered().len() > MAX_HEAD => {
                return Err(malformed(wire, "the head of the answer is too long"));
            }
            Status::Partial => wire.fill()?,
        }
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

fn take_chunks<S: Transport>(wire: &mut Wire<S>, body: &mut Vec<u8>) -> Result<(), DatastoreError> {
    loop {
        let line = wire.line(MAX_LINE)?;
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(size).ok();
        let size = size.and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        match size {
            Some(0) => break,
            Some(size) => take(wire, size, body)?,
            None => return Err(malformed(wire, "a chunk has no size")),
        }
        if !wire.line(MAX_LINE)?.is_empty() {
            return Err(malformed(wire, "a chunk is longer than its size"));
        }
    }
    // Fields that follow the body.
    for _ in 0..MAX_FIELDS {
        if wire.line(MAX_LINE)?.is_empty() {
            return Ok(());
        }
    }
    Err(malformed(wire, "the answer has no end"))
}

fn take<S: Transport>(
    wire: &mut Wire<S>,
    length: usize,
    body: &mut Vec<u8>,
) -> Result<(), DatastoreError> {
    if length > MAX_BODY - body.len() {
        return Err(malformed(wire, "the answer is too long"));
    }
    body.extend_from_slice(wire.exactly(length)?);
    Ok(())
}

fn malformed<S: Transport>(wire: &Wire<S>, what: &str) -> DatastoreError {
    wire.failed(io::Error::new(io::ErrorKind::InvalidData, what))
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
