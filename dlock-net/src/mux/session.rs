//! A call of several requests, all of them over one connection.

use std::io;
use std::mem;
use std::sync::Arc;

use dlock_core::aio::is_polled_by_drop;
use dlock_core::{Clock, DatastoreError, ErrorKind, Time};

use super::call::{Call, lost};
use super::connection::{Receiver, Until, error_of};
use super::multiplexer::Multiplexer;
use super::protocol::{Open, Replies, Sending};
use super::queue::{Failure, Reason};
use super::table::Shares;
use crate::repeat::{Silence, Tries, half_way};
use crate::{Earlier, NetError, failed_after_sending, failed_before_sending};

type Reply<O> = <<O as Open>::Replies as Replies>::Reply;
type Expected<O> = <<O as Open>::Replies as Replies>::Expected;

/// A call of several requests, all of which go over one connection: their replies depend on each
/// other, and on which server gave them.
///
/// If a connection that was open before breaks, the call runs again over another one, so it must be
/// idempotent, as claims, extends and releases are. The rules are those of
/// [`Pool::call`](crate::Pool::call): a connection that was unused for long and does not answer
/// within half of the time counts as broken. It is a value with two steps, and takes no async
/// closure, since a future that has one in it and borrows is not known to be `Send`:
///
/// ```no_run
/// # use dlock_core::{DatastoreError, Time};
/// # use dlock_net::mux::{Multiplexer, Open, Pinned};
/// # async fn converse<O: Open>(_: &mut Pinned<O>) -> Result<(), DatastoreError> { Ok(()) }
/// # async fn call<O: Open>(mux: &Multiplexer<O>, deadline: Time) -> Result<(), DatastoreError> {
/// let mut session = mux.session(deadline)?;
/// loop {
///     let (mut connection, _earlier) = session.connection().await?;
///     let outcome = converse(&mut connection).await;
///     if let Some(outcome) = session.ended(connection, outcome) {
///         return outcome;
///     }
/// }
/// # }
/// ```
pub struct Session<'a, O: Open> {
    call: Call<'a, O>,
    open: &'a Arc<O>,
    tries: Tries,
    /// Whether a connection that was open before has half of the time to answer.
    is_urgent: bool,
    /// Whether there was a try.
    is_begun: bool,
}

impl<O: Open> Multiplexer<O> {
    /// Begins a call of several requests, which ends at `deadline` on [`Clock::BOOTTIME`].
    ///
    /// # Errors
    ///
    /// Not executed.
    pub fn session(&self, deadline: Time) -> Result<Session<'_, O>, DatastoreError> {
        self.begin(deadline, false)
    }

    /// The same for a call for whose effect others wait, as
    /// [`Pool::call_urgent`](crate::Pool::call_urgent): if a connection that was open before does
    /// not answer within half of the time, the call runs again over a fresh one.
    ///
    /// # Errors
    ///
    /// Not executed.
    pub fn urgent_session(&self, deadline: Time) -> Result<Session<'_, O>, DatastoreError> {
        self.begin(deadline, true)
    }

    fn begin(&self, deadline: Time, is_urgent: bool) -> Result<Session<'_, O>, DatastoreError> {
        Ok(Session {
            call: Call::new(self.table()?, deadline),
            open: self.open(),
            // Before the end of a call that is not urgent, only the connection's queue finds a
            // server silent: after half of the time of a request that came after a rest. That ends
            // the connection.
            tries: Tries::of(deadline, Silence::RunsAgain),
            is_urgent,
            is_begun: false,
        })
    }
}

impl<O: Open> Session<'_, O> {
    /// The connection for the next try, and what the one before may have done.
    ///
    /// # Errors
    ///
    /// That of opening the connection. If the first of two tries may have been executed, the error
    /// says so.
    pub async fn connection(&mut self) -> Result<(Pinned<O>, Earlier), DatastoreError> {
        if !mem::replace(&mut self.is_begun, true)
            && let Some(connection) = self.call.open_connection()
        {
            let mut pinned = self.pin(connection, true);
            if pinned.is_usable() {
                return Ok((pinned, self.tries.earlier()));
            }
        }
        match self.reconnect().await {
            Ok(pinned) => Ok((pinned, self.tries.earlier())),
            Err(error) => Err(self.tries.failed(error)),
        }
    }

    /// Ends a try on `connection`. Returns the outcome of the call, or `None` if it is to run
    /// again.
    pub fn ended<T>(
        &mut self,
        mut connection: Pinned<O>,
        outcome: Result<T, DatastoreError>,
    ) -> Option<Result<T, DatastoreError>> {
        let error = match outcome {
            Ok(answer) => return Some(Ok(answer)),
            Err(error) => error,
        };
        let is_silent = connection.ends_half_way() && error.kind() == ErrorKind::Timeout;
        if is_silent {
            connection.connection.retire();
        }
        let is_dead = is_silent || !connection.is_usable();
        if !connection.was_open {
            return Some(Err(self.tries.failed(error)));
        }
        if connection.is_stuck {
            self.call.go_over_own();
        }
        let now = Clock::BOOTTIME.now();
        self.tries.failed_once(error, is_dead, now).err().map(Err)
    }

    async fn reconnect(&mut self) -> Result<Pinned<O>, DatastoreError> {
        let connection = self.call.connection().await?;
        let mut pinned = self.pin(connection, false);
        // Another call may have opened it, before what makes it useless was known.
        if !pinned.is_usable() {
            let connection = self.call.connection().await?;
            pinned = self.pin(connection, false);
        }
        Ok(pinned)
    }

    fn pin(&self, connection: Arc<Shares<O>>, was_open: bool) -> Pinned<O> {
        let deadline = self.call.deadline();
        Pinned {
            connection,
            open: Arc::clone(self.open),
            until: match was_open && self.is_urgent {
                true => Until::HalfWay(half_way(Clock::BOOTTIME.now(), deadline)),
                false => Until::End(deadline),
            },
            was_open,
            is_stuck: false,
        }
    }
}

