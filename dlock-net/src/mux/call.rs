//! One call, and the connections over which it goes.

use std::io;
use std::mem;
use std::sync::Arc;

use dlock_core::{Clock, DatastoreError, ErrorKind, Time};
use tokio::runtime::Handle;

use super::connection::error_of;
use super::process::Process;
use super::protocol::Open;
use super::queue::{Failure, Reason};
use super::table::{Entry, Shares, Table, closed};
use crate::may_have_executed;

/// One call, over as many connections as it needs.
pub(super) struct Call<'a, O: Open> {
    table: &'a Arc<Table<O>>,
    deadline: Time,
    pub(super) in_doubt: bool,
    /// Whether a connection broke under it.
    repeated: bool,
    /// Whether it goes over dlock's own runtime, since the caller's is not driven.
    pub(super) over_own: bool,
}

impl<'a, O: Open> Call<'a, O> {
    pub(super) fn new(table: &'a Arc<Table<O>>, deadline: Time) -> Self {
        Call {
            table,
            deadline,
            in_doubt: false,
            repeated: false,
            over_own: false,
        }
    }

    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }

    /// From now on it goes over dlock's own runtime.
    pub(super) fn go_over_own(&mut self) {
        self.over_own = true;
    }

    /// The connection of the runtime that polls the call, if that is open and takes the call.
    pub(super) fn known_connection(&self) -> Option<Arc<Shares<O>>> {
        if self.over_own {
            return None;
        }
        let runtime = Handle::try_current().ok()?;
        match self.table.known(runtime.id())? {
            Entry::Open(connection) if connection.is_driven() => Some(connection),
            _ => None,
        }
    }

    /// The connection to send it over, if that is open already.
    pub(super) fn open_connection(&self) -> Option<Arc<Shares<O>>> {
        if let Some(connection) = self.known_connection() {
            return Some(connection);
        }
        let runtime = Process::current().runtime().ok()?;
        match self.table.known(runtime.id())? {
            Entry::Open(connection) => Some(connection),
            Entry::NoIo(_) => None,
        }
    }

    /// The connection to send it over.
    pub(super) async fn connection(&mut self) -> Result<Arc<Shares<O>>, DatastoreError> {
        let in_doubt = self.in_doubt;
        let in_this_call = |error: DatastoreError| match in_doubt {
            true => may_have_executed(error),
            false => error,
        };
        if !self.over_own
            && let Ok(runtime) = Handle::try_current()
        {
            let entry = self
                .table
                .entry(&runtime, false, self.deadline)
                .await
                .map_err(in_this_call)?;
            if let Entry::Open(connection) = entry
                && connection.is_driven()
            {
                return Ok(connection);
            }
        }
        let runtime = Process::current().runtime().map_err(|error| {
            in_this_call(DatastoreError::not_executed(ErrorKind::Refused, error))
        })?;
        match self
            .table
            .entry(&runtime, true, self.deadline)
            .await
            .map_err(in_this_call)?
        {
            Entry::Open(connection) => Ok(connection),
            Entry::NoIo(_) => Err(in_this_call(closed())),
        }
    }

    /// The request has no reply. Returns whether it is to be sent again.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub(super) fn failed(&mut self, peer: &str, failure: &Failure) -> Result<(), DatastoreError> {
        self.in_doubt |= failure.sent;
        let again = match &failure.reason {
            Reason::TimedOut => false,
            Reason::NotDriven => !mem::replace(&mut self.over_own, true),
            // Not a reply to its request; it would not be the next time.
            Reason::Broken(io::ErrorKind::InvalidData, _) => false,
            Reason::Broken(..) => !mem::replace(&mut self.repeated, true),
        };
        if again && Clock::BOOTTIME.now() < self.deadline {
            return Ok(());
        }
        Err(error_of(peer, failure).with_execution(self.in_doubt))
    }
}

/// The reply was not read to its end: the driver was torn away.
pub(super) fn lost() -> Failure {
    let reason = Reason::Broken(
        io::ErrorKind::ConnectionAborted,
        "the runtime that drove the connection was shut down".into(),
    );
    Failure { sent: true, reason }
}
