//! What follows from a state if nothing more goes wrong.

use super::client::{Phase, SLOTS};
use super::explorer::Machine;
use super::protocol::Protocol;
use super::types::{Owner, Part, Property};
use super::world::{Faults, Step, TICK, World};

/// How the clients go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holders {
    Keep,
    LetGo,
    /// The same, and who was paused goes on.
    LetGoAndAllWake,
}

impl<P: Protocol> World<P> {
    /// All clients begin, one after the other: the first one holds, the others wait for it.
    pub(super) fn all_begin(&mut self) {
        let faults = std::mem::take(&mut self.faults);
        for id in 0..self.bounds.clients {
            let mut next = Some(Step::Start(id));
            while let Some(step) = next {
                self.take(step).expect("nothing is broken yet");
                next = self.steps().into_iter().find(|step| {
                    !matches!(
                        step,
                        Step::Start(_) | Step::Look(_) | Step::Release(_) | Step::Tick
                    )
                });
            }
        }
        self.faults = faults;
    }

    /// How many ticks a waiter that is awake may wait while the lock is nobody else's: none without
    /// faults. A lost or late message, look or claim costs one. Each time that the lock is handed
    /// to somebody who does not claim it costs two, as it is his for somewhat more than one: once
    /// for a process that stopped, and once more if what it sent before that comes later and shows
    /// it alive.
    pub(super) fn patience(&self) -> u8 {
        let begins_with = match self.bounds.begins_with {
            Some(Part::Lock) => 1,
            _ => 0,
        };
        let faults = patience(&self.bounds.faults) - patience(&self.faults);
        faults + self.brought_back_costs + begins_with
    }

    /// A tick is about to go by.
    pub(super) fn count_overdue(&mut self) -> Result<(), String> {
        if !P::WAKES || !self.running {
            return Ok(());
        }
        let record = self.server.record(&self.around());
        for id in 0..self.bounds.clients {
            let owner = self.owner(id);
            let is_open = record.is_none_or(|record| {
                let has_ended = self
                    .client(record.owner.client)
                    .waiting
                    .has_ended(record.owner);
                record.handed || record.owner == owner || (record.named && has_ended)
            });
            if !is_open || !self.waits_awake(id) {
                continue;
            }
            let waiting = &mut self.client_mut(id).waiting;
            waiting.overdue += 1;
            let overdue = waiting.overdue;
            if overdue > self.patience() && self.checks(Property::NobodyWaitsForEver) {
                return Err(format!(
                    "NobodyWaitsForEver: {owner:?} waited {overdue} ticks while {record:?} was at the key"
                ));
            }
        }
        Ok(())
    }

    fn waits_awake(&self, id: u8) -> bool {
        let client = self.client(id);
        !client.paused && client.waiting.is_waiting()
    }

    /// Looks a while ahead.
    pub(super) fn check_future(&self) -> Result<(), String> {
        if !P::WAKES || self.bounds.waits.is_none() {
            return Ok(());
        }
        let waiters: Vec<Owner> = (0..self.bounds.clients)
            .filter(|id| self.waits_awake(*id))
            .map(|id| self.owner(id))
            .collect();
        if !waiters.is_empty() && self.checks(Property::NobodyWaitsForEver) {
            let still = |world: &Self, owner: &Owner| {
                world.waits_awake(owner.client) && world.owner(owner.client) == *owner
            };
            // Who holds goes on to, and the others have not forgotten anybody.
            let later = self.clone().goes_on(3, Holders::Keep, |_| false);
            let around = later.around();
            let (queue, record) = (later.server.queue(&around), later.server.record(&around));
            let is_forgotten = |owner: &&Owner| {
                let has_it = record.is_some_and(|record| record.owner == **owner);
                still(&later, owner) && !has_it && !queue.contains(owner)
            };
            if let Some(owner) = waiters.iter().find(is_forgotten) {
                return Err(format!(
                    "NobodyWaitsForEver: {owner:?} is forgotten, {}",
                    later.show()
                ));
            }
            // What is left of a lease, a turn for everybody and a pause after a failure.
            let ticks = u64::try_from(self.bounds.ttl.as_millis()).expect("short") / TICK + 5;
            let later = self.clone().goes_on(ticks, Holders::LetGo, |world| {
                !waiters.iter().any(|owner| still(world, owner))
            });
            if let Some(owner) = waiters.iter().find(|owner| still(&later, owner)) {
                return Err(format!(
                    "NobodyWaitsForEver: {owner:?} waits {ticks} ticks later, {}",
                    later.show()
                ));
            }
        }
        if self.checks(Property::NothingStays) {
            return self.clone().comes_to_nothing();
        }
        Ok(())
    }

