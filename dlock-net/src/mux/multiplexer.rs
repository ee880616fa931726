//! The connections of a store, one for each runtime that calls it.

use std::fmt;
use std::marker::PhantomData;
use std::mem;
use std::sync::{Arc, OnceLock};

use dlock_core::aio::is_polled_by_drop;
use dlock_core::{DatastoreError, ProcessId, Time};
use tokio::runtime::Handle;

use super::call::{Call, lost};
use super::connection::Until;
use super::process::Process;
use super::protocol::{Open, Replied, Replies, Sending};
use super::table::{Entry, Table, closed};

type Reply<O> = <<O as Open>::Replies as Replies>::Reply;
type Expected<O> = <<O as Open>::Replies as Replies>::Expected;

/// Calls to one server, many at a time over one connection.
///
/// There is one connection for each tokio runtime on which calls are polled, and one on a runtime
/// of dlock's own, for calls outside of any runtime or on one that is not driven. A connection is
/// opened by the first call that needs it; others wait for it, each until its own deadline. The
/// call after one that found its connection broken opens a new one.
///
/// Every call ends by its deadline, whatever the server, the network and the runtime's clock do. A
/// call that is dropped leaves its reply to be skipped.
pub struct Multiplexer<O: Open> {
    // An option only so that a forked child can forget it.
    table: Option<Arc<Table<O>>>,
    open: Arc<O>,
    pid: ProcessId,
    child: OnceLock<Box<Multiplexer<O>>>,
}

impl<O: Open> Multiplexer<O> {
    /// A multiplexer without a connection yet.
    pub fn new(open: O) -> Self {
        Self::over(Arc::new(open))
    }

    fn over(open: Arc<O>) -> Self {
        Multiplexer {
            table: Some(Table::new(Arc::clone(&open))),
            open,
            pid: ProcessId::current(),
            child: OnceLock::new(),
        }
    }

    /// The table of this process: an inherited one has its parent's connections, and locks that may
    /// be held for ever.
    pub(super) fn table(&self) -> Result<&Arc<Table<O>>, DatastoreError> {
        if self.pid != ProcessId::current() {
            let child = || Box::new(Self::over(Arc::clone(&self.open)));
            return self.child.get_or_init(child).table();
        }
        self.table.as_ref().ok_or_else(closed)
    }

    pub(super) fn open(&self) -> &Arc<O> {
        &self.open
    }

    /// Returns whether there is a connection over which a call that is polled here may be sent at
    /// once.
    pub fn is_connected(&self) -> bool {
        let table = self.table();
        table.is_ok_and(|table| Call::new(table, Time::MAX).open_connection().is_some())
    }

