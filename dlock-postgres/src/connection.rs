//! One connection: a statement is one request and one reply.

use std::fmt;

use bytes::BytesMut;
use dlock_core::{Clock, DatastoreError, ErrorKind, Time};
use dlock_net::{Link, NetError, ServerClock, Transport, Wire, failed_before_sending};
use dlock_net::{may_have_executed, nothing_was_done};

use crate::config::Login;
use crate::handshake;
use crate::operations::{Answer, Call, Hello};
use crate::tls::Channel;
use crate::wire::{self, Row};

/// The part of a call that it may wait for a row which another transaction has locked. So there is
/// time for the answer, which says that nothing was done.
const WAIT_EIGHTHS: u32 = 7;

/// One open connection to a server, logged in.
///
/// It is here for [`r2d2`](crate::r2d2) pools; there is nothing to do with one but to give it to a
/// [`PostgresDatastore`](crate::PostgresDatastore).
pub struct Connection<S: Transport = Box<dyn Transport>> {
    wire: Wire<S>,
    /// Its memory is kept from call to call.
    request: BytesMut,
    clock: ServerClock,
}

impl<S: Transport> Link for Connection<S> {
    fn set_deadline(&mut self, deadline: Time) {
        self.wire.set_deadline(deadline);
    }

    fn is_usable(&mut self) -> bool {
        self.wire.is_usable()
    }
}

impl<S: Transport> Connection<S> {
    /// Logs in.
    pub(crate) fn logged_in(
        mut wire: Wire<S>,
        login: &Login,
        channel: Channel,
    ) -> Result<Self, DatastoreError> {
        handshake::log_in(&mut wire, login, channel)?;
        Ok(Connection {
            wire,
            request: BytesMut::new(),
            clock: ServerClock::default(),
        })
    }

    /// Logs in, and finds out what the server is. One that takes no writes is refused.
    pub(crate) fn ready(
        wire: Wire<S>,
        login: &Login,
        channel: Channel,
    ) -> Result<Self, DatastoreError> {
        let mut connection = Self::logged_in(wire, login, channel)?;
        let rows = connection.rows(Hello::SQL, &[]).map_err(nothing_was_done)?;
        let hello = Hello::read(&rows).map_err(nothing_was_done)?;
        connection.clock.learn(Some(hello.now));
        hello.check(connection.wire.peer())?;
        Ok(connection)
    }

    /// Makes a call.
    pub(crate) fn call(&mut self, call: &Call<'_>) -> Result<Answer, DatastoreError> {
        let answer = self.call_once(call)?;
        // What we knew of the server's clock was old, and there is time yet.
        if matches!(answer, Answer::TooLate) && Clock::BOOTTIME.now() < self.wire.deadline() {
            return self.call_once(call);
        }
        Ok(answer)
    }

    fn call_once(&mut self, call: &Call<'_>) -> Result<Answer, DatastoreError> {
        let deadline = self.wire.deadline();
        let left = Clock::BOOTTIME.now().until(deadline);
        let not_after = self.clock.at(deadline);
        let parameters = call.parameters(not_after, left / 8 * WAIT_EIGHTHS);
        let parameters: Vec<&str> = parameters.iter().map(AsRef::as_ref).collect();
        let rows = self.rows(call.sql(), &parameters)?;
        let (answer, now) = call.read(&rows)?;
        self.clock.learn(now);
        Ok(answer)
    }

    fn rows(&mut self, sql: &str, parameters: &[&str]) -> Result<Vec<Row>, DatastoreError> {
        self.request.clear();
        wire::push_statement(&mut self.request, sql, parameters)
            .map_err(|error| self.unsent(error))?;
        self.wire.send(&self.request)?;
        Ok(wire::read_reply(&mut self.wire)??)
    }

    /// Runs a script of statements.
    pub(crate) fn run(&mut self, script: &str) -> Result<(), DatastoreError> {
        self.request.clear();
        wire::push_script(&mut self.request, script).map_err(|error| self.unsent(error))?;
        self.wire.send(&self.request).map_err(may_have_executed)?;
        wire::read_reply(&mut self.wire)??;
        Ok(())
    }

    /// A text with a NUL, which PostgreSQL does not have.
    fn unsent(&self, error: std::io::Error) -> DatastoreError {
        let error = NetError::new(self.wire.peer(), "write the request", error);
        match failed_before_sending(error) {
            error if error.kind() == ErrorKind::Invalid => error,
            error => DatastoreError::not_executed(ErrorKind::Invalid, error),
        }
    }
}

impl<S: Transport> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("wire", &self.wire)
            .finish_non_exhaustive()
    }
}
