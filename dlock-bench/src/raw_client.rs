//! The cheapest possible client: it sends prepared bytes through dlock's pool and reads the reply
//! to its end.

use std::net::SocketAddr;
use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind, Time};
use dlock_net::{Connect, Endpoint, Link, Pool, PoolSettings, Socket, Wire, deadline_in};

/// No reply here has a longer line.
const LONGEST_LINE: usize = 1024;
/// dlock's default.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Checks a reply.
pub(crate) type Expected = fn(&[u8]) -> bool;

/// Returns whether a reply is the one to a PING.
pub(crate) fn is_pong(reply: &[u8]) -> bool {
    reply == b"PONG"
}

/// A pool of connections to one server.
pub(crate) struct RawClient(Pool<Manager>);

impl RawClient {
    pub(crate) fn to(server: SocketAddr, connections: u32) -> Result<Self, crate::Failure> {
        let settings = PoolSettings::default().with_max_size(connections);
        Ok(RawClient(Pool::new(
            Manager(server.to_string().parse()?),
            settings,
        )))
    }

    /// Sends a request to Redis. Its reply, or the first element of its reply, must pass
    /// `expected`.
    pub(crate) fn redis(&self, request: &[u8], expected: Expected) -> Result<(), DatastoreError> {
        self.0
            .call(deadline_in(CALL_TIMEOUT), |Connection(wire), _| {
                wire.send(request)?;
                let (mut left, mut is_expected) = (1, None);
                while left > 0 {
                    let line = wire.line(LONGEST_LINE)?;
                    left -= 1;
                    match line.split_first() {
                        Some((b'*', count)) => left += number(count)?,
                        Some((b'$', length)) => {
                            let length = number(length)?;
                            let text = &wire.exactly(length + 2)?[..length];
                            is_expected.get_or_insert(expected(text));
                        }
                        Some((_, text)) => {
                            is_expected.get_or_insert(expected(text));
                        }
                        None => return Err(unexpected("an empty line")),
                    }
                }
                wire.finish();
                match is_expected {
                    Some(true) => Ok(()),
                    _ => Err(unexpected("a reply other than the expected one")),
                }
            })
    }

    /// Sends a request to memcached whose answer is one line, and parses that line.
    pub(crate) fn memcached<T>(
        &self,
        request: &[u8],
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, DatastoreError> {
        self.0
            .call(deadline_in(CALL_TIMEOUT), |Connection(wire), _| {
                wire.send(request)?;
                let answer = read(wire.line(LONGEST_LINE)?);
                wire.finish();
                answer.ok_or_else(|| unexpected("an answer other than the expected one"))
            })
    }
}

/// A request in the wire format of Redis.
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
    number.ok_or_else(|| unexpected("no length"))
}

fn unexpected(what: &'static str) -> DatastoreError {
    DatastoreError::maybe_executed(ErrorKind::Protocol, what)
}

/// A connection without a handshake.
struct Connection(Wire<Socket>);

impl Link for Connection {
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
    type Link = Connection;

    fn connect(&self, deadline: Time) -> Result<Connection, DatastoreError> {
        let socket = Socket::connect(&self.0, deadline)?;
        Ok(Connection(Wire::new(socket, &self.0)))
    }
}

dlock_net::impl_manage_connection!(Manager);