/// One connection, for as long as a session lasts. Requests on it fail when it breaks; they never
/// go to another one.
pub struct Pinned<O: Open> {
    connection: Arc<Shares<O>>,
    open: Arc<O>,
    until: Until,
    /// Whether it was open before this call.
    was_open: bool,
    /// Whether a request failed because nobody drives the connection's runtime.
    is_stuck: bool,
}

impl<O: Open> Pinned<O> {
    /// The end of the session, or of this try.
    pub fn deadline(&self) -> Time {
        self.until.time()
    }

    fn ends_half_way(&self) -> bool {
        matches!(self.until, Until::HalfWay(_))
    }

    /// The server, as errors name it.
    pub fn peer(&self) -> &str {
        self.connection.peer()
    }

    /// Lends out what writes the requests of this connection, and with it what that knows of the
    /// server. Other calls wait meanwhile.
    pub fn with_writer<T>(&self, f: impl FnOnce(&mut O::Writer) -> T) -> T {
        self.connection.with_writer(f)
    }

    /// Sends one request and waits for its reply, until the [end](Self::deadline). `write` appends
    /// the request to the bytes that it is given.
    ///
    /// # Errors
    ///
    /// Not executed if the request did not leave.
    pub async fn ask(
        &mut self,
        write: impl FnOnce(&mut O::Writer, &mut Vec<u8>, Sending) -> Expected<O>,
    ) -> Result<Reply<O>, DatastoreError> {
        let sent = self.send(write);
        self.reply(sent).await
    }

    /// Sends `count` requests together and waits for their replies. Returns those in their order,
    /// up to the first that failed, whose error is then the last. The first argument of `write` is
    /// the index of the request.
    pub async fn ask_many(
        &mut self,
        count: usize,
        mut write: impl FnMut(usize, &mut O::Writer, &mut Vec<u8>, Sending) -> Expected<O>,
    ) -> Vec<Result<Reply<O>, DatastoreError>> {
        let mut sent = Vec::with_capacity(count);
        for at in 0..count {
            let write = |writer: &mut _, bytes: &mut _, sending| write(at, writer, bytes, sending);
            sent.push(self.send(write));
        }
        let mut replies = Vec::with_capacity(count);
        for sent in sent {
            let reply = self.reply(sent).await;
            let is_last = reply.is_err();
            replies.push(reply);
            if is_last {
                break;
            }
        }
        replies
    }

    fn send(
        &self,
        write: impl FnOnce(&mut O::Writer, &mut Vec<u8>, Sending) -> Expected<O>,
    ) -> Result<Receiver<O::Replies>, Failure> {
        match is_polled_by_drop() {
            true => self.connection.send_now(self.until, false, write),
            false => self.connection.send(self.until, false, write),
        }
    }

    async fn reply(
        &mut self,
        sent: Result<Receiver<O::Replies>, Failure>,
    ) -> Result<Reply<O>, DatastoreError> {
        let outcome = match sent {
            Ok(outcome) => outcome.await.unwrap_or_else(|_| Err(lost())),
            Err(failure) => Err(failure),
        };
        outcome.map_err(|failure| self.failed(&failure))
    }

    fn failed(&mut self, failure: &Failure) -> DatastoreError {
        if !matches!(failure.reason, Reason::NotDriven) {
            return error_of(self.peer(), failure);
        }
        // As a connection that broke: the session runs again over one that is driven.
        self.is_stuck = true;
        let stuck = io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "nobody drives the runtime of the connection",
        );
        match failure.sent {
            true => failed_after_sending(NetError::new(self.peer(), "read the reply", stuck)),
            false => failed_before_sending(NetError::new(self.peer(), "send the request", stuck)),
        }
    }
}

impl<O: Open> Pinned<O> {
    /// Ends the session sooner.
    pub fn give_up(&mut self) {
        self.until = Until::End(Time::ZERO);
    }

    /// Whether another request may be sent over it. If not, no other call is, either.
    fn is_usable(&mut self) -> bool {
        if self.is_stuck || self.connection.is_closed() || !self.connection.is_driven() {
            return false;
        }
        let takes_more = self.with_writer(|writer| self.open.takes_more(writer));
        if !takes_more {
            self.connection.retire();
        }
        takes_more
    }
}
