//! A lease that this process holds: until when, whether it is lost, and what is due next. Decisions only, no I/O.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::callback::Callback;
use crate::lease::valid_until;
use crate::terms::Terms;
use crate::{Clock, DatastoreError, Extension, FencingToken, Lease, Time};

/// A lease that this process holds, shared by its guard and the keeper.
#[cfg_attr(test, derive(Debug))]
pub(crate) struct HeldLease {
    clock: Clock,
    pid: u32,
    key: Arc<str>,
    fence: Option<FencingToken>,
    terms: Terms,
    /// When the grant was received.
    acquired: Time,
    /// Until when the lease is valid, in nanoseconds.
    until: AtomicU64,
    lost: AtomicBool,
    sequence: AtomicU64,
    slot: Mutex<Slot>,
}

#[cfg_attr(test, derive(Debug))]
struct Slot {
    /// The lease; taken out by the release of the guard.
    lease: Option<Lease>,
    /// A call of the keeper is under way.
    busy: bool,
    /// That call is a confirmation that was not sent yet: an extend, which matters more, takes its place.
    confirm_waits: bool,
    renew_at: Time,
    confirm_at: Time,
    /// Extend although renewal is off: the store keeps the lease shorter than it granted.
    restore: Option<Time>,
    at_risk_told: bool,
    on_lost: Vec<Callback>,
    on_at_risk: Vec<Callback>,
}

/// What is due for a lease.
pub(crate) enum Due {
    /// Nothing before [`next_look`](HeldLease::next_look).
    Nothing,
    /// This call; what comes after is known when it was answered.
    Call(Call),
    /// Nothing any more.
    Over,
}

/// A call that the keeper makes for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Extend,
    Confirm,
}

/// What became of a lease after a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It is valid for this long.
    Valid(Duration),
    /// It is lost, and was not before.
    Lost,
    /// The store extended what was lost before: it must be released.
    Orphaned,
    /// The guard released it meanwhile, or it was lost before.
    Gone,
}

impl Slot {
    /// No more calls for this lease.
    fn give_up(&mut self) {
        (self.busy, self.renew_at, self.confirm_at) = (false, Time::MAX, Time::MAX);
    }
}

impl HeldLease {
    /// The lease that the process `pid` acquired, which is this one.
    pub(crate) fn new(pid: u32, lease: Lease, until: Time, terms: Terms) -> Self {
        let clock = lease.clock().clone();
        let now = clock.now();
        let hold_end = terms
            .max_hold
            .map_or(Time::MAX, |most| now.saturating_add(most));
        let until = until.min(hold_end);
        let next = now.until(until) / 3;
        HeldLease {
            pid,
            key: Arc::clone(lease.claim().shared_key()),
            fence: lease.fence(),
            acquired: now,
            until: AtomicU64::new(until.as_nanos()),
            lost: AtomicBool::new(false),
            sequence: AtomicU64::new(0),
            slot: Mutex::new(Slot {
                lease: Some(lease),
                busy: false,
                confirm_waits: false,
                renew_at: if terms.renew {
                    now.saturating_add(next)
                } else {
                    Time::MAX
                },
                confirm_at: terms
                    .confirm_after
                    .map_or(Time::MAX, |after| now.saturating_add(after)),
                restore: None,
                at_risk_told: false,
                on_lost: Vec::new(),
                on_at_risk: Vec::new(),
            }),
            clock,
            terms,
        }
    }

    pub(crate) fn key(&self) -> &Arc<str> {
        &self.key
    }

    pub(crate) fn fence(&self) -> Option<FencingToken> {
        self.fence
    }

    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The process that acquired.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether this process is a fork of the one that acquired. Asked before any lock is touched: a thread that the
    /// child lacks may have held it.
    pub(crate) fn is_inherited(&self) -> bool {
        self.pid != std::process::id()
    }

    /// How long the lease is valid, on the look that this is; declares the loss if it is over. The second value is what
    /// must be called then.
    pub(crate) fn look(&self) -> (Duration, Vec<Callback>) {
        if self.is_inherited() || self.lost.load(Ordering::Acquire) {
            return (Duration::ZERO, Vec::new());
        }
        let left = self.left();
        if !left.is_zero() {
            return (left, Vec::new());
        }
        let mut slot = self.slot();
        let left = self.left(); // an extend may have come in between
        if left.is_zero() {
            (left, self.lose(&mut slot))
        } else {
            (left, Vec::new())
        }
    }

    fn left(&self) -> Duration {
        self.clock.now().until(self.until())
    }

    /// Whether the lease was valid at `now`, without declaring anything.
    pub(crate) fn was_valid(&self, now: Time) -> bool {
        !self.lost.load(Ordering::Acquire) && now < self.until()
    }

    pub(crate) fn until(&self) -> Time {
        Time::from_nanos(self.until.load(Ordering::Acquire))
    }

