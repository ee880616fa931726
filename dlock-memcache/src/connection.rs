//! The few commands of memcached's meta protocol that locks need.
//!
//! Requests are text on a socket with the call's deadline; [`wire`](crate::wire) reads the
//! answers. A name gets into a request only as a [`Key`], so it cannot inject a command.

use std::thread;
use std::time::Duration;

use dlock_core::{Clock, DatastoreError, Finding, Time};
use dlock_net::{Link, Socket, Transport, Wire, may_have_executed, nothing_was_done};

use crate::findings;
use crate::handshake::read_stats;
use crate::incarnations::{Facts, Incarnations};
use crate::operations::commands::{Commands, Deleted, Item, Key, Replacement, Stored};
use crate::operations::incarnation::Incarnation;
use crate::wire::{
    self, push_add, push_delete, push_delete_unconditionally, push_get, push_replace,
};

/// One connection to a memcached server, which knows the incarnation of the server.
#[derive(Debug)]
pub struct Connection<S: Transport = Socket> {
    wire: Wire<S>,
    /// Its memory is kept from call to call.
    request: Vec<u8>,
    server: Facts,
}

impl<S: Transport> Link for Connection<S> {
    fn set_deadline(&mut self, deadline: Time) {
        self.wire.set_deadline(deadline);
    }

    fn is_usable(&mut self) -> bool {
        self.server.are_latest() && self.wire.is_usable()
    }
}

impl<S: Transport> Connection<S> {
    /// Finds out which incarnation of the server `wire` leads to, and whether it can keep locks.
    pub(crate) fn handshake(
        mut wire: Wire<S>,
        incarnations: Incarnations,
    ) -> Result<Self, DatastoreError> {
        let asked = Clock::BOOTTIME.now();
        let stats = read_stats(&mut wire)?;
        let (incarnation, may_grant) = stats.incarnation(wire.peer())?;
        let number = incarnations.reached(incarnation, asked, Clock::BOOTTIME.now());
        stats.check(wire.peer())?;
        Ok(Connection {
            wire,
            request: Vec::new(),
            server: Facts {
                incarnation,
                may_grant,
                number,
                incarnations,
            },
        })
    }

    /// Gives the connection away, between two calls; `None` if something has arrived that was not
    /// asked for.
    #[cfg(feature = "tokio")]
    pub(crate) fn into_parts(self) -> Option<(S, String, Facts)> {
        let peer = self.wire.peer().to_owned();
        Some((self.wire.into_transport()?, peer, self.server))
    }

    /// Asks the server again for its statistics, and says what endangers locks in it.
    ///
    /// # Errors
    ///
    /// Not executed.
    pub(crate) fn findings(&mut self) -> Result<Vec<Finding>, DatastoreError> {
        let before = findings::unix_now();
        let stats = read_stats(&mut self.wire)?;
        let asked = before..=findings::unix_now();
        Ok(findings::of(&stats, self.wire.peer(), &asked))
    }

    /// Asks the server again how long it has been up.
    fn ask_age(&mut self) -> Result<(), DatastoreError> {
        let asked = self.now();
        let learned = read_stats(&mut self.wire)?.incarnation(self.wire.peer())?;
        self.server.learn(learned, asked);
        Ok(())
    }
}

impl<S: Transport> Commands for Connection<S> {
    #[inline]
    fn now(&self) -> Time {
        Clock::BOOTTIME.now()
    }

    fn time_left(&mut self) -> Duration {
        self.now().until(self.wire.deadline())
    }

    fn peer(&self) -> &str {
        self.wire.peer()
    }

    #[inline]
    fn incarnation(&self) -> Incarnation {
        self.server.incarnation
    }

    #[inline]
    fn leads_to_several(&self) -> bool {
        self.server.incarnations.are_of_several()
    }

    #[inline]
    async fn may_grant(&mut self) -> Result<bool, DatastoreError> {
        if !self.server.may_grant {
            self.ask_age()?;
        }
        Ok(self.server.may_grant)
    }

    async fn pause(&mut self, time: Duration) {
        thread::sleep(time);
    }

    #[inline]
    async fn add(
        &mut self,
        key: Key<'_>,
        seconds: u32,
        value: &str,
    ) -> Result<Stored, DatastoreError> {
        self.request.clear();
        push_add(&mut self.request, key, seconds, value);
        self.wire.send(&self.request)?;
        wire::stored(&mut self.wire)
    }

    async fn replace(&mut self, replacement: &Replacement<'_>) -> Result<Stored, DatastoreError> {
        self.request.clear();
        push_replace(&mut self.request, replacement);
        self.wire.send(&self.request)?;
        wire::stored(&mut self.wire)
    }

    async fn replace_many(
        &mut self,
        replacements: &[Replacement<'_>],
    ) -> Result<Vec<Result<Stored, DatastoreError>>, DatastoreError> {
        self.request.clear();
        for replacement in replacements {
            push_replace(&mut self.request, replacement);
        }
        self.wire.send(&self.request).map_err(may_have_executed)?;
        wire::many_stored(&mut self.wire, replacements.len())
    }

    #[inline]
    async fn delete(&mut self, key: Key<'_>, cas: u64) -> Result<Deleted, DatastoreError> {
        self.request.clear();
        push_delete(&mut self.request, key, cas);
        self.wire.send(&self.request)?;
        wire::deleted(&mut self.wire)
    }

    async fn delete_unconditionally(&mut self, key: Key<'_>) -> Result<(), DatastoreError> {
        self.request.clear();
        push_delete_unconditionally(&mut self.request, key);
        self.wire.send(&self.request)?;
        wire::acknowledged(&mut self.wire)
    }

    async fn get(&mut self, key: Key<'_>) -> Result<Option<Item>, DatastoreError> {
        self.request.clear();
        push_get(&mut self.request, key);
        self.wire
            .send(&self.request)
            .and_then(|()| wire::item(&mut self.wire))
            .map_err(nothing_was_done)
    }

    async fn get_many(
        &mut self,
        keys: &[Key<'_>],
    ) -> Result<Vec<Result<Option<Item>, DatastoreError>>, DatastoreError> {
        self.request.clear();
        for key in keys {
            push_get(&mut self.request, *key);
        }
        let answers = self
            .wire
            .send(&self.request)
            .and_then(|()| wire::many_items(&mut self.wire, keys.len()))
            .map_err(nothing_was_done)?;
        let answers = answers.into_iter();
        Ok(answers
            .map(|answer| answer.map_err(nothing_was_done))
            .collect())
    }
}
