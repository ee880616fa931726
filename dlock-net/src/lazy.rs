//! A connection that is opened when it is needed, by whom it is needed.

use std::fmt;
use std::process;

use dlock_core::{Clock, DatastoreError, ErrorKind, Time};

use crate::may_have_executed;

/// How a backend opens connections.
pub trait Connect: Clone + Send + Sync + 'static {
    /// What it opens.
    type Link: Link;

    /// Opens one and does whatever the server wants to hear first, by `deadline` on [`Clock::BOOTTIME`].
    ///
    /// # Errors
    ///
    /// Not executed, with the reason. It must not name credentials.
    fn connect(&self, deadline: Time) -> Result<Self::Link, DatastoreError>;
}

/// One open connection. Dropping it must send nothing: a forked child drops what it inherited.
pub trait Link: Send + 'static {
    /// Sets the end of the next call, on [`Clock::BOOTTIME`].
    fn set_deadline(&mut self, deadline: Time);

    /// Whether the connection can take another request. It must be quick and must not block. It must be false from the start of a request
    /// until the reply was read to its end.
    fn is_usable(&mut self) -> bool;
}

/// The place of one connection in a pool, open or not.
///
/// r2d2 opens connections in a background thread, whose errors a caller learns only as text and after its whole timeout. So the pool
/// keeps places, which cost nothing to make, and the thread that has got one opens its connection within its own deadline.
pub struct Lazy<M: Connect> {
    manager: M,
    // In a box, since r2d2 moves a place several times for each call.
    open: Option<Box<M::Link>>,
    pid: u32,
}

impl<M: Connect> Lazy<M> {
    /// A place without a connection.
    pub fn new(manager: M) -> Self {
        Lazy {
            manager,
            open: None,
            pid: process::id(),
        }
    }

    /// Who opens its connections.
    pub fn manager(&self) -> &M {
        &self.manager
    }

    /// Runs one call by `deadline`, on [`Clock::BOOTTIME`].
    ///
    /// A connection that was used before and turns out to be dead is replaced once: `call` then runs again on a fresh one, so
    /// it must be idempotent, as claims, extends and releases are.
    ///
    /// # Errors
    ///
    /// That of `call` or of opening the connection. If the first of two runs may have been executed, the error says so.
    pub fn call<T>(
        &mut self,
        deadline: Time,
        call: impl FnMut(&mut M::Link) -> Result<T, DatastoreError>,
    ) -> Result<T, DatastoreError> {
        self.call_in(process::id(), deadline, call)
    }

    /// The same in the process `pid`, for who has asked for that already.
    pub(crate) fn call_in<T>(
        &mut self,
        pid: u32,
        deadline: Time,
        mut call: impl FnMut(&mut M::Link) -> Result<T, DatastoreError>,
    ) -> Result<T, DatastoreError> {
        let mut executed = false;
        self.discard_unusable_in(pid);
        if let Some(link) = &mut self.open {
            link.set_deadline(deadline);
            let error = match call(link) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.discard_unusable_in(pid);
            let is_dead = error.kind() == ErrorKind::Unreachable && self.open.is_none();
            if !is_dead || Clock::BOOTTIME.now() >= deadline {
                return Err(error);
            }
            executed = error.may_have_executed();
        }
        let told = |error| {
            if executed {
                may_have_executed(error)
            } else {
                error
            }
        };
        self.pid = pid;
        let link = self
            .open
            .insert(Box::new(self.manager.connect(deadline).map_err(told)?));
        link.set_deadline(deadline);
        let answer = call(link).map_err(told);
        if answer.is_err() {
            self.discard_unusable_in(pid);
        }
        answer
    }

    /// Closes the connection if it cannot be used, or if it was opened by the process that this one was forked from, which
    /// still uses it.
    pub fn discard_unusable(&mut self) {
        self.discard_unusable_in(process::id());
    }

    fn discard_unusable_in(&mut self, pid: u32) {
        let usable = |link: &mut Box<M::Link>| link.is_usable();
        if self.pid == pid && self.open.as_mut().is_some_and(usable) {
            return;
        }
        self.open = None;
    }

    /// Whether a connection is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

impl<M: Connect> fmt::Debug for Lazy<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lazy")
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}
