//! One claimant: its owner token, its handle, and the numbers of its calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Claim, Clock, DatastoreError, Extension, FencingToken, Grant, HeldBy, Lease,
    OwnerToken, ReleaseOutcome, Signal, Time, Watch, drift,
};

use crate::case::{Case, broken, check, now};
use crate::form::Handle;

/// How long a call is repeated after transient errors. Generous, for an overloaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long a waiting claimant would wait: longer than any case.
const WAITS: Duration = Duration::from_secs(600);

pub(crate) struct Client<'c> {
    case: &'c Case<'c>,
    store: Handle,
    claim: Claim,
    calls: AtomicU64,
}

impl Case<'_> {
    /// A claimant on the first handle.
    pub(crate) fn client(&self, key: &str) -> Client<'_> {
        self.client_on(&self.subject.first(), key)
    }

    /// A claimant on this handle.
    pub(crate) fn client_on(&self, store: &Handle, key: &str) -> Client<'_> {
        self.check_threads();
        Client::new(self, store, key)
    }
}

/// An answer, and the instants before and after the call.
pub(crate) struct Answer<T> {
    pub(crate) sent: Time,
    pub(crate) received: Time,
    pub(crate) value: T,
    /// Whether an earlier try failed but may have been carried out.
    pub(crate) repeated: bool,
}

/// A lease, and when it was granted.
pub(crate) struct Holding {
    pub(crate) lease: Lease,
    pub(crate) sent: Time,
    pub(crate) received: Time,
}

impl Holding {
    /// Before this, nobody else may have received a grant of the key.
    pub(crate) fn barred_until(&self) -> Time {
        let ttl = self.lease.grant().ttl;
        self.sent.saturating_add(ttl.saturating_sub(drift(ttl)))
    }

    /// From this time the key is free, unless the lease was extended.
    pub(crate) fn free_from(&self, case: &Case<'_>) -> Time {
        let ttl = self.lease.grant().ttl;
        self.received.saturating_add(ttl + case.tail(ttl))
    }

    /// The least remaining time of the lease.
    pub(crate) fn left(&self) -> Duration {
        now().until(self.barred_until())
    }
}

impl<'c> Client<'c> {
    pub(crate) fn new(case: &'c Case<'c>, store: &Handle, key: &str) -> Self {
        let claim = Claim::new(key, &Clock::BOOTTIME, case.traits.call_timeout);
        let Ok(claim) = claim else {
            broken!(case, "the operating system gave no random numbers")
        };
        Client {
            case,
            store: Handle::clone(store),
            claim,
            calls: AtomicU64::new(0),
        }
    }

    /// The same claimant on another handle.
    pub(crate) fn on(&self, store: &Handle) -> Self {
        Client {
            case: self.case,
            store: Handle::clone(store),
            claim: self.claim.clone(),
            // Far ahead, since both number the calls of one lease.
            calls: AtomicU64::new(self.calls.load(Ordering::Relaxed) + 1000),
        }
    }

    /// Another claimant of the same key, with this owner token.
    pub(crate) fn as_owner(&self, owner: OwnerToken) -> Self {
        Client {
            case: self.case,
            store: Handle::clone(&self.store),
            claim: self.claim.clone().owned_by(owner),
            calls: AtomicU64::new(0),
        }
    }

    pub(crate) fn with_holder(mut self, text: &str) -> Self {
        self.claim = self.claim.with_holder(text);
        self
    }

    /// The same claimant, waiting if it is refused.
    pub(crate) fn waiting(mut self) -> Self {
        self.claim = self.claim.with_deadline(now().saturating_add(WAITS));
        self
    }

    /// Asks for a wake-up from a store that declares wake-ups.
    pub(crate) fn watch(&self, signal: &Signal) -> Watch {
        let watch = self.patiently("watch", || self.store.watch(&self.claim(), signal));
        match watch.value {
            Some(watch) => watch,
            None => broken!(
                self.case,
                "the store declares wake-ups, but a watch was answered with none"
            ),
        }
    }

    pub(crate) fn key(&self) -> &str {
        self.claim.key()
    }

    /// The claim for a call that starts now.
    pub(crate) fn claim(&self) -> Claim {
        self.claim.clone().with_not_after(self.call_end())
    }

    fn call_end(&self) -> Time {
        now().saturating_add(self.case.traits.call_timeout)
    }

    /// Claims once. An error counts as an answer.
    pub(crate) fn try_once(&self, ttl: Duration) -> Answer<Result<AcquireOutcome, DatastoreError>> {
        let sent = now();
        let value = self.store.acquire(&self.claim(), ttl);
        Answer {
            sent,
            received: now(),
            value,
            repeated: false,
        }
    }

    /// Claims.
    pub(crate) fn ask(&self, ttl: Duration) -> Answer<AcquireOutcome> {
        self.patiently("acquire", || self.store.acquire(&self.claim(), ttl))
    }

    /// Claims a key that must be free, as `since` explains.
    pub(crate) fn take(&self, ttl: Duration, since: &str) -> Holding {
        let answer = self.ask(ttl);
        match answer.value {
            AcquireOutcome::Granted(grant) => Holding {
                lease: Lease::new(self.claim.clone(), grant),
                sent: answer.sent,
                received: answer.received,
            },
            AcquireOutcome::Held(held) => broken!(
                self.case,
                "{since}, but a claim was refused: the key was {held}"
            ),
        }
    }

