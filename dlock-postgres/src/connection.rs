//! One connection: a statement is one request and one reply.

use std::fmt;
use std::io::{self, BufRead};
use std::mem;
use std::time::Duration;

use bytes::BytesMut;
use dlock_core::{Clock, DatastoreError, ErrorKind, Time};
use dlock_net::{Link, NetError, ServerClock, Transport, Wire, failed_before_sending};
use dlock_net::{deadline_in, may_have_executed, nothing_was_done};

use crate::config::Login;
use crate::handshake;
use crate::operations::{Answer, Call, Hello};
use crate::statements::Statements;
use crate::tls::Channel;
use crate::wire::{self, Reply};

/// The part of a call that it may wait for a row which another transaction has locked. So there is
/// time for the answer, which says that nothing was done.
const WAIT_EIGHTHS: u32 = 7;
/// A message that has begun to arrive is here soon, or the connection is broken.
const WHOLE_MESSAGE_WITHIN: Duration = Duration::from_secs(2);

/// One open connection to a server, logged in.
///
/// It is here for [`r2d2`](crate::r2d2) pools; there is nothing to do with one but to give it to a
/// [`PostgresDatastore`](crate::PostgresDatastore).
pub struct Connection<S: Transport = Box<dyn Transport>> {
    wire: Wire<S>,
    /// Its memory is kept from call to call.
    request: BytesMut,
    server: Server,
    /// The number of the server's process, if this leads to it directly.
    backend: i32,
    /// What was notified and not taken yet.
    notified: Vec<String>,
}

/// What a connection knows of its server.
#[derive(Debug, Default)]
pub(crate) struct Server {
    clock: ServerClock,
    statements: Statements,
}

impl Server {
    /// Writes the request of a call that ends at `deadline`.
    pub(crate) fn write(
        &self,
        request: &mut BytesMut,
        call: &Call<'_>,
        deadline: Time,
    ) -> io::Result<()> {
        let left = Clock::BOOTTIME.now().until(deadline);
        let parameters = call.parameters(self.clock.at(deadline), left / 8 * WAIT_EIGHTHS);
        self.statements.push(request, call.statement(), &parameters)
    }

    /// Reads the reply to it; `None` if the call must be made again.
    pub(crate) fn read(
        &mut self,
        call: &Call<'_>,
        reply: Reply,
    ) -> Result<Option<Answer>, DatastoreError> {
        if self.statements.learn(call.statement(), &reply) {
            return Ok(None);
        }
        let (answer, now) = call.read(&reply?)?;
        self.clock.learn(now);
        Ok(Some(answer))
    }
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
        let backend = handshake::log_in(&mut wire, login, channel)?;
        Ok(Connection {
            wire,
            request: BytesMut::new(),
            server: Server::default(),
            backend,
            notified: Vec::new(),
        })
    }

    /// Logs in, and finds out what the server is. One that takes no writes is refused.
    pub(crate) fn ready(
        wire: Wire<S>,
        login: &Login,
        channel: Channel,
    ) -> Result<Self, DatastoreError> {
        let mut connection = Self::logged_in(wire, login, channel)?;
        let rows = connection.hello().map_err(nothing_was_done)?;
        let hello = Hello::read(&rows).map_err(nothing_was_done)?;
        connection.server.clock.learn(Some(hello.now));
        let is_direct = connection.is_direct_to(hello.backend);
        connection.server.statements = Statements::of_connection(is_direct);
        hello.check(connection.wire.peer())?;
        // With one snapshot for a whole call, a function that has waited for a row would not see
        // what became of it, nor who began to wait. A pooler would give the setting to somebody
        // else.
        if is_direct && !hello.is_read_committed {
            let set = "SET default_transaction_isolation = 'read committed'";
            connection.run(set).map_err(nothing_was_done)?;
        }
        Ok(connection)
    }

    fn hello(&mut self) -> Result<Vec<wire::Row>, DatastoreError> {
        self.request.clear();
        wire::push_statement(&mut self.request, Hello::SQL, &[])
            .map_err(|error| self.unsent(error))?;
        Ok(self.reply()??)
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
        loop {
            self.request.clear();
            let deadline = self.wire.deadline();
            let written = self.server.write(&mut self.request, call, deadline);
            written.map_err(|error| self.unsent(error))?;
            let reply = self.reply()?;
            if let Some(answer) = self.server.read(call, reply)? {
                return Ok(answer);
            }
        }
    }

    /// Sends the request and reads the reply.
    fn reply(&mut self) -> Result<Reply, DatastoreError> {
        self.wire.send(&self.request)?;
        wire::read_reply(&mut self.wire, &mut self.notified)
    }

    /// Runs a script of statements.
    pub(crate) fn run(&mut self, script: &str) -> Result<(), DatastoreError> {
        self.request.clear();
        wire::push_script(&mut self.request, script).map_err(|error| self.unsent(error))?;
        self.wire.send(&self.request).map_err(may_have_executed)?;
        wire::read_reply(&mut self.wire, &mut self.notified)??;
        Ok(())
    }

    /// Returns whether this connection has the server's process with this number for itself. Behind
    /// a pooler it has not.
    pub(crate) fn is_direct_to(&self, backend: i32) -> bool {
        self.backend == backend
    }

    /// Listens to the messages of this channel, a lower-case identifier, as long as it is open.
    pub(crate) fn listen(&mut self, channel: &str) -> Result<(), DatastoreError> {
        self.run(&format!("LISTEN {channel}"))
    }

    /// The messages that have arrived, or that arrive by `until`: then the first of them.
    ///
    /// # Errors
    ///
    /// If the connection is no good any more.
    pub(crate) fn notified(&mut self, until: Time) -> Result<Vec<String>, DatastoreError> {
        if self.notified.is_empty() {
            self.wire.set_deadline(until);
            // Without taking anything: a message that has begun is not torn by the end of this
            // wait.
            match self.wire.fill_buf().map(drop) {
                Ok(()) => {
                    self.wire.set_deadline(deadline_in(WHOLE_MESSAGE_WITHIN));
                    let message = wire::read_notification(&mut self.wire)?;
                    self.notified.extend(message);
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(self.wire.failed(error)),
            }
        }
        Ok(mem::take(&mut self.notified))
    }

    fn unsent(&self, error: io::Error) -> DatastoreError {
        unsent(self.wire.peer(), error)
    }

    /// Gives the connection away, between two calls; `None` if something has arrived that was not
    /// asked for.
    #[cfg(feature = "tokio")]
    pub(crate) fn into_parts(self) -> Option<(S, String, Server)> {
        let peer = self.wire.peer().to_owned();
        Some((self.wire.into_transport()?, peer, self.server))
    }
}

/// The error of a call with a NUL in a text, which PostgreSQL does not have.
pub(crate) fn unsent(peer: &str, error: io::Error) -> DatastoreError {
    let error = NetError::new(peer, "write the request", error);
    match failed_before_sending(error) {
        error if error.kind() == ErrorKind::Invalid => error,
        error => DatastoreError::not_executed(ErrorKind::Invalid, error),
    }
}

impl<S: Transport> fmt::Debug for Connection<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("wire", &self.wire)
            .finish_non_exhaustive()
    }
}
