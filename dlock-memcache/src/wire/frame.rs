//! Where an answer ends, for a connection that many calls share. No I/O.

use std::io;

use super::MAX_LINE;
use super::answers::value_length;

/// A value up to this size is waited for to its end: as large as a server keeps unless it is told
/// otherwise. After the start of a larger one no further answer can be read.
pub(crate) const MAX_SHARED_VALUE: usize = 1 << 20;
/// More bytes of statistics than any server sends.
const MAX_STATS: usize = 256 << 10;

/// The bytes of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) length: usize,
    /// False if more of the answer follows, which is not waited for.
    pub(crate) is_whole: bool,
}

/// The first answer in `received`, or `None` if its end has not arrived. It is one line, a line and
/// the value that it announces, or lines of statistics with the line that ends them.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] if a line or the statistics have no end.
pub(crate) fn first(received: &[u8]) -> io::Result<Option<Frame>> {
    let mut at = 0;
    loop {
        let rest = &received[at..];
        let end = rest.iter().take(MAX_LINE + 1).position(|b| *b == b'\n');
        let Some(end) = end else {
            return match rest.len() > MAX_LINE {
                true => Err(invalid("the line is too long")),
                false => Ok(None),
            };
        };
        let line = &rest[..=end];
        at += line.len();
        if line.starts_with(b"STAT ") {
            if at > MAX_STATS {
                return Err(invalid("statistics without end"));
            }
            continue;
        }
        return Ok(with_value(line, at, received.len()));
    }
}

/// The answer that ends with `line` at the place `at`, or with the value after it.
fn with_value(line: &[u8], at: usize, received: usize) -> Option<Frame> {
    let whole = |length| Frame {
        length,
        is_whole: true,
    };
    if !line.starts_with(b"VA ") {
        return Some(whole(at));
    }
    match value_length(without_end(line)) {
        Some(length) if length > MAX_SHARED_VALUE => Some(Frame {
            length: at,
            is_whole: false,
        }),
        Some(length) => Some(whole(at + length + 2)).filter(|frame| frame.length <= received),
        None => Some(whole(at)),
    }
}

/// A line without its CRLF or LF.
pub(crate) fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
