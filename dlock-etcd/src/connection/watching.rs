//! A connection on which watches report what is deleted.

use std::fmt;
use std::io::{self, BufRead as _};

use dlock_core::{DatastoreError, Time};
use dlock_net::{Alert, Awaited, Transport, Wire};

use super::Connection;
use crate::operations::watching::{PATH, Report};
use crate::wire::stream::{Lines, push_head, push_line};

/// A connection for watches, and for nothing else.
pub(crate) struct Watching {
    wire: Wire<Box<dyn Transport>>,
    lines: Lines,
    /// The head of the request, until it is sent with the first line.
    request: Vec<u8>,
}

impl Connection {
    /// Makes it one for watches.
    pub(crate) fn into_watching(self) -> Watching {
        let mut request = Vec::new();
        push_head(
            &mut request,
            (self.wire.peer(), PATH),
            self.token.as_deref(),
        );
        Watching {
            wire: self.wire,
            lines: Lines::default(),
            request,
        }
    }
}

impl Watching {
    /// Sends what is asked, by `deadline`.
    ///
    /// # Errors
    ///
    /// If the connection has broken.
    pub(crate) fn send(&mut self, lines: &[String], deadline: Time) -> Result<(), DatastoreError> {
        for line in lines {
            push_line(&mut self.request, line);
        }
        self.wire.set_deadline(deadline);
        self.wire.send(&self.request)?;
        self.request.clear();
        Ok(())
    }

    /// Waits until something arrives, `alert` is raised, or it is `until`. What arrived is read by
    /// `deadline`.
    ///
    /// # Errors
    ///
    /// If the connection has broken, or the server has ended a watch for a reason of its own.
    pub(crate) fn receive(
        &mut self,
        alert: &Alert,
        until: Time,
        deadline: Time,
    ) -> Result<Vec<Report>, DatastoreError> {
        let transport = self.wire.transport();
        if transport.is_quiet() {
            let awaited = alert.wait(transport.socket(), until);
            if awaited.map_err(|error| self.wire.failed(error))? != Awaited::Arrived {
                return Ok(Vec::new());
            }
            // What arrived may be of TLS alone, and nothing to be read.
            if self.wire.transport().is_quiet() {
                return Ok(Vec::new());
            }
        }
        self.wire.set_deadline(deadline);
        self.wire.fill()?;
        let mut reports = Vec::new();
        let read = self
            .lines
            .read(self.wire.buffered(), |line| reports.push(Report::of(line)));
        let length = read.map_err(|error| self.wire.failed(error))?;
        self.wire.consume(length);
        let ended = || io::Error::new(io::ErrorKind::ConnectionAborted, "a watch was refused");
        let reports: Option<Vec<_>> = reports.into_iter().collect();
        reports.ok_or_else(|| self.wire.failed(ended()))
    }
}

/// By hand, for the request may have a token in it.
impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching")
            .field("wire", &self.wire)
            .finish_non_exhaustive()
    }
}