    /// Sends one request and waits for its reply, until `deadline` on
    /// [`Clock::BOOTTIME`](dlock_core::Clock::BOOTTIME). `write` appends the request to the bytes
    /// that it is given.
    ///
    /// The request must be idempotent, as claims, extends and releases are: if the connection
    /// breaks it is sent once more over a fresh one, within the same deadline.
    ///
    /// # Errors
    ///
    /// Not executed unless a copy may have reached the server.
    pub async fn call(
        &self,
        deadline: Time,
        mut write: impl FnMut(&mut O::Writer, &mut Vec<u8>, Sending) -> Expected<O> + Send,
    ) -> Result<Replied<Reply<O>>, DatastoreError> {
        let mut call = Call::new(self.table()?, deadline);
        loop {
            let connection = match call.known_connection() {
                Some(connection) => connection,
                None => Box::pin(call.connection()).await?,
            };
            let in_doubt = call.in_doubt;
            let sent = match is_polled_by_drop() {
                true => connection.send_now(Until::End(deadline), in_doubt, &mut write),
                false => connection.send(Until::End(deadline), in_doubt, &mut write),
            };
            let failure = match sent {
                Ok(outcome) => match outcome.await.unwrap_or_else(|_| Err(lost())) {
                    Ok(reply) => {
                        let connection = connection.id();
                        return Ok(Replied {
                            reply,
                            in_doubt,
                            connection,
                        });
                    }
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            call.failed(connection.peer(), &failure)?;
        }
    }

    /// Returns whether a [session](Self::session) that begins here finds a connection open that
    /// takes it.
    pub fn is_open(&self) -> bool {
        let open = self
            .table()
            .ok()
            .and_then(|table| Call::new(table, Time::MAX).open_connection());
        open.is_some_and(|connection| {
            connection.is_driven() && connection.with_writer(|writer| self.open.takes_more(writer))
        })
    }

    /// Sends one request at once, if a connection is open over which calls on `runtime` go, and
    /// does not wait: what is sent over that connection later comes later. Returns false if nothing
    /// was sent; otherwise `done` is called with the reply, or with `None` if none came by
    /// `deadline`.
    pub fn send_at_once(
        &self,
        runtime: Option<Handle>,
        deadline: Time,
        write: impl FnOnce(&mut O::Writer, &mut Vec<u8>, Sending) -> Expected<O>,
        done: impl FnOnce(Option<Reply<O>>) + Send + 'static,
    ) -> bool {
        let Ok(table) = self.table() else {
            return false;
        };
        let open = |runtime: Handle| match table.known(runtime.id()) {
            Some(Entry::Open(connection)) if connection.is_driven() => Some((runtime, connection)),
            _ => None,
        };
        let own = || Process::current().runtime().ok();
        let Some((runtime, connection)) = runtime.and_then(open).or_else(|| open(own()?)) else {
            return false;
        };
        let until = Until::End(deadline);
        let sent = match is_polled_by_drop() {
            true => connection.send_now(until, false, write),
            false => connection.send(until, false, write),
        };
        let Ok(outcome) = sent else {
            return false;
        };
        drop(connection);
        let mut done = Done(Some(done), PhantomData);
        runtime.spawn(async move {
            let reply = outcome.await.ok().and_then(Result::ok);
            done.call(reply);
        });
        true
    }

    /// Sends many requests together, with none of other calls between them, and waits for all
    /// replies, in their order. Each has a deadline of its own. The first argument of `write` is
    /// the index of the request.
    pub async fn call_many(
        &self,
        deadlines: &[Time],
        mut write: impl FnMut(usize, &mut O::Writer, &mut Vec<u8>, Sending) -> Expected<O> + Send,
    ) -> Vec<Result<Replied<Reply<O>>, DatastoreError>> {
        let mut results: Vec<Option<_>> = deadlines.iter().map(|_| None).collect();
        let Some(last) = deadlines.iter().max() else {
            return Vec::new();
        };
        let Ok(table) = self.table() else {
            return deadlines.iter().map(|_| Err(closed())).collect();
        };
        let mut calls: Vec<_> = deadlines
            .iter()
            .map(|deadline| Call::new(table, *deadline))
            .collect();
        let mut shared = Call::new(table, *last);
        loop {
            let open: Vec<_> = (0..results.len())
                .filter(|at| results[*at].is_none())
                .collect();
            if open.is_empty() {
                return results.into_iter().flatten().collect();
            }
            shared.over_own |= open.iter().any(|at| calls[*at].over_own);
            let connection = match shared.connection().await {
                Ok(connection) => connection,
                Err(error) => {
                    for at in open {
                        results[at] = Some(Err(error.clone().with_execution(calls[at].in_doubt)));
                    }
                    continue;
                }
            };
            let which = open
                .into_iter()
                .map(|at| (at, deadlines[at], calls[at].in_doubt));
            let sent = connection.send_together(which, &mut write);
            for (at, sent) in sent {
                let outcome = match sent {
                    Ok(outcome) => outcome.await.unwrap_or_else(|_| Err(lost())),
                    Err(failure) => Err(failure),
                };
                let in_doubt = calls[at].in_doubt;
                results[at] = match outcome {
                    Ok(reply) => Some(Ok(Replied {
                        reply,
                        in_doubt,
                        connection: connection.id(),
                    })),
                    Err(failure) => calls[at].failed(connection.peer(), &failure).err().map(Err),
                };
            }
        }
    }
}

/// A function that is called once, also if the task that should do it is dropped.
struct Done<R, F: FnOnce(Option<R>)>(Option<F>, PhantomData<fn(R)>);

impl<R, F: FnOnce(Option<R>)> Done<R, F> {
    fn call(&mut self, reply: Option<R>) {
        if let Some(done) = self.0.take() {
            done(reply);
        }
    }
}

impl<R, F: FnOnce(Option<R>)> Drop for Done<R, F> {
    fn drop(&mut self) {
        self.call(None);
    }
}

impl<O: Open> Drop for Multiplexer<O> {
    fn drop(&mut self) {
        let Some(table) = self.table.take() else {
            return;
        };
        if self.pid != ProcessId::current() {
            // To close an inherited socket takes it from the event queue, which the parent shares.
            mem::forget(table);
            return;
        }
        table.close();
    }
}

impl<O: Open> fmt::Debug for Multiplexer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multiplexer").finish_non_exhaustive()
    }
}