    fn hold_end(&self) -> Time {
        self.terms
            .max_hold
            .map_or(Time::MAX, |most| self.acquired.saturating_add(most))
    }

    /// What is left of `min_hold`, at least what the store takes; `None` if it is over.
    pub(crate) fn hold_left(&self) -> Option<Duration> {
        let end = self.acquired.saturating_add(self.terms.min_hold?);
        let left = self.clock.now().until(end);
        (!left.is_zero()).then(|| left.max(self.terms.ttl_min))
    }

    /// Calls `callback` when the lease is lost; gives it back if it is already.
    pub(crate) fn on_lost(&self, callback: Callback) -> Option<Callback> {
        let mut slot = self.slot();
        if self.lost.load(Ordering::Acquire) {
            return Some(callback);
        }
        slot.on_lost.push(callback);
        None
    }

    /// Calls `callback` when only the grace period is left; gives it back if that is so already.
    pub(crate) fn on_at_risk(&self, callback: Callback) -> Option<Callback> {
        let mut slot = self.slot();
        if self.lost.load(Ordering::Acquire) || slot.at_risk_told {
            return Some(callback);
        }
        slot.on_at_risk.push(callback);
        None
    }

    /// Takes the lease out of renewal, for good. The answer to a call that is under way is ignored.
    pub(crate) fn take(&self) -> Option<Lease> {
        let mut slot = self.slot();
        let lease = slot.lease.take();
        let callbacks = (
            std::mem::take(&mut slot.on_lost),
            std::mem::take(&mut slot.on_at_risk),
        );
        drop(slot);
        // What a callback owns may do anything when it is dropped: release another guard, panic.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(callbacks)));
        lease
    }

    /// The lease for the release of what was extended after it was lost.
    pub(crate) fn for_orphan(&self) -> Option<Lease> {
        let slot = self.slot();
        let not_after = self.clock.now().saturating_add(self.terms.call_timeout);
        slot.lease
            .as_ref()
            .map(|lease| self.number(lease, not_after))
    }

    /// This lease for its next call.
    pub(crate) fn number(&self, lease: &Lease, not_after: Time) -> Lease {
        lease.for_call(self.sequence.fetch_add(1, Ordering::AcqRel) + 1, not_after)
    }

    /// What is due for this lease now. Callbacks that must be called are added to `call`.
    pub(crate) fn due(&self, now: Time, call: &mut Vec<Callback>) -> Due {
        let mut slot = self.slot();
        if slot.lease.is_none() || self.lost.load(Ordering::Acquire) {
            return Due::Over;
        }
        if now >= self.until() {
            call.append(&mut self.lose(&mut slot));
            return Due::Over;
        }
        if !slot.at_risk_told && now >= self.risk_at() {
            slot.at_risk_told = true;
            call.append(&mut slot.on_at_risk);
        }
        let renew = now >= slot.renew_at && (!slot.busy || slot.confirm_waits);
        let confirm = now >= slot.confirm_at && !slot.busy;
        let call = if renew {
            Some(Call::Extend)
        } else {
            confirm.then_some(Call::Confirm)
        };
        match call {
            Some(call) => {
                slot.busy = true;
                slot.confirm_waits = call == Call::Confirm;
                Due::Call(call)
            }
            None => Due::Nothing,
        }
    }

    /// When something is due for this lease next.
    pub(crate) fn next_look(&self) -> Time {
        self.next(&self.slot())
    }

    fn next(&self, slot: &Slot) -> Time {
        let mut next = self.until();
        if !slot.at_risk_told {
            next = next.min(self.risk_at());
        }
        if !slot.busy {
            next = next.min(slot.renew_at).min(slot.confirm_at);
        } else if slot.confirm_waits {
            next = next.min(slot.renew_at);
        }
        next
    }

    fn risk_at(&self) -> Time {
        self.until().saturating_sub(self.terms.grace)
    }

    /// The lease for a confirmation, to send now; `None` if there is nothing to confirm any more, or an extend took its place.
    pub(crate) fn send_confirm(&self) -> Option<Lease> {
        let mut slot = self.slot();
        if !std::mem::take(&mut slot.confirm_waits) {
            return None;
        }
        let Some(lease) = self.live(&slot) else {
            slot.give_up();
            return None;
        };
        Some(self.number(lease, self.call_end()))
    }

    /// The lease for an extend, to send now, and the time to ask for; `None` if the guard has let go, the lease is lost, or
    /// there is no time worth asking for.
    pub(crate) fn send(&self) -> Option<(Lease, Duration)> {
        let mut slot = self.slot();
        let asked = self.time_to_ask(self.clock.now(), &slot);
        let (Some(lease), Some(ttl)) = (self.live(&slot), asked) else {
            slot.give_up();
            return None;
        };
        Some((self.number(lease, self.call_end()), ttl))
    }

