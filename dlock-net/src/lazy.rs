//! A connection that is opened when it is needed, by the caller that needs it.

use std::fmt;

use dlock_core::{Clock, DatastoreError, ProcessId, Time, at_once};

use crate::Earlier;
use crate::repeat::{Reconnect, Silence, repeat_once};

/// Opens the connections of a backend.
pub trait Connect: Clone + Send + Sync + 'static {
    /// The type of its connections.
    type Link: Link;

    /// Opens a connection and makes the handshake, by `deadline` on [`Clock::BOOTTIME`].
    ///
    /// # Errors
    ///
    /// Not executed, with the reason. It must not name credentials.
    fn connect(&self, deadline: Time) -> Result<Self::Link, DatastoreError>;
}

/// An open connection. Dropping it must send nothing, since a forked child drops its parent's
/// connections.
pub trait Link: Send + 'static {
    /// Sets the end of the next call, on [`Clock::BOOTTIME`].
    fn set_deadline(&mut self, deadline: Time);

    /// Returns whether the connection can take another request. It must be quick and must not
    /// block. It must return `false` from the start of a request until the reply was read to its
    /// end.
    fn is_usable(&mut self) -> bool;
}

/// A place for one connection in a pool, with or without an open connection.
///
/// If a pool opened connections in a background thread, a caller would learn why that failed only
/// after its whole timeout, and only as text. So a pool keeps places, which cost nothing to create,
/// and the thread that has a place opens its connection within its own deadline.
pub struct Lazy<M: Connect> {
    // In boxes, since a pool moves a place several times for each call.
    manager: Box<M>,
    open: Option<Box<M::Link>>,
    pid: ProcessId,
    opened: Time,
}

impl<M: Connect> Lazy<M> {
    /// A place without a connection.
    pub fn new(manager: M) -> Self {
        Lazy {
            manager: Box::new(manager),
            open: None,
            pid: ProcessId::current(),
            opened: Time::ZERO,
        }
    }

    /// The manager that opens its connections.
    pub fn manager(&self) -> &M {
        &self.manager
    }

    /// Runs one call by `deadline`, on [`Clock::BOOTTIME`].
    ///
    /// A connection that was used before and turns out to be dead is replaced once: `call` then
    /// runs again on a fresh one, so it must be idempotent, as claims, extends and releases are. It
    /// learns what the try before it may have done.
    ///
    /// # Errors
    ///
    /// The error of `call` or of opening the connection. If the first of two runs may have been
    /// executed, the error says so.
    pub fn call<T>(
        &mut self,
        deadline: Time,
        call: impl FnMut(&mut M::Link, Earlier) -> Result<T, DatastoreError>,
    ) -> Result<T, DatastoreError> {
        self.call_in(ProcessId::current(), deadline, Silence::Fails, call)
    }

    /// The same in the process `pid`, for a caller that has asked for it already.
    #[inline]
    pub(crate) fn call_in<T>(
        &mut self,
        pid: ProcessId,
        deadline: Time,
        silence: Silence,
        mut call: impl FnMut(&mut M::Link, Earlier) -> Result<T, DatastoreError>,
    ) -> Result<T, DatastoreError> {
        let mut place = InProcess { place: self, pid };
        let call = async |link: &mut M::Link, earlier| call(link, earlier);
        at_once(repeat_once(&mut place, deadline, silence, call))
    }

    /// Closes the connection if it cannot be used, or if this process has inherited it from its
    /// parent, which still uses it.
    pub fn discard_unusable(&mut self) {
        self.discard_unusable_in(ProcessId::current());
    }

    fn discard_unusable_in(&mut self, pid: ProcessId) {
        let usable = |link: &mut Box<M::Link>| link.is_usable();
        if self.pid == pid && self.open.as_mut().is_some_and(usable) {
            return;
        }
        self.open = None;
    }

    /// The time when the open connection was opened.
    pub(crate) fn opened(&self) -> Time {
        self.opened
    }

    /// Returns whether a connection is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

/// The place of a connection, used by the process `pid`.
struct InProcess<'a, M: Connect> {
    place: &'a mut Lazy<M>,
    pid: ProcessId,
}

impl<M: Connect> Reconnect for InProcess<'_, M> {
    type Link = M::Link;

    #[inline]
    fn now(&self) -> Time {
        Clock::BOOTTIME.now()
    }

    #[inline]
    fn usable(&mut self) -> Option<&mut M::Link> {
        self.place.discard_unusable_in(self.pid);
        self.place.open.as_deref_mut()
    }

    #[inline]
    async fn reconnect(&mut self, deadline: Time) -> Result<&mut M::Link, DatastoreError> {
        let place = &mut *self.place;
        place.pid = self.pid;
        let link = place.manager.connect(deadline)?;
        place.opened = Clock::BOOTTIME.now();
        Ok(place.open.insert(Box::new(link)))
    }
}

impl<M: Connect> fmt::Debug for Lazy<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lazy")
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}
