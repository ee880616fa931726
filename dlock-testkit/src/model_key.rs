//! One key in the model, and the bounds of its lease in real time.

use std::collections::BTreeMap;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Datastore as _, Extension, FakeClock, Fencing, FencingToken, HeldBy, Holder,
    Inspect as _, MemoryDatastore, ReleaseOutcome, Time, drift,
};

use crate::case::{Case, now};
use crate::claimant::Claimant;
use crate::client::{Answer, Client};
use crate::step::{Ended, StepResult, differs};

const ALWAYS_UP: &str = "the model does not fail";

pub(crate) struct ModelKey<'c> {
    case: &'c Case<'c>,
    key: String,
    clock: FakeClock,
    model: MemoryDatastore,
    /// The store's fencing token for each token of the model.
    fences: BTreeMap<FencingToken, Option<FencingToken>>,
    /// Until this time the present lease is certainly alive.
    alive_until: Time,
    /// From this time it is certainly over.
    over_from: Time,
}

impl<'c> ModelKey<'c> {
    pub(crate) fn new(case: &'c Case<'c>, key: &str) -> Self {
        let clock = FakeClock::new();
        ModelKey {
            case,
            key: key.to_owned(),
            model: MemoryDatastore::with_clock(clock.clock()),
            clock,
            fences: BTreeMap::new(),
            alive_until: Time::ZERO,
            over_from: Time::ZERO,
        }
    }

    /// A claimant of this key that does in the model what its client does in the store.
    pub(crate) fn claimant<'a>(&self, client: Client<'a>) -> Claimant<'a> {
        Claimant::new(client, &self.key, &self.clock.clock())
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn acquire(&self, claimant: &Claimant<'_>, ttl: Duration) -> AcquireOutcome {
        self.model.acquire(&claimant.claim, ttl).expect(ALWAYS_UP)
    }

    pub(crate) fn extend(
        &self,
        claimant: &Claimant<'_>,
        holder: &str,
        number: u64,
        ttl: Duration,
    ) -> Extension {
        let lease = claimant.modelled().with_holder(holder);
        let lease = lease.for_call(number, Time::MAX);
        self.model.extend(&lease, ttl).expect(ALWAYS_UP)
    }

    pub(crate) fn release(&self, claimant: &Claimant<'_>) -> ReleaseOutcome {
        self.model.release(&claimant.modelled()).expect(ALWAYS_UP)
    }

    pub(crate) fn abandon(&self, claimant: &Claimant<'_>) {
        self.model.abandon(&claimant.claim).expect(ALWAYS_UP);
    }

    /// The holder of the key in the model.
    pub(crate) fn seen(&self) -> Option<HeldBy> {
        self.model.holder(&self.key).expect(ALWAYS_UP)
    }

    /// The description of the holder in the model.
    pub(crate) fn holder(&self) -> Option<Holder> {
        self.seen()?.holder().cloned()
    }

    pub(crate) fn is_held(&self) -> bool {
        self.seen().is_some()
    }

    pub(crate) fn is_held_by(&self, claimant: &Claimant<'_>) -> bool {
        let fence = claimant.modelled().fence();
        self.seen().is_some_and(|held| held.fence() == fence)
    }

    /// Returns whether the present lease is meant to end during the case.
    pub(crate) fn is_short(&self) -> bool {
        self.seen()
            .and_then(|held| held.expires_in())
            .is_some_and(|left| left <= self.case.short())
    }

    /// The least remaining time of the present lease.
    pub(crate) fn left_for_sure(&self) -> Duration {
        now().until(self.alive_until)
    }

    /// Waits until the present lease is certainly over, and ends it in the model.
    pub(crate) fn let_end(&self) {
        self.case.sleep_until(self.over_from);
        let left = self.seen().and_then(|held| held.expires_in());
        self.clock.advance(left.unwrap_or_default());
    }

    /// Refuses to judge an answer if the present lease may have been over when it came.
    pub(crate) fn check_in_time(&self, received: Time) -> StepResult {
        match self.is_held() && received > self.alive_until {
            true => Err(Ended::TooSlow),
            false => Ok(()),
        }
    }

    /// Sets the remaining time of the lease to `least` to `most` from this answer's call.
    pub(crate) fn granted<T>(&mut self, answer: &Answer<T>, least: Duration, most: Duration) {
        self.alive_until = answer
            .sent
            .saturating_add(least.saturating_sub(drift(least)));
        let tail = self.case.tail(most);
        self.over_from = answer.received.saturating_add(most.saturating_add(tail));
    }

    /// The same, but never shortens the remaining time.
    pub(crate) fn prolonged<T>(&mut self, answer: &Answer<T>, least: Duration, most: Duration) {
        let (alive_until, over_from) = (self.alive_until, self.over_from);
        self.granted(answer, least, most);
        self.alive_until = self.alive_until.max(alive_until);
        self.over_from = self.over_from.max(over_from);
    }

    /// Checks that the store's tokens correspond to the model's, in the same order.
    pub(crate) fn check_fence(
        &mut self,
        seen: Option<FencingToken>,
        model: Option<FencingToken>,
    ) -> StepResult {
        let model = model.expect("the model has fencing tokens");
        if seen.is_none() && self.case.traits.fencing == Fencing::None {
            return Ok(());
        }
        if let Some(known) = self.fences.get(&model) {
            return match *known == seen {
                true => Ok(()),
                false => differs(format!("the fencing token is {seen:?}, it was {known:?}")),
            };
        }
        let last = self.fences.last_key_value().and_then(|(_, last)| *last);
        if seen <= last {
            return differs(format!("the fencing token {seen:?} came after {last:?}"));
        }
        self.fences.insert(model, seen);
        Ok(())
    }
}