    /// All clients come to their end.
    fn comes_to_nothing(self) -> Result<(), String> {
        let mut later = self.goes_on(20, Holders::LetGoAndAllWake, Self::is_over);
        if !later.is_over() {
            return Err(format!("NothingStays: not over, {}", later.show()));
        }
        let mut around = later.around();
        let stays = later.server.queue(&around);
        let may_stay = |owner: &Owner| {
            let client = later.client(owner.client);
            // What came back of those that ended is forgotten when nobody calls.
            let has_old_data = later.brought_back_costs > 0 || later.bounds.begins_with.is_some();
            client.phase == Phase::Dead || has_old_data
        };
        if let Some(owner) = stays.iter().find(|owner| !may_stay(owner)) {
            return Err(format!(
                "NothingStays: {owner:?} is queued, {}",
                later.show()
            ));
        }
        for flight in std::mem::take(&mut later.flights) {
            let _ = later.server.execute(&flight.request, &mut around, true);
        }
        // queue.lua, `KEPT_MS`
        let ttl = longest_hold(&later);
        around.now += ttl.max(10 * TICK);
        around.wall += ttl.max(10 * TICK);
        later.server.notice_time(&around);
        if !later.server.is_empty(&around) {
            return Err(format!("NothingStays: {:?} long after", later.server));
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let is_over = |id: u8| {
            let client = self.client(id);
            let at_rest = matches!(client.phase, Phase::Idle | Phase::Ended | Phase::Dead);
            let is_calling = SLOTS.iter().any(|slot| client.pending(*slot).is_some());
            at_rest && !is_calling && !client.waiting.owes()
        };
        (0..self.bounds.clients).all(is_over)
    }

    /// Goes on without a fault for some ticks, in one order of many, until that is so. Holders let
    /// go at once; nobody begins anew.
    fn goes_on(mut self, ticks: u64, holders: Holders, until: impl Fn(&Self) -> bool) -> Self {
        self.faults = Faults::default();
        // From now on it acknowledges at once.
        self.replica = None;
        self.flights.retain(|flight| flight.awaited);
        self.lasts_until = self.now + ticks * TICK;
        self.bounds = self.without_checks.clone();
        while !until(&self) {
            let step = self.steps().into_iter().find(|step| match step {
                Step::Start(_) | Step::Look(_) => false,
                Step::Release(_) => holders != Holders::Keep,
                Step::Resume(_) => holders == Holders::LetGoAndAllWake,
                Step::Deliver(at) => self.flights[usize::from(*at)].awaited,
                _ => true,
            });
            let Some(step) = step else { break };
            if self.take(step).is_err() {
                break;
            }
        }
        self
    }
}

/// The longest that anything is held without a renewal, in ms.
fn longest_hold<P: Protocol>(world: &World<P>) -> u64 {
    let bounds = &world.bounds;
    let ttl = bounds.ttl.max(bounds.min_hold.unwrap_or_default());
    u64::try_from(ttl.as_millis()).expect("short")
}

fn patience(faults: &Faults) -> u8 {
    let Faults {
        losses,
        lates,
        copies,
        pauses,
        crashes,
        stops,
        restarts,
        wipes,
        flushes,
        unsubscribed,
        old_data: _,
        failovers: _,
        clock_back,
        clock_forward,
    } = *faults;
    let twice = pauses + crashes;
    let once = losses + lates + copies + stops + restarts + wipes + flushes + unsubscribed;
    4 * twice + once + clock_back + clock_forward
}
