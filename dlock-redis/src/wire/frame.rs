//! Where a reply ends, before it is read.

use std::io;

use crate::wire::{DEEPEST, LONGEST_REPLY, no_reply};

#[allow(clippy::cast_possible_truncation, reason = "64 KiB")]
const LONGEST: usize = LONGEST_REPLY as usize;

/// Returns the length of the first reply in `received`, or `None` if its end has not arrived.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`], without a word of what was received, if no reply of a bearable
/// size begins like this.
pub(crate) fn length(received: &[u8]) -> io::Result<Option<usize>> {
    let reply = &received[..received.len().min(LONGEST)];
    match end(reply, 0, DEEPEST)? {
        Some(end) if end <= reply.len() => Ok(Some(end)),
        Some(end) if end > LONGEST => Err(no_reply()),
        None if reply.len() == LONGEST => Err(no_reply()),
        _ => Ok(None),
    }
}

/// Where the value ends that begins at `at`, as far as that can be known. It may be after the end
/// of `bytes`.
fn end(bytes: &[u8], at: usize, deepest: u32) -> io::Result<Option<usize>> {
    let Some(rest) = bytes.get(at..) else {
        return Ok(None);
    };
    let Some(newline) = rest.iter().position(|byte| *byte == b'\n') else {
        return Ok(None);
    };
    let line = rest[..newline].strip_suffix(b"\r").ok_or_else(no_reply)?;
    let after = at + newline + 1;
    let (kind, text) = line.split_first().ok_or_else(no_reply)?;
    if matches!(kind, b':' | b'+' | b'-') {
        return Ok(Some(after));
    }
    let count = match (kind, count(text)?) {
        (b'$' | b'*', None) => return Ok(Some(after)),
        (b'$' | b'*', Some(count)) => count,
        _ => return Err(no_reply()),
    };
    if *kind == b'$' {
        return Ok(Some(after + count + 2));
    }
    if deepest == 0 {
        return Err(no_reply());
    }
    let mut after = after;
    for _ in 0..count {
        match end(bytes, after, deepest - 1)? {
            Some(end) => after = end,
            None => return Ok(None),
        }
    }
    Ok(Some(after))
}

/// How many bytes or values follow, `None` for nil. It is read as the parser reads it.
fn count(text: &[u8]) -> io::Result<Option<usize>> {
    let number = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse::<i64>().ok());
    match number.ok_or_else(no_reply)? {
        -1 => Ok(None),
        number => usize::try_from(number)
            .ok()
            .filter(|count| *count <= LONGEST)
            .map(Some)
            .ok_or_else(no_reply),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Parser;
    use proptest::prelude::*;

    const LIST: &[u8] = b"*5\r\n$7\r\ngranted\r\n:-12\r\n$-1\r\n*0\r\n$4\r\na\r\nb\r\n";

    #[test]
    fn a_reply_ends_where_it_ends_and_not_before_it_is_here() {
        for reply in [
            LIST,
            b"+OK\r\n",
            b":7\r\n",
            b"-ERR no\r\n",
            b"$0\r\n\r\n",
            b"$-1\r\n",
            b"$-0\r\n\r\n",
            b"$+01\r\nx\r\n",
            b"*-1\r\n",
            b"*0\r\n",
        ] {
            let followed = [reply, b":7\r\n"].concat();
            assert_eq!(length(&followed).unwrap(), Some(reply.len()));
            for cut in 0..reply.len() {
                assert_eq!(length(&reply[..cut]).unwrap(), None, "{cut}");
            }
        }
    }

    #[test]
    fn what_is_no_reply_or_too_long_is_an_error_and_not_waited_for() {
        let long = [&b"+"[..], &[b'x'; 70_000]].concat();
        let deep = b"*1\r\n".repeat(10);
        let many = [&b"*9\r\n"[..], &b"$60000\r\n".repeat(2)].concat();
        for bytes in [
            &b"\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\n",
            b":1\n",
            b"$-2\r\n",
            b"$70000\r\n",
            b"$+1x\r\n",
            b"$9223372036854775807\r\n",
            b"*9223372036854775807\r\n",
            b"?secret\r\n",
            &long,
            &deep,
        ] {
            let error = length(bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert_eq!(error.to_string(), "this is no Redis reply");
        }
        assert_eq!(
            length(&many).unwrap(),
            None,
            "the first of them is not here"
        );
    }

    proptest! {
        #[test]
        fn what_is_split_is_what_the_parser_reads(bytes in "[*$:+-]([0-9]{1,2}|-[01])?(\r\n|[ab]|[*$:+-][0-9]){0,12}") {
            same_as_the_parser(bytes.as_bytes());
        }
    }

    /// The parser takes as many bytes as were split off, and finds an end where there is one.
    fn same_as_the_parser(bytes: &[u8]) {
        let mut rest = bytes;
        let value = Parser::default().reply(&mut rest);
        let taken = bytes.len() - rest.len();
        match (length(bytes), value) {
            (Ok(Some(length)), Ok(_)) => assert_eq!(length, taken),
            (Ok(None), Ok(value)) => panic!("{value:?} was not split off"),
            (Err(_), Ok(value)) => panic!("{value:?} was refused"),
            // It ends, and the parser does not like what is in it.
            (_, Err(_)) => {}
        }
    }
}
