//! Runs a call, and repeats it once over a fresh connection if the first one turns out to be dead.

#![allow(
    unreachable_pub,
    missing_docs,
    reason = "private here but for `Earlier`; the model, which runs the flow from its own crate, \
              gets it public"
)]

use std::future::Future;

use dlock_core::{DatastoreError, ErrorKind, Time};

use crate::{Link, may_have_executed};

/// What the earlier tries of a call may have done.
///
/// The only place that knows whether an earlier try may have run. Each try receives it, and an
/// error of the call includes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Earlier {
    may_have_run: bool,
}

impl Earlier {
    /// Nothing: this is the first try, or the earlier ones did nothing.
    pub const NOTHING: Earlier = Earlier {
        may_have_run: false,
    };

    /// Returns whether one of them may have been carried out, or may yet be.
    pub fn may_have_run(self) -> bool {
        self.may_have_run
    }

    /// The state after one more try, which failed with `error`.
    #[must_use]
    pub fn and_failed(self, error: &DatastoreError) -> Earlier {
        Earlier {
            may_have_run: self.may_have_run || error.may_have_executed(),
        }
    }

    /// What these tries and others may have done together, if it is known of those whether one
    /// `may_have_run`.
    #[must_use]
    pub fn and(self, may_have_run: bool) -> Earlier {
        Earlier {
            may_have_run: self.may_have_run || may_have_run,
        }
    }

    /// The error of the whole call, if the last try failed with `error`.
    #[must_use]
    pub fn and_then(self, error: DatastoreError) -> DatastoreError {
        if self.may_have_run {
            may_have_executed(error)
        } else {
            error
        }
    }
}

/// What a call does if a connection that was used before does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// The call fails at its deadline.
    Fails,
    /// After half of its time the call runs again on a fresh connection: the old one may be dead
    /// without being closed.
    RunsAgain,
}

/// Provides the connection of a call.
pub trait Reconnect {
    type Link: Link;

    fn now(&self) -> Time;

    /// The connection that was used before. If it cannot take another request, it is closed.
    fn usable(&mut self) -> Option<&mut Self::Link>;

    /// Opens a new connection in place of the old one.
    fn reconnect(
        &mut self,
        deadline: Time,
    ) -> impl Future<Output = Result<&mut Self::Link, DatastoreError>>;
}

/// Runs one call by `deadline`. If the connection that was used before is dead, `call` runs again,
/// so it must be idempotent, as claims, extends and releases are.
///
/// # Errors
///
/// The error of the last try, or of opening the connection for it.
pub async fn repeat_once<P: Reconnect, T>(
    place: &mut P,
    deadline: Time,
    silence: Silence,
    mut call: impl AsyncFnMut(&mut P::Link, Earlier) -> Result<T, DatastoreError>,
) -> Result<T, DatastoreError> {
    let mut tries = Tries::of(deadline, silence);
    let first_end = match silence {
        Silence::Fails => deadline,
        Silence::RunsAgain => half_way(place.now(), deadline),
    };
    if let Some(link) = place.usable() {
        link.set_deadline(first_end);
        let error = match call(link, tries.earlier()).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let is_dead = place.usable().is_none();
        tries.failed_once(error, is_dead, place.now())?;
    }
    let link = match place.reconnect(deadline).await {
        Ok(link) => link,
        Err(error) => return Err(tries.failed(error)),
    };
    link.set_deadline(deadline);
    match call(link, tries.earlier()).await {
        Ok(answer) => Ok(answer),
        Err(error) => {
            // Close a broken connection at once.
            let _ = place.usable();
            Err(tries.failed(error))
        }
    }
}

/// What the tries of one call lead to.
#[derive(Debug, Clone, Copy)]
pub struct Tries {
    deadline: Time,
    silence: Silence,
    earlier: Earlier,
}

impl Tries {
    /// Before the first try of a call that ends at `deadline`.
    pub fn of(deadline: Time, silence: Silence) -> Self {
        Tries {
            deadline,
            silence,
            earlier: Earlier::NOTHING,
        }
    }

    /// What they may have done up to now.
    pub fn earlier(&self) -> Earlier {
        self.earlier
    }

    /// A try failed on a connection that was used before.
    ///
    /// # Errors
    ///
    /// That of the call, unless it is to run again.
    pub fn failed_once(
        &mut self,
        error: DatastoreError,
        is_dead: bool,
        now: Time,
    ) -> Result<(), DatastoreError> {
        let runs_again = match error.kind() {
            // A server that refuses and ends the connection is the wrong one: it has become a
            // replica, say.
            ErrorKind::Unreachable | ErrorKind::Refused => true,
            ErrorKind::Timeout => self.silence == Silence::RunsAgain,
            _ => false,
        };
        if !runs_again || !is_dead || now >= self.deadline {
            return Err(error);
        }
        self.earlier = self.earlier.and_failed(&error);
        Ok(())
    }

    /// The error of the call whose last try, or the connection for it, failed with `error`.
    pub fn failed(&self, error: DatastoreError) -> DatastoreError {
        self.earlier.and_then(error)
    }
}

pub(crate) fn half_way(now: Time, deadline: Time) -> Time {
    now.saturating_add(now.until(deadline) / 2)
}
