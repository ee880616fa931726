//! What goes over the wire (RESP 2): a request is a list of words, a reply is a value.
//!
//! The redis crate's own would break the bound on the instructions of a pair, 12 060: with its
//! `Cmd`, whose buffers were kept, a pair took 15 066 instead of 12 097, and with its `Parser`
//! 25 464. That parser also has no limit for a reply, and keeps to itself what arrives after one.

#[cfg(any(test, fuzzing, feature = "tokio"))]
pub(crate) mod frame;

use std::io::{self, BufRead, Read, Take};

use redis::Value;

/// No reply that we ask for comes near it. What is no Redis server could fill the memory.
pub(crate) const LONGEST_REPLY: u64 = 64 * 1024;

/// Lists within lists; our scripts answer plain ones.
pub(crate) const DEEPEST: u32 = 8;

/// Requests under construction. Their memory is kept, so that a warm one allocates nothing.
#[derive(Default)]
pub(crate) struct Requests(Vec<u8>);

impl Requests {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Goes on where `bytes` end, and gives them its own.
    #[cfg(feature = "tokio")]
    pub(crate) fn swap(&mut self, bytes: &mut Vec<u8>) {
        std::mem::swap(&mut self.0, bytes);
    }

    /// Begins a request of this number of words.
    pub(crate) fn begin(&mut self, words: usize) {
        self.line(b'*', words);
    }

    /// Adds one word, of parts that are put together.
    pub(crate) fn word(&mut self, parts: &[&str]) {
        self.line(b'$', parts.iter().map(|part| part.len()).sum());
        for part in parts {
            self.0.extend_from_slice(part.as_bytes());
        }
        self.0.extend_from_slice(b"\r\n");
    }

    /// Adds a number as a word.
    pub(crate) fn number(&mut self, number: u64) {
        self.word(&[itoa::Buffer::new().format(number)]);
    }

    /// Adds words that were packed before.
    pub(crate) fn words(&mut self, packed: &Requests) {
        self.packed(&packed.0);
    }

    /// Adds words as bytes, which were packed before.
    pub(crate) fn packed(&mut self, words: &[u8]) {
        self.0.extend_from_slice(words);
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Nearly all lengths have one or two digits. A line of known size is written in one piece.
    fn line(&mut self, kind: u8, length: usize) {
        match length {
            0..10 => {
                let line = [kind, digit(length), b'\r', b'\n'];
                self.0.extend_from_slice(&line);
            }
            10..100 => {
                let line = [kind, digit(length / 10), digit(length % 10), b'\r', b'\n'];
                self.0.extend_from_slice(&line);
            }
            _ => {
                self.0.push(kind);
                let mut digits = itoa::Buffer::new();
                self.0.extend_from_slice(digits.format(length).as_bytes());
                self.0.extend_from_slice(b"\r\n");
            }
        }
    }
}

/// The character of a number below ten.
fn digit(number: usize) -> u8 {
    b"0123456789"[number % 10]
}

/// Reads replies. It holds nothing of what comes after one.
#[derive(Default)]
pub(crate) struct Parser {
    // Kept, so that a warm one allocates nothing for a line.
    line: Vec<u8>,
}

impl Parser {
    /// Reads one reply.
    ///
    /// # Errors
    ///
    /// That of the reader; [`io::ErrorKind::InvalidData`], without a word of what was read, if it
    /// is no reply.
    pub(crate) fn reply(&mut self, reader: impl BufRead) -> io::Result<Value> {
        self.reply_within(reader, LONGEST_REPLY)
    }

    /// The same for one that may be longer.
    ///
    /// # Errors
    ///
    /// As [`reply`](Self::reply).
    pub(crate) fn reply_within(&mut self, reader: impl BufRead, longest: u64) -> io::Result<Value> {
        self.value(&mut reader.take(longest), DEEPEST)
    }

    fn value(&mut self, reader: &mut Take<impl BufRead>, deepest: u32) -> io::Result<Value> {
        self.line.clear();
        reader.read_until(b'\n', &mut self.line)?;
        let line = self.line.strip_suffix(b"\r\n");
        let Some((kind, text)) = line.and_then(<[u8]>::split_first) else {
            return Err(no_reply());
        };
        let number = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok());
        match (*kind, number) {
            // Errors and the like, which are few.
            (b'+' | b'-', _) => redis::parse_redis_value(&self.line).map_err(|_| no_reply()),
            (b':', Some(number)) => Ok(Value::Int(number)),
            (b'$' | b'*', Some(-1)) => Ok(Value::Nil),
            (b'$', Some(length)) => string(reader, length),
            (b'*', Some(length)) if deepest > 0 => {
                let values =
                    (0..in_reach(reader, length)?).map(|_| self.value(reader, deepest - 1));
                values.collect::<io::Result<_>>().map(Value::Array)
            }
            _ => Err(no_reply()),
        }
    }
}

