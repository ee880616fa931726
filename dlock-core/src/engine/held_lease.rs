//! A lease that this process holds: its schedule, shared by the guard and the keeper.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ProcessId;
use crate::contract::error::DatastoreError;
use crate::contract::grant::FencingToken;
use crate::contract::lease::Lease;
use crate::contract::outcome::Extension;
use crate::engine::callback::{Callback, Callbacks};
use crate::engine::lease_policy::LeasePolicy;
use crate::engine::lease_schedule::{After, Due, LeaseSchedule, Notice, Room};
use crate::time::clock::Clock;
use crate::time::instant::Time;

/// A lease that this process holds.
///
/// What its schedule decides is published where a guard can look without a lock: until when it is
/// valid, and whether it is lost.
#[cfg_attr(test, derive(Debug))]
pub struct HeldLease {
    clock: Clock,
    process: ProcessId,
    key: Arc<str>,
    fence: Option<FencingToken>,
    policy: LeasePolicy,
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
    schedule: LeaseSchedule,
    on_lost: Callbacks,
    on_at_risk: Callbacks,
}

impl HeldLease {
    /// The lease that `process` acquired, which is this one, by a grant that was received at
    /// `acquired`.
    pub fn new(
        process: ProcessId,
        lease: Lease,
        acquired: Time,
        until: Time,
        policy: LeasePolicy,
    ) -> Self {
        let clock = lease.clock().clone();
        let schedule = LeaseSchedule::new(&policy, acquired, until);
        HeldLease {
            process,
            key: Arc::clone(lease.claim().shared_key()),
            fence: lease.fence(),
            acquired,
            until: AtomicU64::new(schedule.valid_until().as_nanos()),
            lost: AtomicBool::new(false),
            sequence: AtomicU64::new(0),
            slot: Mutex::new(Slot {
                lease: Some(lease),
                schedule,
                on_lost: Callbacks::default(),
                on_at_risk: Callbacks::default(),
            }),
            clock,
            policy,
        }
    }

    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    pub fn fence(&self) -> Option<FencingToken> {
        self.fence
    }

    pub fn policy(&self) -> &LeasePolicy {
        &self.policy
    }

    /// The process that acquired.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// Whether this process is a fork of the one that acquired. Asked before any lock is touched: a
    /// thread that the child lacks may have held it.
    pub fn is_inherited(&self) -> bool {
        self.process != ProcessId::current()
    }

    /// How long the lease is valid, on the look that this is; declares the loss if it is over. The
    /// second value is what must be called then.
    pub fn look(&self) -> (Duration, Callbacks) {
        if self.is_inherited() || self.lost.load(Ordering::Acquire) {
            return (Duration::ZERO, Callbacks::default());
        }
        let left = self.left();
        if !left.is_zero() {
            return (left, Callbacks::default());
        }
        let mut slot = self.slot();
        let left = self.left(); // an extend may have come in between
        if left.is_zero() {
            (left, self.lose(&mut slot))
        } else {
            (left, Callbacks::default())
        }
    }

    fn left(&self) -> Duration {
        self.clock.now().until(self.until())
    }

    /// Whether the lease was valid at `now`, without declaring anything.
    pub fn was_valid(&self, now: Time) -> bool {
        !self.lost.load(Ordering::Acquire) && now < self.until()
    }

    pub fn until(&self) -> Time {
        Time::from_nanos(self.until.load(Ordering::Acquire))
    }

    /// What is left of `min_hold`, at least what the store takes; `None` if it is over.
    pub fn hold_left(&self) -> Option<Duration> {
        let end = self.acquired.saturating_add(self.policy.min_hold?);
        let left = self.clock.now().until(end);
        (!left.is_zero()).then(|| left.max(self.policy.ttl_min))
    }

    /// Calls `callback` when the lease is lost; gives it back if it is already.
    pub fn on_lost(&self, callback: Callback) -> Option<Callback> {
        let mut slot = self.slot();
        if self.lost.load(Ordering::Acquire) {
            return Some(callback);
        }
        slot.on_lost.push(callback);
        None
    }

    /// Calls `callback` when only the grace period is left; gives it back if that is so already.
    pub fn on_at_risk(&self, callback: Callback) -> Option<Callback> {
        let mut slot = self.slot();
        if self.lost.load(Ordering::Acquire) || slot.schedule.is_at_risk() {
            return Some(callback);
        }
        slot.on_at_risk.push(callback);
        None
    }

    /// Takes the lease out of renewal, for good. The answer to a call that is under way is ignored.
    pub fn take(&self) -> Option<Lease> {
        let mut slot = self.slot();
        let lease = slot.lease.take();
        slot.schedule.release();
        let callbacks = (
            std::mem::take(&mut slot.on_lost),
            std::mem::take(&mut slot.on_at_risk),
        );
        drop(slot);
        drop(callbacks);
        lease
    }

    /// The lease for the release of what may have been extended after it was lost: `taken` from
    /// the guard, or still the guard's.
    pub fn for_clean_up(&self, taken: Option<&Lease>, room: Room) -> Option<Lease> {
        let most = self.policy.call_timeout.min(room.of(self.policy.ttl));
        let not_after = self.clock.now().saturating_add(most);
        let slot = self.slot();
        let lease = taken.or(slot.lease.as_ref())?;
        Some(self.number(lease, not_after))
    }

