//! The least that a client can do: prepared bytes are sent through the pool that dlock uses, and the reply is read to its end.

use std::net::SocketAddr;
use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind, Time};
use dlock_net::{Connect, Endpoint, Link, Pool, PoolSettings, Socket, Wire, deadline_in};

/// No reply that is asked for here has a longer line.
const LONGEST_LINE: usize = 1024;
/// As dlock has it by default.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether a reply is the right one.
pub(crate) type Expected = fn(&[u8]) -> bool;

/// Whether a reply is the one to a PING.
pub(crate) fn is_pong(reply: &[u8]) -> bool {
    reply == b"PONG"
}

/// Connections to one server.
pub(crate) struct ByHand(Pool<Manager>);

impl ByHand {
    pub(crate) fn to(server: SocketAddr, connections: u32) -> Result<Self, crate::Failure> {
        let settings = PoolSettings::default().with_max_size(connections);
        Ok(ByHand(Pool::new(
            Manager(server.to_string().parse()?),
            settings,
        )))
    }

    /// Sends a request to Redis; its reply, or the first element of it, must be what is `expected`.
    pub(crate) fn redis(&self, request: &[u8], expected: Expected) -> Result<(), DatastoreError> {
        self.0.call(deadline_in(CALL_TIMEOUT), |Plain(wire)| {
            wire.send(request)?;
            let (mut left, mut seen) = (1, None);
            while left > 0 {
                let line = wire.line(LONGEST_LINE)?;
                left -= 1;
                match line.split_first() {
                    Some((b'*', count)) => left += number(count)?,
                    Some((b'$', length)) => {
                        let length = number(length)?;
                        let text = &wire.exactly(length + 2)?[..length];
                        seen.get_or_insert(expected(text));
                    }
                    Some((_, text)) => {
                        seen.get_or_insert(expected(text));
                    }
                    None => return Err(odd("an empty line")),
                }
            }
            wire.finish();
            match seen {
                Some(true) => Ok(()),
                _ => Err(odd("another reply than expected")),
            }
        })
    }

    /// Sends a request to memcached whose answer is one line, and looks at that.
    pub(crate) fn memcached<T>(
        &self,
        request: &[u8],
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, DatastoreError> {
        self.0.call(deadline_in(CALL_TIMEOUT), |Plain(wire)| {
            wire.send(request)?;
            let answer = read(wire.line(LONGEST_LINE)?);
            wire.finish();
            answer.ok_or_else(|| odd("another answer than expected"))
        })
    }
}

/// A request as Redis reads it.
pub(crate) fn packed(words: &[&str]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    request.into_bytes()
}

fn number(digits: &[u8]) -> Result<usize, DatastoreError> {
    let digits = std::str::from_utf8(digits).ok();
    let number = digits.and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| odd("no length"))
}

fn odd(what: &'static str) -> DatastoreError {
    DatastoreError::maybe_executed(ErrorKind::Protocol, what)
}

/// A connection without greeting.
struct Plain(Wire<Socket>);

impl Link for Plain {
    fn set_deadline(&mut self, deadline: Time) {
        self.0.set_deadline(deadline);
    }

    fn is_usable(&mut self) -> bool {
        self.0.is_usable()
    }
}

#[derive(Clone)]
struct Manager(Endpoint);

impl Connect for Manager {
    type Link = Plain;

    fn connect(&self, deadline: Time) -> Result<Plain, DatastoreError> {
        let socket = Socket::connect(&self.0, deadline)?;
        Ok(Plain(Wire::new(socket, &self.0)))
    }
}

dlock_net::impl_manage_connection!(Manager);
