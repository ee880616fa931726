//! The interface between a conversation with memcached and its connection.

use std::future::Future;
use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind, Time};
use memcache::exp::MAX_KEY_LENGTH;

use super::incarnation::Incarnation;
use crate::error::Problem;

/// The commands that locks need, on one connection, and all other inputs of a conversation.
///
/// A conversation is a plain `async fn` over this trait. It has no other input that differs from
/// run to run, so the same answers always lead to the same commands. A connection implements the
/// trait with futures that are ready at once.
pub trait Commands: Send {
    /// The time on the clock that the server's seconds are compared with. It is real time, even if
    /// a test gives the lease another clock.
    fn now(&self) -> Time;

    /// The remaining time of the call.
    fn time_left(&mut self) -> Duration;

    /// The server's name in errors.
    fn peer(&self) -> &str;

    /// The incarnation of the server that this connection leads to.
    fn incarnation(&self) -> Incarnation;

    /// Returns whether the address leads to more than one server.
    fn leads_to_several(&self) -> bool;

    /// Returns whether the incarnation has been up long enough to grant. Asks the server again if
    /// it had not been.
    fn may_grant(&mut self) -> impl Future<Output = Result<bool, DatastoreError>> + Send;

    /// Waits, within the call.
    fn pause(&mut self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Stores `value` unless the key is there.
    fn add(
        &mut self,
        key: Key<'_>,
        seconds: u32,
        value: &str,
    ) -> impl Future<Output = Result<Stored, DatastoreError>> + Send;

    /// Stores a value in place of another.
    fn replace(
        &mut self,
        replacement: &Replacement<'_>,
    ) -> impl Future<Output = Result<Stored, DatastoreError>> + Send;

    /// The same for many in one trip. The answers come in order, as far as they came.
    fn replace_many(
        &mut self,
        replacements: &[Replacement<'_>],
    ) -> impl Future<Output = Result<Vec<Result<Stored, DatastoreError>>, DatastoreError>> + Send;

    /// Deletes the key if its number is `cas`.
    fn delete(
        &mut self,
        key: Key<'_>,
        cas: u64,
    ) -> impl Future<Output = Result<Deleted, DatastoreError>> + Send;

    /// Deletes the key whatever its CAS number is, for servers without such numbers.
    fn delete_unconditionally(
        &mut self,
        key: Key<'_>,
    ) -> impl Future<Output = Result<(), DatastoreError>> + Send;

    /// Reads the key; `None` if it is not there. An error means that nothing was done.
    fn get(
        &mut self,
        key: Key<'_>,
    ) -> impl Future<Output = Result<Option<Item>, DatastoreError>> + Send;

    /// The same for many in one round trip. The answers are in order, as far as they arrived. An
    /// error means that nothing was done.
    fn get_many(
        &mut self,
        keys: &[Key<'_>],
    ) -> impl Future<Output = Result<Vec<Result<Option<Item>, DatastoreError>>, DatastoreError>> + Send;
}

/// A value that replaces another one if the key's CAS number is `cas`.
#[derive(Debug, Clone)]
pub struct Replacement<'a> {
    pub key: Key<'a>,
    pub cas: u64,
    pub seconds: u32,
    pub value: String,
}

/// A key that memcached accepts and that is one word on the wire.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a>(&'a str);

impl<'a> Key<'a> {
    /// Refuses a text that would be more than a key: the end of a line in it would begin a command.
    pub fn new(key: &'a str) -> Result<Self, DatastoreError> {
        let fits = (1..=MAX_KEY_LENGTH).contains(&key.len());
        if fits && key.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(Key(key));
        }
        Err(DatastoreError::not_executed(
            ErrorKind::Invalid,
            Problem::Key,
        ))
    }

    pub fn as_str(self) -> &'a str {
        self.0
    }
}

/// The answer to a store with a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Done. The record now has this CAS number.
    Done(u64),
    /// There is no such key.
    NotFound,
    /// The key has another CAS number, or, for an add, the key exists.
    Other,
}

/// The answer to a delete with a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    Done,
    NotFound,
    Other,
}

/// The value of a key.
#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    /// Empty if it is too long for a record of dlock.
    pub value: Vec<u8>,
    /// `None`: for ever.
    pub seconds: Option<u32>,
    pub cas: u64,
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