    /// When the grant was received.
    pub fn acquired(&self) -> Time {
        self.acquired
    }

    /// How long the lock was held: until now, or until the lease ended.
    pub fn held_for(&self) -> Duration {
        let lost = self.lost.load(Ordering::Acquire);
        let end = if lost { self.until() } else { Time::MAX };
        self.acquired.until(end.min(self.clock.now()))
    }

    /// The time to live that is asked for again and again, if the lease is renewed.
    pub fn renewed_for(&self) -> Option<Duration> {
        self.policy.renew.then_some(self.policy.ttl)
    }

    /// How long after it was due a renewal was sent at `sent`.
    pub fn renewal_lag(&self, sent: Time) -> Duration {
        self.slot().schedule.renewal_lag(sent)
    }

    /// This lease for its next call.
    pub fn number(&self, lease: &Lease, not_after: Time) -> Lease {
        lease.for_call(self.next_number(), not_after)
    }

    /// Turns `lease` into this lease for its next call.
    pub fn renumber(&self, lease: &mut Lease, not_after: Time) {
        lease.renumber(self.next_number(), not_after);
    }

    fn next_number(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// What is due for this lease now. Callbacks that must be called are added to `call`.
    pub fn due(&self, now: Time, call: &mut Callbacks) -> Due {
        let mut slot = self.slot();
        let (due, notice) = slot.schedule.due(&self.policy, now);
        match notice {
            Some(Notice::AtRisk) => call.append(&mut slot.on_at_risk),
            Some(Notice::Lost) => call.append(&mut self.lose(&mut slot)),
            None => {}
        }
        due
    }

    /// When something is due for this lease next.
    pub fn next_look(&self) -> Time {
        self.slot().schedule.next_look(&self.policy)
    }

    /// The lease for a confirmation, to send now; `None` if there is nothing to confirm any more,
    /// or an extend took its place.
    pub fn send_confirm(&self, room: Room) -> Option<Lease> {
        let mut slot = self.slot();
        if !slot.schedule.send_confirm() {
            return None;
        }
        self.for_keeper(&slot, self.clock.now(), room)
    }

    /// The lease for an extend, to send now, and the time to ask for; `None` if the guard has let
    /// go, the lease is lost, or there is no time worth asking for.
    pub fn send(&self, room: Room) -> Option<(Lease, Duration)> {
        let mut slot = self.slot();
        let now = self.clock.now();
        let ttl = slot.schedule.send(&self.policy, now)?;
        Some((self.for_keeper(&slot, now, room)?, ttl))
    }

    /// The lease for a call of the keeper that starts now.
    fn for_keeper(&self, slot: &Slot, now: Time, room: Room) -> Option<Lease> {
        let end = slot.schedule.call_end(&self.policy, now, room);
        let lease = slot.lease.as_ref()?;
        Some(self.number(lease, end))
    }

    /// Takes in the answer to an extend for `asked` that was sent at `sent`.
    pub fn extended(
        &self,
        sent: Time,
        asked: Duration,
        answer: &Result<Extension, DatastoreError>,
        call: &mut Callbacks,
    ) -> After {
        let now = self.clock.now();
        let mut slot = self.slot();
        let schedule = &mut slot.schedule;
        let after = schedule.extended(&self.policy, (sent, now), asked, answer);
        self.answered(&mut slot, &after, answer, call);
        after
    }

    /// Takes in what the store really keeps, asked for at `sent`. It can shorten the lease, never
    /// lengthen it.
    pub fn confirmed(
        &self,
        sent: Time,
        answer: &Result<Extension, DatastoreError>,
        call: &mut Callbacks,
    ) -> After {
        let now = self.clock.now();
        let mut slot = self.slot();
        let schedule = &mut slot.schedule;
        let after = schedule.confirmed(&self.policy, (sent, now), answer);
        self.answered(&mut slot, &after, answer, call);
        after
    }

    /// Publishes what the schedule made of an answer.
    fn answered(
        &self,
        slot: &mut Slot,
        after: &After,
        answer: &Result<Extension, DatastoreError>,
        call: &mut Callbacks,
    ) {
        if matches!(after, After::Gone | After::Orphaned) {
            return;
        }
        if let (Some(lease), Ok(Extension::Extended(grant))) = (&slot.lease, answer) {
            slot.lease = Some(lease.renewed(grant.clone()));
        }
        let until = slot.schedule.valid_until();
        self.until.store(until.as_nanos(), Ordering::Release);
        if *after == After::Lost {
            call.append(&mut self.lose(slot));
        }
    }

    /// Declares the loss, once and for good.
    fn lose(&self, slot: &mut Slot) -> Callbacks {
        slot.schedule.lose();
        if self.lost.swap(true, Ordering::AcqRel) {
            return Callbacks::default();
        }
        // `on_at_risk` goes with the guard: dropping what it owns is nothing for a thread of the
        // keeper.
        std::mem::take(&mut slot.on_lost)
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