fn string(reader: &mut Take<impl BufRead>, length: i64) -> io::Result<Value> {
    let length = in_reach(reader, length)?;
    let mut string = vec![0; length + 2];
    reader.read_exact(&mut string)?;
    if !string.ends_with(b"\r\n") {
        return Err(no_reply());
    }
    string.truncate(length);
    Ok(Value::BulkString(string))
}

/// A length that a reply of bearable size can have.
fn in_reach<R>(reader: &Take<R>, length: i64) -> io::Result<usize> {
    usize::try_from(length)
        .ok()
        .filter(|length| length.saturating_add(2) as u64 <= reader.limit())
        .ok_or_else(no_reply)
}

/// Without what was read: the server may repeat a secret.
pub(crate) fn no_reply() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "this is no Redis reply")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    #[test]
    fn a_length_has_as_many_digits_as_it_needs() {
        for length in [0, 1, 9, 10, 11, 99, 100, 101, 999, 1000, 12_345] {
            let (mut ours, text) = (Requests::default(), "x".repeat(length));
            ours.begin(length);
            ours.word(&[&text]);
            let expected = format!("*{length}\r\n${length}\r\n{text}\r\n");
            assert_eq!(ours.bytes(), expected.as_bytes());
        }
    }

    #[test]
    fn the_redis_crate_writes_the_same() {
        let (mut ours, mut packed) = (Requests::default(), Requests::default());
        let (mut cmd, mut theirs) = (redis::Cmd::new(), Vec::new());
        packed.word(&["packed before"]);
        let numbers = [0, 9, 10, 99, 100, 1_764_000_271_000_123, u64::MAX];
        for _ in 0..2 {
            ours.begin(4 + numbers.len());
            ours.word(&["EVALSHA"]);
            ours.word(&["{", "dlock:x", "}:", "fence"]);
            ours.word(&[]);
            ours.words(&packed);
            cmd.clear();
            cmd.arg("EVALSHA").arg("{dlock:x}:fence").arg("");
            cmd.arg("packed before");
            for number in numbers {
                ours.number(number);
                cmd.arg(number);
            }
            cmd.write_packed_command(&mut theirs);
        }
        assert_eq!(ours.bytes(), theirs);
        ours.clear();
        assert!(ours.bytes().is_empty());
    }

    fn read(bytes: &[u8]) -> io::Result<Value> {
        Parser::default().reply(bytes)
    }

    const LIST: &[u8] = b"*5\r\n$7\r\ngranted\r\n:-12\r\n$-1\r\n*0\r\n$4\r\na\r\nb\r\n";

    #[test]
    fn a_reply_is_the_same_however_it_arrives_and_what_follows_is_left() {
        for size in 1..LIST.len() {
            let both = [LIST, b":7\r\n"].concat();
            let mut reader = BufReader::with_capacity(size, &*both);
            let mut parser = Parser::default();
            let list = parser.reply(&mut reader).unwrap();
            let Value::Array(values) = list else {
                panic!("{list:?}")
            };
            let string = |text: &str| Value::BulkString(text.into());
            let (nil, empty) = (Value::Nil, Value::Array(Vec::new()));
            assert_eq!(
                values,
                [
                    string("granted"),
                    Value::Int(-12),
                    nil,
                    empty,
                    string("a\r\nb")
                ]
            );
            assert_eq!(parser.reply(&mut reader).unwrap(), Value::Int(7));
        }
    }

    #[test]
    fn the_redis_crate_reads_the_same() {
        for reply in [
            LIST,
            b"+OK\r\n",
            b"+PONG\r\n",
            b":0\r\n",
            b":9223372036854775807\r\n",
            b"$0\r\n\r\n",
            b"*-1\r\n",
            b"-NOSCRIPT No matching script.\r\n",
            b"-ERR\r\n",
            b"*1\r\n-ERR inside\r\n",
        ] {
            let theirs = redis::parse_redis_value(reply).unwrap();
            assert_eq!(read(reply).unwrap(), theirs, "{}", reply.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error_that_does_not_repeat_it() {
        let long = [&b"+"[..], &[b'x'; 70_000], b"\r\n"].concat();
        let deep = b"*1\r\n".repeat(100);
        for bytes in [
            &b"\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\n",
            b":\r\n",
            b":1\n",
            b":1x\r\n",
            b"$-2\r\n",
            b"$3\r\nabcde",
            b"$70000\r\n",
            b"$9223372036854775807\r\n",
            b"*9223372036854775807\r\n",
            b"*-2\r\n",
            b"?secret\r\n",
            &long,
            &deep,
        ] {
            let error = read(bytes).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert_eq!(error.to_string(), "this is no Redis reply");
        }
    }

    #[test]
    fn a_string_that_ends_early_is_the_readers_error() {
        let error = read(b"$5\r\nab").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
