//! The few commands of memcached's meta protocol that locks need.
//!
//! Requests are text that goes over the socket which keeps the call's deadline; [`reply`](crate::reply) reads what comes back. A [`Key`] is all
//! of a name that gets there, so that none can be more than a name.

use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind, Time};
use dlock_net::{Link, Socket, Transport, Wire, nothing_was_done};
use memcache::exp::MAX_KEY_LENGTH;

use crate::error::Problem;
use crate::greeting::read_stats;
use crate::life::Life;
use crate::reply::{self, Deleted, Item, Stored};

/// One connection to a memcached server, which knows which life of the server it leads to.
#[derive(Debug)]
pub struct Connection {
    wire: Wire<Socket>,
    /// Its memory is kept from call to call.
    request: Vec<u8>,
    life: Life,
    /// Whether that life is old enough to grant.
    grown_up: bool,
}

impl Link for Connection {
    fn set_deadline(&mut self, deadline: Time) {
        self.wire.set_deadline(deadline);
    }

    fn is_usable(&mut self) -> bool {
        self.wire.is_usable()
    }
}

impl Connection {
    /// Finds out which life of the server is at the other end of `wire`, and whether it can keep locks.
    pub(crate) fn handshake(mut wire: Wire<Socket>) -> Result<Self, DatastoreError> {
        let stats = read_stats(&mut wire)?;
        let (life, grown_up) = stats.life(wire.peer())?;
        stats.check(wire.peer())?;
        Ok(Connection {
            wire,
            request: Vec::new(),
            life,
            grown_up,
        })
    }

    /// The life of the server that this connection leads to.
    pub(crate) fn life(&self) -> Life {
        self.life
    }

    /// Whether the life is old enough to grant; asks the server again if it was not.
    pub(crate) fn is_grown_up(&mut self) -> Result<bool, DatastoreError> {
        if !self.grown_up {
            (self.life, self.grown_up) = read_stats(&mut self.wire)?.life(self.wire.peer())?;
        }
        Ok(self.grown_up)
    }

    /// What is left of the call.
    pub(crate) fn time_left(&mut self) -> Duration {
        let deadline = self.wire.transport().deadline();
        deadline.left().unwrap_or(Duration::ZERO)
    }

    /// The server, as errors name it.
    pub(crate) fn peer(&self) -> &str {
        self.wire.peer()
    }

    /// Stores `value` unless the key is there.
    pub(crate) fn add(
        &mut self,
        key: Key<'_>,
        seconds: u32,
        value: &str,
    ) -> Result<Stored, DatastoreError> {
        self.request.clear();
        push_set(&mut self.request, key, None, seconds, value);
        self.wire.send(&self.request)?;
        reply::stored(&mut self.wire)
    }

    /// Stores `value` if the key's number is `cas`.
    pub(crate) fn replace(
        &mut self,
        key: Key<'_>,
        cas: u64,
        seconds: u32,
        value: &str,
    ) -> Result<Stored, DatastoreError> {
        self.request.clear();
        push_replace(&mut self.request, key, cas, seconds, value);
        self.wire.send(&self.request)?;
        reply::stored(&mut self.wire)
    }

    /// Sends the `count` requests that [`push_replace`] made. The answers come in order, as far as they came.
    pub(crate) fn replace_many(
        &mut self,
        requests: &[u8],
        count: usize,
    ) -> Result<Vec<Result<Stored, DatastoreError>>, DatastoreError> {
        self.wire
            .send(requests)
            .map_err(dlock_net::may_have_executed)?;
        reply::many_stored(&mut self.wire, count)
    }

    /// Deletes the key if its number is `cas`.
    pub(crate) fn delete(&mut self, key: Key<'_>, cas: u64) -> Result<Deleted, DatastoreError> {
        self.ask(&["md ", key.0, " C", itoa::Buffer::new().format(cas)])?;
        reply::deleted(&mut self.wire)
    }

    /// Deletes the key whatever its number is: for servers without such numbers.
    pub(crate) fn delete_unconditionally(&mut self, key: Key<'_>) -> Result<(), DatastoreError> {
        self.ask(&["md ", key.0])?;
        reply::acknowledged(&mut self.wire)
    }

    /// Reads the key; `None` if it is not there. An error means that nothing was done.
    pub(crate) fn get(&mut self, key: Key<'_>) -> Result<Option<Item>, DatastoreError> {
        self.ask(&["mg ", key.0, " v t c"])
            .and_then(|()| reply::item(&mut self.wire))
            .map_err(nothing_was_done)
    }

    fn ask(&mut self, line: &[&str]) -> Result<(), DatastoreError> {
        self.request.clear();
        push(&mut self.request, line);
        push(&mut self.request, &["\r\n"]);
        self.wire.send(&self.request)
    }
}

/// Appends the request of [`Connection::replace`], for [`Connection::replace_many`].
pub(crate) fn push_replace(
    requests: &mut Vec<u8>,
    key: Key<'_>,
    cas: u64,
    seconds: u32,
    value: &str,
) {
    push_set(requests, key, Some(cas), seconds, value);
}

/// In place of the record with the number `cas`, or where there is none.
fn push_set(requests: &mut Vec<u8>, key: Key<'_>, cas: Option<u64>, seconds: u32, value: &str) {
    let [mut length, mut number, mut time] = [itoa::Buffer::new(); 3];
    let (length, time) = (length.format(value.len()), time.format(seconds));
    push(requests, &["ms ", key.0, " ", length]);
    match cas {
        Some(cas) => push(requests, &[" C", number.format(cas)]),
        None => push(requests, &[" ME"]),
    }
    push(requests, &[" T", time, " c\r\n", value, "\r\n"]);
}

fn push(request: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        request.extend_from_slice(part.as_bytes());
    }
}

/// A key that is one word on the wire, and that memcached takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a>(&'a str);

impl<'a> Key<'a> {
    /// Refuses what would be more than a key: a line's end in it would begin a command.
    pub(crate) fn new(key: &'a str) -> Result<Self, DatastoreError> {
        let fits = (1..=MAX_KEY_LENGTH).contains(&key.len());
        if fits && key.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(Key(key));
        }
        Err(DatastoreError::not_executed(
            ErrorKind::Invalid,
            Problem::Key,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_more_than_a_key_are_refused() {
        for key in [
            "",
            "a b",
            "a\r\nflush_all",
            "a\0",
            "a\tb",
            "\u{7f}",
            "schlüssel",
            &"x".repeat(251),
        ] {
            let error = Key::new(key).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{key:?}");
            assert!(!error.may_have_executed());
        }
        Key::new(&"x".repeat(250)).unwrap();
        Key::new("dlock:hourly-import%20x").unwrap();
    }
}
