//! One key: what the model has at it, and what is known of real time.

use std::collections::BTreeMap;
use std::time::Duration;

use dlock_core::{
    Attempt, Datastore as _, Extension, FakeClock, Fencing, FencingToken, Held, Holder,
    Inspect as _, MemoryDatastore, Released, Time, drift,
};

use crate::case::{Case, now};
use crate::client::Answer;
use crate::machine::{Ended, Played, differs};
use crate::player::Player;

const ALWAYS_UP: &str = "the model does not fail";

pub(crate) struct Shelf<'c> {
    case: &'c Case<'c>,
    key: String,
    clock: FakeClock,
    model: MemoryDatastore,
    /// The store's fencing tokens by the model's.
    fences: BTreeMap<FencingToken, Option<FencingToken>>,
    /// Until then the present lease is surely alive.
    alive_until: Time,
    /// From then on it is surely over.
    over_from: Time,
}

impl<'c> Shelf<'c> {
    pub(crate) fn new(case: &'c Case<'c>, key: &str) -> Self {
        let clock = FakeClock::new();
        Shelf {
            case,
            key: key.to_owned(),
            model: MemoryDatastore::with_clock(clock.clock()),
            clock,
            fences: BTreeMap::new(),
            alive_until: Time::ZERO,
            over_from: Time::ZERO,
        }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn clock(&self) -> &FakeClock {
        &self.clock
    }

    pub(crate) fn acquire(&self, player: &Player<'_>, ttl: Duration) -> Attempt {
        self.model.acquire(&player.claim, ttl).expect(ALWAYS_UP)
    }

    pub(crate) fn extend(
        &self,
        player: &Player<'_>,
        holder: &str,
        number: u64,
        ttl: Duration,
    ) -> Extension {
        let lease = player.modelled().with_holder(holder);
        let lease = lease.for_call(number, Time::MAX);
        self.model.extend(&lease, ttl).expect(ALWAYS_UP)
    }

    pub(crate) fn release(&self, player: &Player<'_>) -> Released {
        self.model.release(&player.modelled()).expect(ALWAYS_UP)
    }

    pub(crate) fn abandon(&self, player: &Player<'_>) {
        self.model.abandon(&player.claim).expect(ALWAYS_UP);
    }

    /// Who holds the key in the model.
    pub(crate) fn seen(&self) -> Option<Held> {
        self.model.holder(&self.key).expect(ALWAYS_UP)
    }

    /// What the model calls the holder.
    pub(crate) fn holder(&self) -> Option<Holder> {
        self.seen()?.holder().cloned()
    }

    pub(crate) fn is_held(&self) -> bool {
        self.seen().is_some()
    }

    pub(crate) fn is_held_by(&self, player: &Player<'_>) -> bool {
        let fence = player.modelled().fence();
        self.seen().is_some_and(|held| held.fence() == fence)
    }

    /// Whether the present lease is to end during the case.
    pub(crate) fn is_short(&self) -> bool {
        self.seen()
            .and_then(|held| held.expires_in())
            .is_some_and(|left| left <= self.case.short())
    }

    /// What the present lease has left at the least.
    pub(crate) fn left_for_sure(&self) -> Duration {
        now().until(self.alive_until)
    }

    /// Waits until the present lease is surely over, and ends it in the model.
    pub(crate) fn let_end(&self) {
        self.case.sleep_until(self.over_from);
        let left = self.seen().and_then(|held| held.expires_in());
        self.clock.advance(left.unwrap_or_default());
    }

    /// Refuses to judge an answer that came when the present lease may have been over.
    pub(crate) fn check_in_time(&self, received: Time) -> Played {
        match self.is_held() && received > self.alive_until {
            true => Err(Ended::TooSlow),
            false => Ok(()),
        }
    }

    /// The lease now lasts for `least` to `most` from this answer's call.
    pub(crate) fn granted<T>(&mut self, answer: &Answer<T>, least: Duration, most: Duration) {
        self.alive_until = answer
            .sent
            .saturating_add(least.saturating_sub(drift(least)));
        let tail = self.case.tail(most);
        self.over_from = answer.received.saturating_add(most.saturating_add(tail));
    }

    /// The same, unless it had more.
    pub(crate) fn prolonged<T>(&mut self, answer: &Answer<T>, least: Duration, most: Duration) {
        let (alive_until, over_from) = (self.alive_until, self.over_from);
        self.granted(answer, least, most);
        self.alive_until = self.alive_until.max(alive_until);
        self.over_from = self.over_from.max(over_from);
    }

    /// One token for each of the model's, in the same order.
    pub(crate) fn check_fence(
        &mut self,
        seen: Option<FencingToken>,
        model: Option<FencingToken>,
    ) -> Played {
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
