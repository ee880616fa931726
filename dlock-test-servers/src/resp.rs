//! The part of the Redis protocol that tests need to control their server: one command, one reply.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A server that does not answer for this long is stopped, or lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a Redis server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// A string or a status.
    Text(String),
    /// A number.
    Integer(i64),
    /// No such thing.
    Nil,
    /// A list of replies.
    List(Vec<Reply>),
    /// An error, with its code: `ERR syntax error`.
    Error(String),
}

impl Reply {
    /// The text of a string or a status, or the digits of a number; `None` for the rest.
    pub fn text(&self) -> Option<String> {
        match self {
            Reply::Text(text) => Some(text.clone()),
            Reply::Integer(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The number; `None` for the rest.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Reply::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

/// A connection for looking after a server, through its Unix socket.
pub(super) struct Control(BufReader<UnixStream>);

impl Control {
    pub(super) fn open(socket: &Path, password: Option<&str>) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut control = Control(BufReader::new(stream));
        if let Some(password) = password {
            control.call(&["AUTH", password])?;
        }
        Ok(control)
    }

    pub(super) fn call(&mut self, words: &[&str]) -> io::Result<Reply> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(request.as_bytes())?;
        self.reply()
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(odd)?;
        match kind {
            "+" => Ok(Reply::Text(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => Ok(Reply::Integer(rest.parse().map_err(|_| odd())?)),
            "$" => match rest.parse::<usize>() {
                Ok(length) => self.bulk(length),
                Err(_) => Ok(Reply::Nil),
            },
            "*" => match rest.parse::<usize>() {
                Ok(length) => (0..length)
                    .map(|_| self.reply())
                    .collect::<io::Result<_>>()
                    .map(Reply::List),
                Err(_) => Ok(Reply::Nil),
            },
            _ => Err(odd()),
        }
    }

    fn bulk(&mut self, length: usize) -> io::Result<Reply> {
        let mut bytes = vec![0; length + 2];
        self.0.read_exact(&mut bytes)?;
        bytes.truncate(length);
        Ok(Reply::Text(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no Redis reply")
}