    /// The lease, if there is still somebody who believes in it.
    fn live<'a>(&self, slot: &'a Slot) -> Option<&'a Lease> {
        slot.lease
            .as_ref()
            .filter(|_| !self.lost.load(Ordering::Acquire))
    }

    /// The end of a call of the keeper that starts now: a third of what is left, so that one dead server does not take up the time in which
    /// another try could succeed.
    fn call_end(&self) -> Time {
        let now = self.clock.now();
        let third = now.until(self.until()) / 3;
        now.saturating_add(third.min(self.terms.call_timeout))
    }

    /// What an extend asks for: clipped so that the lease ends with `max_hold`, or where it ended before the store was
    /// found to keep it shorter.
    fn time_to_ask(&self, now: Time, slot: &Slot) -> Option<Duration> {
        let end = match slot.restore {
            Some(end) if !self.terms.renew => end,
            _ => self.hold_end(),
        };
        let ttl = now.until(end).min(self.terms.ttl);
        (ttl >= self.terms.ttl_min).then_some(ttl)
    }

    /// Takes in the answer to an extend for `asked` that was sent at `sent`.
    pub(crate) fn extended(
        &self,
        sent: Time,
        asked: Duration,
        answer: &Result<Extension, DatastoreError>,
        call: &mut Vec<Callback>,
    ) -> After {
        let now = self.clock.now();
        let mut slot = self.slot();
        slot.busy = false;
        let Some(lease) = &slot.lease else {
            return After::Gone;
        };
        let extended = matches!(answer, Ok(Extension::Extended(_)));
        if self.lost.load(Ordering::Acquire) {
            return if extended {
                After::Orphaned
            } else {
                After::Gone
            };
        }
        match answer {
            Ok(Extension::Extended(grant)) => {
                let lease = lease.renewed(grant.clone());
                let until = valid_until(sent, grant.ttl).min(self.hold_end());
                slot.lease = Some(lease);
                slot.restore = None;
                // Asked for less than the full time: there is nothing more to ask for.
                let last = asked < self.terms.ttl || !self.terms.renew;
                slot.renew_at = if last {
                    Time::MAX
                } else {
                    sent.saturating_add(sent.until(until) / 3)
                };
                if let Some(after) = self.terms.confirm_after {
                    slot.confirm_at = now.saturating_add(after);
                }
                self.set_until(&mut slot, now, until, call)
            }
            Ok(Extension::Lost) => {
                call.append(&mut self.lose(&mut slot));
                After::Lost
            }
            Err(_) => {
                slot.renew_at = now.saturating_add(self.retry_in());
                After::Valid(now.until(self.until()))
            }
        }
    }

    /// Takes in what the store really keeps, asked for at `sent`. It can shorten the lease, never lengthen it.
    pub(crate) fn confirmed(
        &self,
        sent: Time,
        answer: &Result<Extension, DatastoreError>,
        call: &mut Vec<Callback>,
    ) -> After {
        let now = self.clock.now();
        let mut slot = self.slot();
        slot.busy = false;
        slot.confirm_at = Time::MAX;
        let Some(lease) = &slot.lease else {
            return After::Gone;
        };
        if self.lost.load(Ordering::Acquire) {
            return After::Gone;
        }
        match answer {
            Ok(Extension::Extended(grant)) => {
                let before = self.until();
                let until = valid_until(sent, grant.ttl).min(before);
                let short = until < before;
                let lease = lease.renewed(grant.clone());
                slot.lease = Some(lease);
                if short {
                    slot.restore = Some(before);
                    slot.renew_at = now;
                }
                self.set_until(&mut slot, now, until, call)
            }
            Ok(Extension::Lost) => {
                call.append(&mut self.lose(&mut slot));
                After::Lost
            }
            Err(_) => {
                slot.confirm_at = now.saturating_add(self.retry_in());
                After::Valid(now.until(self.until()))
            }
        }
    }

    fn set_until(
        &self,
        slot: &mut Slot,
        now: Time,
        until: Time,
        call: &mut Vec<Callback>,
    ) -> After {
        self.until.store(until.as_nanos(), Ordering::Release);
        let left = now.until(until);
        if left.is_zero() {
            call.append(&mut self.lose(slot));
            return After::Lost;
        }
        slot.at_risk_told = slot.at_risk_told && left <= self.terms.grace;
        After::Valid(left)
    }

    fn retry_in(&self) -> Duration {
        (self.terms.ttl / 10).clamp(Duration::from_millis(1), Duration::from_secs(1))
    }

    /// Declares the loss, once and for good.
    fn lose(&self, slot: &mut Slot) -> Vec<Callback> {
        if self.lost.swap(true, Ordering::AcqRel) {
            return Vec::new();
        }
        // `on_at_risk` goes with the guard: dropping what it owns is nothing for a thread of the keeper.
        std::mem::take(&mut slot.on_lost)
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
