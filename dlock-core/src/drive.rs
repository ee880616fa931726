//! Carries out what an [`Acquisition`] decides, on the calling thread.

use std::sync::Arc;
use std::time::Duration;

use crate::acquisition::{Acquisition, Action, Event, Plan};
use crate::wait::Waking;
use crate::{
    AcquireError, Backoff, Claim, DatastoreError, Held, Lease, LockEvent, Signal, Store, Time,
    Wait, Watch,
};
use crate::{Attempt, Released};

/// What to acquire.
pub(crate) struct Request<'a> {
    pub(crate) key: &'a Arc<str>,
    pub(crate) ttl: Duration,
    pub(crate) holder: Arc<str>,
    pub(crate) retry: Backoff,
    /// Whether the mark of a job that was done ends the wait.
    pub(crate) until_done: bool,
}

/// What was acquired: a lease that is valid until then.
pub(crate) struct Won {
    pub(crate) lease: Lease,
    pub(crate) until: Time,
}

/// Acquires, waiting until `deadline` if `wait` waits at all.
pub(crate) fn acquire(
    store: &Store,
    request: &Request<'_>,
    wait: &Wait,
    deadline: Time,
) -> Result<Won, AcquireError> {
    let mut claimant = Claimant::new(store, request, wait, deadline)?;
    let plan = Plan {
        deadline,
        waits: wait.waits(),
        until_done: request.until_done,
        call_timeout: store.characteristics().call_timeout,
        retry: request.retry,
        seed: claimant.claim.owner().low_bits(),
    };
    let (mut acquisition, mut action) = Acquisition::start(plan, store.clock().now());
    loop {
        let event = match action {
            Action::Claim { not_after, fresh } => claimant.claim(not_after, fresh)?,
            Action::Watch => claimant.watch(),
            Action::Sleep { until, wakeable } => claimant.sleep(until, wakeable),
            Action::Abandon => claimant.abandon(),
            Action::Discard(grant) => claimant.discard(grant),
            Action::Finish => break,
        };
        // An answer is taken in first: it may be a grant, or leave something to clean up.
        let interruptible = matches!(event, Event::Watched(_) | Event::Woken);
        let event = if interruptible && claimant.is_cancelled() {
            Event::Cancelled
        } else {
            event
        };
        action = acquisition.on(store.clock().now(), event);
    }
    let granted = acquisition.into_outcome()?;
    Ok(Won {
        lease: Lease::new(claimant.claim.clone(), granted.grant),
        until: granted.until,
    })
}

/// The caller, as the store sees it.
struct Claimant<'a> {
    store: &'a Store,
    request: &'a Request<'a>,
    wait: &'a Wait,
    waits_until: Option<Time>,
    claim: Claim,
    signal: Signal,
    watch: Option<Watch>,
    _waking: Option<Waking>,
}

impl<'a> Claimant<'a> {
    fn new(
        store: &'a Store,
        request: &'a Request<'a>,
        wait: &'a Wait,
        deadline: Time,
    ) -> Result<Self, DatastoreError> {
        let signal = Signal::new();
        let waits_until = wait.waits().then_some(deadline);
        Ok(Claimant {
            claim: new_claim(store, request, waits_until)?,
            _waking: wait.cancel().map(|cancel| cancel.wake(&signal)),
            watch: None,
            store,
            request,
            wait,
            waits_until,
            signal,
        })
    }

    fn claim(&mut self, not_after: Time, fresh: bool) -> Result<Event, DatastoreError> {
        if fresh {
            self.watch = None;
            self.claim = new_claim(self.store, self.request, self.waits_until)?;
        }
        let claim = self.claim.clone().until(not_after);
        let sent = self.store.clock().now();
        let reply = self.store.acquire(&claim, self.request.ttl);
        if let Ok(Attempt::Held(held)) = &reply {
            self.tell_refused(held);
        }
        Ok(Event::Answered { sent, reply })
    }

    fn tell_refused(&self, held: &Held) {
        self.store.tell(&LockEvent::Refused {
            key: self.request.key,
            held,
        });
    }

    fn watch(&mut self) -> Event {
        // A store that fails to watch is polled.
        self.watch = self.store.watch(&self.call(), &self.signal).ok().flatten();
        Event::Watched(self.watch.is_some())
    }

    fn sleep(&self, until: Time, wakeable: bool) -> Event {
        if wakeable {
            self.store.clock().park(&self.signal, until);
        } else {
            self.store.clock().park(&Signal::new(), until);
        }
        Event::Woken
    }

    fn abandon(&self) -> Event {
        // If that fails too, the claim holds the key for one time to live at the most.
        let _ = self.store.abandon(&self.call());
        Event::Undone
    }

    fn discard(&self, grant: crate::Grant) -> Event {
        let lease = Lease::new(self.call(), grant);
        // If that fails, the lease ends by itself.
        let _ = self
            .store
            .release(&lease.for_call(1, lease.not_after()))
            .map(|_: Released| ());
        Event::Undone
    }

    /// The claim for one call beside the claims proper.
    fn call(&self) -> Claim {
        let call_timeout = self.store.characteristics().call_timeout;
        self.claim
            .clone()
            .until(self.store.clock().now().saturating_add(call_timeout))
    }

    fn is_cancelled(&self) -> bool {
        self.wait.cancel().is_some_and(crate::Cancel::is_cancelled)
    }
}

fn new_claim(
    store: &Store,
    request: &Request<'_>,
    waits_until: Option<Time>,
) -> Result<Claim, DatastoreError> {
    let call_timeout = store.characteristics().call_timeout;
    let claim = Claim::new(Arc::clone(request.key), store.clock(), call_timeout)?;
    let claim = claim.with_holder(Arc::clone(&request.holder));
    Ok(match waits_until {
        Some(until) => claim.waiting_until(until),
        None => claim,
    })
}
