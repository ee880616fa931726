//! The hold flow: keeps an acquired lease from the grant to the release.

use std::sync::Arc;
use std::time::Duration;

use crate::acquire_error::AcquireError;
use crate::contract::error::{DatastoreError, ErrorKind};
use crate::engine::acquire::Won;
use crate::engine::callback::{Callback, Callbacks};
use crate::engine::held_lease::HeldLease;
use crate::engine::io::Io;
use crate::engine::lease_policy::LeasePolicy;
use crate::engine::ticket::Ticket;
use crate::observer::LockEvent;
use crate::time::instant::Time;

/// A lease that is renewed until it is [ended](Self::end).
pub struct Holding {
    pub(super) held: Arc<HeldLease>,
    /// `None` once the hold has ended.
    pub(super) ticket: Option<Ticket>,
    /// The time until which a claim whose answer was lost may still be carried out.
    pub(super) lost_request: Option<Time>,
}

/// How a hold ends.
pub enum End {
    /// The key becomes free, or stays taken for the rest of its `min_hold`.
    AsOptionsSay,
    /// The key becomes free.
    Free,
    /// The key stays taken for this long from now, with this text as the new description of its
    /// holder.
    Keep(Duration, Option<Arc<str>>),
}

/// What ends a hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A caller that waits for the result.
    Waits,
    /// The drop of the guard: no caller waits for the result.
    Drops,
}

impl Holding {
    /// Takes over an acquired lease. Call [`keep`](Self::keep) next.
    pub fn new(won: Won, policy: LeasePolicy) -> Self {
        Holding {
            held: Arc::new(HeldLease::new(
                won.process,
                won.lease,
                won.granted,
                won.valid_until,
                policy,
            )),
            ticket: None,
            lost_request: won.lost_request,
        }
    }

    /// The start of an acquisition, if there is an observer to report its duration to.
    pub fn start<S: Io>(io: &S) -> Option<Time> {
        io.observer().map(|_| io.clock().now())
    }

    /// Reports that what began at `start` acquired nothing.
    pub fn not_acquired<S: Io>(io: &S, start: Option<Time>, key: &str, error: &AcquireError) {
        if let Some(start) = start {
            let waited = start.until(io.clock().now());
            io.report(&LockEvent::NotAcquired { key, error, waited });
        }
    }

    /// Starts to renew the lease, and reports the acquisition that began at `start`.
    ///
    /// # Errors
    ///
    /// If renewal cannot be started. Then the lease is released.
    pub async fn keep<S: Io>(&mut self, io: &S, start: Option<Time>) -> Result<(), DatastoreError> {
        match io.keep(&self.held) {
            Ok(ticket) => {
                self.ticket = Some(ticket);
                if let Some(start) = start {
                    io.report(&LockEvent::Acquired {
                        key: self.held.key(),
                        fence: self.held.fence(),
                        waited: start.until(self.held.acquired()),
                    });
                }
                Ok(())
            }
            Err(error) => {
                // Without the threads nobody would notice the end of the lease: better no lock.
                let _ = Box::pin(self.release(io, End::Free)).await;
                Err(DatastoreError::not_executed(ErrorKind::Refused, error)
                    .during("starting the threads that keep the lease"))
            }
        }
    }

    /// Releases what was won, instead of [`keep`](Self::keep), without a report.
    #[cfg(feature = "tokio")]
    pub async fn give_back<S: Io>(self, io: &S) {
        // If the release fails, the lease ends by itself.
        let _ = self.release(io, End::Free).await;
    }

    /// Returns whether the hold has [ended](Self::end).
    pub fn has_ended(&self) -> bool {
        self.ticket.is_none()
    }

    pub fn held(&self) -> &HeldLease {
        &self.held
    }

    /// Returns whether this process is a fork of the one that acquired. Check it before locking any
    /// mutex of the lease: a thread that does not exist in the child may hold the mutex.
    pub fn is_inherited<S: Io>(&self, io: &S) -> bool {
        self.held.process() != io.process()
    }

    /// The remaining time of the lease. Declares its loss if the lease has ended.
    pub fn remaining<S: Io>(&self, io: &S) -> Duration {
        if self.is_inherited(io) {
            return Duration::ZERO;
        }
        let (left, callbacks) = self.held.look();
        if !callbacks.is_empty() {
            io.call(callbacks);
        }
        left
    }

    /// Calls `callback` when the lease is lost, or at once if it is lost already.
    pub fn on_lost<S: Io>(&self, io: &S, callback: Callback) {
        self.register(io, HeldLease::on_lost, callback);
    }

    /// Calls `callback` when only the grace period is left of the lease, or at once if that is so
    /// already.
    pub fn on_at_risk<S: Io>(&self, io: &S, callback: Callback) {
        self.register(io, HeldLease::on_at_risk, callback);
    }

    /// Reports the loss of the lease, and the risk of it, to the observer of the store.
    pub fn observe_loss<S: Io>(&self, io: &S) {
        let Some(observer) = io.observer() else {
            return;
        };
        let report = |event: fn(&str) -> LockEvent<'_>| {
            let (observer, key) = (Arc::clone(observer), Arc::clone(self.held.key()));
            Callback::event(move || observer.on(&event(&key)))
        };
        let already_due = [
            self.held
                .on_at_risk(report(|key| LockEvent::AtRisk { key })),
            self.held.on_lost(report(|key| LockEvent::Lost { key })),
        ];
        let mut callbacks = Callbacks::default();
        already_due
            .into_iter()
            .flatten()
            .for_each(|event| callbacks.push(event));
        if !callbacks.is_empty() {
            io.call(callbacks);
        }
    }

    fn register<S: Io>(
        &self,
        io: &S,
        on: fn(&HeldLease, Callback) -> Option<Callback>,
        callback: Callback,
    ) {
        // A lease that a forked child has inherited is lost already.
        let now = if self.is_inherited(io) {
            Some(callback)
        } else {
            on(&self.held, callback)
        };
        if let Some(now) = now {
            io.call(now.into());
        }
    }
}
