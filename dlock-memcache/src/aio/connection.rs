//! The commands of a conversation, over a connection that other calls share.

use std::time::Duration;

use dlock_core::{Clock, DatastoreError, ErrorKind, Time};
use dlock_net::mux::{Pinned, sleep_until};
use dlock_net::nothing_was_done;

use super::Opener;
use crate::handshake::Stats;
use crate::incarnations::Facts;
use crate::operations::commands::{Commands, Deleted, Item, Key, Replacement, Stored};
use crate::operations::incarnation::Incarnation;
use crate::wire::answers::is_in_step;
use crate::wire::shared::{Answer, Kind};
use crate::wire::{push_add, push_delete, push_delete_unconditionally, push_get, push_replace};

/// A connection for one conversation. All of its commands go over that connection, hence to one
/// incarnation of the server.
pub(super) struct SharedConnection<'a> {
    connection: &'a mut Pinned<Opener>,
    server: Facts,
}

impl<'a> SharedConnection<'a> {
    pub(super) fn on(connection: &'a mut Pinned<Opener>) -> Self {
        let server = connection.with_writer(|server| server.clone());
        SharedConnection { connection, server }
    }

    async fn ask(
        &mut self,
        kind: Kind,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Answer, DatastoreError> {
        let write = |_: &mut Facts, bytes: &mut Vec<u8>, _| {
            write(bytes);
            kind
        };
        self.connection.ask(write).await?
    }

    /// The answers to `count` requests that are sent together, as far as they arrived.
    async fn ask_many<T>(
        &mut self,
        count: usize,
        kind: Kind,
        write: impl Fn(usize, &mut Vec<u8>),
        read: impl Fn(Answer) -> Result<T, DatastoreError>,
    ) -> Result<Vec<Result<T, DatastoreError>>, DatastoreError> {
        let write = |at: usize, _: &mut Facts, bytes: &mut Vec<u8>, _| {
            write(at, bytes);
            kind
        };
        let replies = self.connection.ask_many(count, write).await;
        let mut answers = Vec::with_capacity(count);
        for reply in replies {
            let answer = match reply {
                Ok(answer) => answer.and_then(&read),
                Err(error) => Err(error),
            };
            let is_last = match &answer {
                // There was no answer at all: a dead connection, which can be replaced.
                Err(error) if answers.is_empty() && !is_in_step(error) => return Err(error.clone()),
                Err(error) => !is_in_step(error),
                Ok(_) => false,
            };
            answers.push(answer);
            if is_last {
                break;
            }
        }
        Ok(answers)
    }

    /// Asks the server again how long it has been up.
    async fn ask_age(&mut self) -> Result<(), DatastoreError> {
        let asked = self.now();
        let answer = self.ask(Kind::Stats, |bytes| bytes.extend_from_slice(b"stats\r\n"));
        let Answer::Stats(lines) = answer.await? else {
            return Err(of_another_kind());
        };
        let mut stats = Stats::default();
        for line in lines.lines() {
            // Each begins as it should; of those that say nothing there is nothing to take.
            let _ = stats.take_line(line);
        }
        let learned = stats.incarnation(self.connection.peer())?;
        self.server.learn(learned, asked);
        let learned = self.server.clone();
        self.connection.with_writer(|server| *server = learned);
        Ok(())
    }
}

impl Commands for SharedConnection<'_> {
    fn now(&self) -> Time {
        Clock::BOOTTIME.now()
    }

    fn time_left(&mut self) -> Duration {
        self.now().until(self.connection.deadline())
    }

    fn peer(&self) -> &str {
        self.connection.peer()
    }

    fn incarnation(&self) -> Incarnation {
        self.server.incarnation
    }

    fn leads_to_several(&self) -> bool {
        self.server.incarnations.are_of_several()
    }

    async fn may_grant(&mut self) -> Result<bool, DatastoreError> {
        if !self.server.may_grant {
            self.ask_age().await.map_err(nothing_was_done)?;
        }
        Ok(self.server.may_grant)
    }

    async fn pause(&mut self, time: Duration) {
        let end = self.now().saturating_add(time);
        if sleep_until(end).await.is_err() {
            // What comes after a pause must not come without it.
            self.connection.give_up();
        }
    }

    async fn add(
        &mut self,
        key: Key<'_>,
        seconds: u32,
        value: &str,
    ) -> Result<Stored, DatastoreError> {
        let write = |bytes: &mut Vec<u8>| push_add(bytes, key, seconds, value);
        self.ask(Kind::Stored, write).await?.stored()
    }

    async fn replace(&mut self, replacement: &Replacement<'_>) -> Result<Stored, DatastoreError> {
        let write = |bytes: &mut Vec<u8>| push_replace(bytes, replacement);
        self.ask(Kind::Stored, write).await?.stored()
    }

    async fn replace_many(
        &mut self,
        replacements: &[Replacement<'_>],
    ) -> Result<Vec<Result<Stored, DatastoreError>>, DatastoreError> {
        let write = |at: usize, bytes: &mut Vec<u8>| push_replace(bytes, &replacements[at]);
        // In order: if the first did not leave, neither did the others.
        self.ask_many(replacements.len(), Kind::Stored, write, Answer::stored)
            .await
    }

    async fn delete(&mut self, key: Key<'_>, cas: u64) -> Result<Deleted, DatastoreError> {
        let write = |bytes: &mut Vec<u8>| push_delete(bytes, key, cas);
        match self.ask(Kind::Deleted, write).await? {
            Answer::Deleted(deleted) => Ok(deleted),
            _ => Err(of_another_kind()),
        }
    }

    async fn delete_unconditionally(&mut self, key: Key<'_>) -> Result<(), DatastoreError> {
        let write = |bytes: &mut Vec<u8>| push_delete_unconditionally(bytes, key);
        match self.ask(Kind::Acknowledged, write).await? {
            Answer::Acknowledged => Ok(()),
            _ => Err(of_another_kind()),
        }
    }

    async fn get(&mut self, key: Key<'_>) -> Result<Option<Item>, DatastoreError> {
        let write = |bytes: &mut Vec<u8>| push_get(bytes, key);
        let answer = self.ask(Kind::Item, write).await;
        answer.and_then(Answer::item).map_err(nothing_was_done)
    }

    async fn get_many(
        &mut self,
        keys: &[Key<'_>],
    ) -> Result<Vec<Result<Option<Item>, DatastoreError>>, DatastoreError> {
        let write = |at: usize, bytes: &mut Vec<u8>| push_get(bytes, keys[at]);
        let answers = self
            .ask_many(keys.len(), Kind::Item, write, Answer::item)
            .await;
        let answers = answers.map_err(nothing_was_done)?.into_iter();
        Ok(answers
            .map(|answer| answer.map_err(nothing_was_done))
            .collect())
    }
}

impl Answer {
    fn stored(self) -> Result<Stored, DatastoreError> {
        match self {
            Answer::Stored(stored) => Ok(stored),
            _ => Err(of_another_kind()),
        }
    }

    fn item(self) -> Result<Option<Item>, DatastoreError> {
        match self {
            Answer::Item(item) => Ok(item),
            _ => Err(of_another_kind()),
        }
    }
}

/// The error of an answer that is not of the request's kind, which the reader never gives.
fn of_another_kind() -> DatastoreError {
    DatastoreError::maybe_executed(ErrorKind::Protocol, "an answer to another request")
}
