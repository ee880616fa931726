//! The acquire flow: carries out what an [`Acquisition`] decides.

use std::sync::Arc;
use std::time::Duration;

use crate::ProcessId;
use crate::acquire_error::AcquireError;
use crate::contract::claim::Claim;
use crate::contract::datastore::Watch;
use crate::contract::error::DatastoreError;
use crate::contract::grant::Grant;
use crate::contract::lease::Lease;
use crate::contract::outcome::AcquireOutcome;
use crate::engine::acquisition::{Acquisition, Action, Event, Granted, Plan};
use crate::engine::io::Io;
use crate::observer::LockEvent;
use crate::time::backoff::Backoff;
use crate::time::instant::Time;
use crate::time::signal::Signal;
use crate::time::wait::{CancelSubscriptions, Wait};
use crate::trace;

/// The lock to acquire, and how.
pub struct Request<'a> {
    /// The acquiring process.
    pub process: ProcessId,
    pub key: &'a Arc<str>,
    pub ttl: Duration,
    pub holder: Arc<str>,
    pub retry: Backoff,
    /// Whether the wait ends when the key holds the mark of a job that is done.
    pub until_done: bool,
}

/// An acquired lease, before it is renewed.
pub struct Won {
    pub process: ProcessId,
    pub lease: Lease,
    /// When the grant was received.
    pub granted: Time,
    pub valid_until: Time,
    /// The time until which a claim whose answer was lost may still be carried out, see
    /// [`outlive_lost_request`](crate::engine::release::outlive_lost_request).
    pub lost_request: Option<Time>,
}

/// Acquires, waiting until `deadline` if `wait` waits at all.
pub async fn acquire<S: Io>(
    io: &S,
    request: &Request<'_>,
    wait: &Wait,
    deadline: Time,
) -> Result<Won, AcquireError> {
    if wait.is_cancelled() {
        // A caller that is cancelled wants no lock, not even a free one.
        return Err(AcquireError::Cancelled);
    }
    let mut now = io.clock().now();
    let mut claimant = Claimant::new(io, request, wait, deadline, now)?;
    let plan = Plan {
        deadline,
        waits: wait.waits(),
        until_done: request.until_done,
        call_timeout: io.characteristics().call_timeout,
        retry: request.retry,
        seed: claimant.claim.owner().low_bits(),
    };
    let (mut acquisition, mut action) = Acquisition::start(plan, now);
    // The claimant has the arguments: the future would have room for them once more.
    loop {
        let event = match action {
            Action::Claim { not_after, fresh } => {
                if fresh {
                    claimant.leave().await;
                    claimant.claim = claimant.new_claim(now)?;
                }
                // The lease counts from `now`, which is before the call.
                claimant.claim.set_not_after(not_after);
                let ttl = claimant.request.ttl;
                let reply = io.acquire(&claimant.claim, ttl).await;
                claimant.answered(now, reply)
            }
            Action::Watch => claimant.watch().await,
            Action::Sleep { until, wakeable } => {
                if wakeable {
                    io.sleep(Some(claimant.signal()), until).await;
                } else {
                    // This claim has been given up: the store must not hand it the lock.
                    claimant.leave().await;
                    io.sleep(None, until).await;
                }
                Event::Woken
            }
            Action::Abandon => {
                // If that fails too, the claim holds the key for at most one time to live.
                let _ = io.abandon(&for_call(io, &claimant.claim)).await;
                Event::Undone
            }
            Action::Discard(grant) => {
                // If the release fails, the lease ends by itself.
                let lease = claimant.late_lease(grant);
                let _ = Box::pin(io.release(&lease)).await;
                Event::Undone
            }
            Action::Finish => break,
        };
        // Process an answer before a cancellation: it may be a grant, or leave something to clean
        // up.
        let event = if event.gives_way(claimant.wait.waits()) && claimant.is_cancelled() {
            Event::Cancelled
        } else {
            event
        };
        now = io.clock().now();
        action = acquisition.on(now, event);
    }
    claimant.leave().await;
    trace::record_attempts(claimant.attempts);
    let Granted {
        grant,
        valid_until,
        lost_request,
    } = acquisition.into_outcome()?;
    Ok(Won {
        process: claimant.request.process,
        lease: Lease::new(claimant.claim, grant),
        granted: now,
        valid_until,
        lost_request,
    })
}

/// The same claim for a call that starts now and may take the usual time of a call.
pub fn for_call<S: Io>(io: &S, claim: &Claim) -> Claim {
    let call_timeout = io.characteristics().call_timeout;
    claim
        .clone()
        .with_not_after(io.clock().now().saturating_add(call_timeout))
}