    /// Claims a key that must be held, as `since` explains.
    pub(crate) fn refused(&self, ttl: Duration, since: &str) -> HeldBy {
        match self.ask(ttl).value {
            AcquireOutcome::Held(held) => held,
            AcquireOutcome::Granted(_) => {
                broken!(self.case, "{since}, but somebody else was granted the key")
            }
        }
    }

    /// Claims a key that `holding` must still have. Returns whether that can be judged: the lease
    /// may have ended meanwhile.
    pub(crate) fn refused_before_end(&self, ttl: Duration, holding: &Holding, since: &str) -> bool {
        let answer = self.ask(ttl);
        match answer.value {
            AcquireOutcome::Held(_) => answer.received <= holding.barred_until(),
            AcquireOutcome::Granted(_) => {
                let early = answer.received.until(holding.barred_until());
                check!(
                    self.case,
                    early.is_zero(),
                    "{since}, but somebody else was granted the key {early:?} before the lease ended"
                );
                false
            }
        }
    }

    /// The lease for the next call.
    pub(crate) fn next_call(&self, lease: &Lease) -> Lease {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        lease.for_call(number, self.call_end())
    }

    /// Extends, with the next number.
    pub(crate) fn extend(&self, lease: &Lease, ttl: Duration) -> Answer<Extension> {
        self.patiently("extend", || self.store.extend(&self.next_call(lease), ttl))
    }

    /// Extends, with this number.
    pub(crate) fn extend_numbered(
        &self,
        number: u64,
        lease: &Lease,
        ttl: Duration,
    ) -> Answer<Extension> {
        self.calls.fetch_max(number, Ordering::Relaxed);
        self.patiently("extend", || {
            self.store
                .extend(&lease.for_call(number, self.call_end()), ttl)
        })
    }

    /// Extends a lease that has not ended.
    pub(crate) fn prolong(&self, lease: &Lease, ttl: Duration, since: &str) -> Holding {
        let answer = self.extend(lease, ttl);
        self.prolonged(lease, answer, since)
    }

    /// The result of an extend that must succeed.
    pub(crate) fn prolonged(
        &self,
        lease: &Lease,
        answer: Answer<Extension>,
        since: &str,
    ) -> Holding {
        match answer.value {
            Extension::Extended(grant) => Holding {
                lease: lease.renewed(grant),
                sent: answer.sent,
                received: answer.received,
            },
            Extension::Lost => broken!(self.case, "{since}, but an extend was answered `Lost`"),
        }
    }

    /// Extends a lease that must be over, as `since` explains.
    pub(crate) fn lost(&self, lease: &Lease, since: &str) {
        if let Extension::Extended(_) = self.extend(lease, self.case.long()).value {
            broken!(self.case, "{since}, but an extend was answered `Extended`");
        }
    }

    pub(crate) fn release(&self, lease: &Lease) -> Answer<ReleaseOutcome> {
        self.patiently("release", || self.store.release(&self.next_call(lease)))
    }

    /// Releases a lease that has not ended.
    pub(crate) fn frees(&self, lease: &Lease, since: &str) {
        let answer = self.release(lease);
        check!(
            self.case,
            answer.value == ReleaseOutcome::Released || answer.repeated,
            "{since}, but the holder's release was answered `NotHeld`"
        );
    }

    /// Releases a lease that must be over, as `since` explains.
    pub(crate) fn frees_nothing(&self, lease: &Lease, since: &str) {
        let answer = self.release(lease).value;
        check!(
            self.case,
            answer == ReleaseOutcome::NotHeld,
            "{since}, but a release was answered `Released`"
        );
    }

    pub(crate) fn abandon(&self) {
        let done = self.patiently("abandon", || self.store.abandon(&self.claim()));
        let () = done.value;
    }

    pub(crate) fn store(&self) -> &Handle {
        &self.store
    }

    /// Makes a call, and repeats it after transient errors, as core does.
    fn patiently<T>(
        &self,
        operation: &str,
        call: impl Fn() -> Result<T, DatastoreError>,
    ) -> Answer<T> {
        let mut repeated = false;
        let give_up = now().saturating_add(PATIENCE);
        loop {
            let sent = now();
            match call() {
                Ok(value) => {
                    return Answer {
                        sent,
                        received: now(),
                        value,
                        repeated,
                    };
                }
                Err(error) if error.is_transient() && sent < give_up => {
                    repeated |= error.may_have_executed();
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => broken!(self.case, "{operation} failed: {}", described(&error)),
            }
        }
    }
}

/// The error with its sources.
pub(crate) fn described(error: &DatastoreError) -> String {
    error.to_string()
}

/// A grant's fencing token.
pub(crate) fn fence_of(case: &Case<'_>, grant: &Grant) -> FencingToken {
    match grant.fence {
        Some(fence) => fence,
        None => broken!(
            case,
            "the store declares fencing tokens, but a grant has none"
        ),
    }
}