/// The caller's claim, and its watch if the store has queued it.
struct Claimant<'a, S: Io> {
    io: &'a S,
    request: &'a Request<'a>,
    wait: &'a Wait,
    deadline: Option<Time>,
    claim: Claim,
    /// Created when something may notify it, since most claims win at once.
    signal: Option<Signal>,
    /// Forwards a cancellation to `signal`.
    cancel: CancelSubscriptions,
    watch: Option<Watch>,
    reported: ReportedWait<'a, S>,
    attempts: u64,
}

impl<'a, S: Io> Claimant<'a, S> {
    fn new(
        io: &'a S,
        request: &'a Request<'a>,
        wait: &'a Wait,
        deadline: Time,
        now: Time,
    ) -> Result<Self, DatastoreError> {
        let deadline = wait.waits().then_some(deadline);
        Ok(Claimant {
            claim: new_claim(io, request, deadline, now)?,
            io,
            request,
            wait,
            deadline,
            signal: None,
            cancel: CancelSubscriptions::default(),
            watch: None,
            reported: ReportedWait {
                io,
                key: request.key,
                since: None,
            },
            attempts: 0,
        })
    }

    /// A claim with a fresh owner token.
    fn new_claim(&self, now: Time) -> Result<Claim, DatastoreError> {
        new_claim(self.io, self.request, self.deadline, now)
    }

    fn answered(&mut self, sent: Time, reply: Result<AcquireOutcome, DatastoreError>) -> Event {
        if let Ok(AcquireOutcome::Held(held)) = &reply {
            self.io.report(&LockEvent::Refused {
                key: self.request.key,
                held,
            });
            if self.deadline.is_some() {
                self.reported.begin();
            }
        }
        self.attempts += 1;
        Event::Answered { sent, reply }
    }

    async fn watch(&mut self) -> Event {
        let call = for_call(self.io, &self.claim);
        let not_after = call.not_after().min(self.deadline.unwrap_or(Time::MAX));
        let io = self.io;
        // If the store fails to watch, poll it.
        let watch = io
            .watch(&call.with_not_after(not_after), self.signal())
            .await;
        self.watch = watch.ok().flatten();
        Event::Watched(self.watch.is_some())
    }

    /// Ends the watch, if there is one.
    async fn leave(&mut self) {
        if let Some(watch) = self.watch.take() {
            self.io.leave(self.request.key, watch).await;
        }
    }

    fn signal(&mut self) -> &Signal {
        let (wait, subscription) = (self.wait, &mut self.cancel);
        self.signal.get_or_insert_with(|| {
            let signal = Signal::new();
            *subscription = wait.subscribe(&signal);
            signal
        })
    }

    /// The lease of a grant that came too late, for its release.
    fn late_lease(&self, grant: Grant) -> Lease {
        let lease = Lease::new(for_call(self.io, &self.claim), grant);
        lease.for_call(1, lease.not_after())
    }

    fn is_cancelled(&self) -> bool {
        self.wait.is_cancelled()
    }
}

/// A wait that the observer knows of; its end is reported however it ends.
struct ReportedWait<'a, S: Io> {
    io: &'a S,
    key: &'a str,
    since: Option<Time>,
}

impl<S: Io> ReportedWait<'_, S> {
    fn begin(&mut self) {
        if self.since.is_none() && self.io.observer().is_some() {
            self.since = Some(self.io.clock().now());
            self.io.report(&LockEvent::Waiting { key: self.key });
        }
    }
}

impl<S: Io> Drop for ReportedWait<'_, S> {
    fn drop(&mut self) {
        if let Some(since) = self.since {
            let (key, waited) = (self.key, since.until(self.io.clock().now()));
            self.io.report(&LockEvent::WaitEnded { key, waited });
        }
    }
}

fn new_claim<S: Io>(
    io: &S,
    request: &Request<'_>,
    deadline: Option<Time>,
    now: Time,
) -> Result<Claim, DatastoreError> {
    let not_after = now.saturating_add(io.characteristics().call_timeout);
    let (holder, key) = (Arc::clone(&request.holder), Arc::clone(request.key));
    let claim = Claim::by(io.owner_token()?, holder, key, io.clock(), not_after);
    Ok(match deadline {
        Some(deadline) => claim.with_deadline(deadline),
        None => claim,
    })
}

#[cfg(test)]
mod tests;
