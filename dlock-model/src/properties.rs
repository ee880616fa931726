//! What must hold, looked at in every state.

use super::client::Phase;
use super::protocol::Protocol;
use super::types::{Fence, Owner, Property, Record, Seed};
use super::world::World;

impl<P: Protocol> World<P> {
    /// A client received a grant.
    pub(super) fn note_fence(&mut self, ordinal: u8, fence: Fence) -> Result<(), String> {
        let place = usize::from(ordinal) - 1;
        if self.received_fences.len() <= place {
            self.received_fences.resize(place + 1, None);
        }
        let before = self.received_fences[..place].iter().flatten().max();
        let after = self.received_fences[place + 1..].iter().flatten().min();
        let is_same = self.received_fences[place].is_none_or(|received| received == fence);
        let rises = before.is_none_or(|before| *before < fence);
        let is_below = after.is_none_or(|after| fence < *after);
        if self.checks(Property::TokensRise) && !(is_same && rises && is_below) {
            return Err(format!(
                "TokensRise: grant {ordinal} has token {fence}, the grants have {:?}",
                self.received_fences
            ));
        }
        self.received_fences[place] = Some(fence);
        Ok(())
    }

    /// A write arrives at the guarded resource.
    pub(super) fn write(&mut self, (fence, ordinal): (Fence, u8)) -> Result<(), String> {
        let checks = self.bounds.seed != Seed::ResourceChecksNothing;
        if checks && fence < self.resource.0 {
            return Ok(());
        }
        if ordinal < self.resource.1 && self.checks(Property::ResourceIsSafe) {
            return Err(format!(
                "ResourceIsSafe: a write under grant {ordinal} was accepted after one under grant {}",
                self.resource.1
            ));
        }
        self.resource = (fence, ordinal);
        Ok(())
    }

    /// The server has carried out a request: who got the lock, if anybody did?
    pub(super) fn check_turn(&self, before: (Option<Record>, Vec<Owner>)) -> Result<(), String> {
        let (record, queue) = before;
        let now = self.server.record(&self.around());
        let Some(now) = now.filter(|now| record.is_none_or(|record| record.owner != now.owner))
        else {
            return Ok(());
        };
        let spoke = self.spoke_after_death & (1 << now.owner.client) != 0;
        let is_dead = self.client(now.owner.client).phase == Phase::Dead && !spoke;
        if now.handed && is_dead && self.checks(Property::NothingForTheDead) {
            return Err(format!(
                "NothingForTheDead: {:?} was handed the lock",
                now.owner
            ));
        }
        let waits = |owner: &&Owner| {
            let client = self.client(owner.client);
            let is_awake = client.phase != Phase::Dead && !client.paused;
            **owner != now.owner && is_awake && client.waiting.is(**owner)
        };
        let comes_before = queue.iter().take_while(|owner| **owner != now.owner);
        if self.checks(Property::NobodyOvertakes)
            && let Some(owner) = comes_before.clone().find(waits)
        {
            return Err(format!(
                "NobodyOvertakes: {owner:?} was overtaken by {:?}",
                now.owner
            ));
        }
        Ok(())
    }

    /// Looks at the state as it is.
    pub(super) fn check_properties(&self) -> Result<(), String> {
        let around = self.around();
        let record = self.server.record(&around);
        let believers: Vec<u8> = (0..self.bounds.clients)
            .filter(|client| self.believes(*client) && self.counts(*client))
            .collect();
        if self.checks(Property::OneHolder) && believers.len() > 1 {
            return Err(format!("OneHolder: {believers:?} believe that they hold"));
        }
        if self.checks(Property::PromiseKept) {
            let holds =
                |owner: Owner| record.is_some_and(|record| record.owner == owner && !record.handed);
            for client in &believers {
                let owner = self.owner(*client);
                if !holds(owner) {
                    return Err(format!(
                        "PromiseKept: {owner:?} believes that it holds, the server has {record:?}"
                    ));
                }
            }
            for client in &self.clients {
                if let Some(kept) = client.kept
                    && self.now < kept.until
                    && !holds(kept.owner)
                {
                    return Err(format!(
                        "PromiseKept: the key was to be {kept:?}, the server has {record:?}"
                    ));
                }
            }
        }
        if self.checks(Property::KeptEndsInTime) {
            self.check_what_is_kept(record)?;
        }
        if self.checks(Property::OneTtlAtMost) {
            let ttl = self
                .bounds
                .ttl
                .max(self.bounds.min_hold.unwrap_or_default());
            let most = P::longest(u64::try_from(ttl.as_millis()).expect("short"));
            // A lock that was handed over is kept for the waiter's claim, whatever its own time is.
            let most = match record {
                Some(record) if record.handed => P::HANDOVER,
                _ => most,
            };
            let left = self.server.left(&around);
            if left.is_none_or(|left| left > most) {
                return Err(format!(
                    "OneTtlAtMost: {record:?} is kept for {left:?} ms more"
                ));
            }
        }
        if self.checks(Property::NothingLeft) {
            let is_left = |record: &&_| {
                let Record { owner, late, .. } = **record;
                let is_over = (self.clients.iter()).any(|client| client.clean.contains(&owner));
                is_over && (P::REFUSES_LATE_CALLS || !late)
            };
            if let Some(record) = record.as_ref().filter(is_left) {
                return Err(format!(
                    "NothingLeft: {record:?} is there though its claim came to its end"
                ));
            }
        }
        if self.checks(Property::NothingLeft) {
            let queue = self.server.queue(&around);
            let is_over = |owner: &&Owner| {
                let mut clients = self.clients.iter();
                clients.any(|client| client.clean.contains(owner))
            };
            if let Some(owner) = queue.iter().find(is_over) {
                return Err(format!(
                    "NothingLeft: {owner:?} waits though its claim came to its end"
                ));
            }
        }
        if self.checks(Property::NothingLate)
            && let Some(record) = record
            && self
                .clients
                .iter()
                .any(|client| client.failed.contains(&record.owner))
        {
            return Err(format!(
                "NothingLate: {record:?} is there though its claim failed"
            ));
        }
        if self.checks(Property::OrphansAreKnown)
            && let Some(record) = record.filter(|record| record.late)
        {
            let client = &self.clients[usize::from(record.owner.client)];
            let is_over = client.clean.contains(&record.owner);
            let is_known = client.given_up.contains(&record.owner);
            if is_over && !is_known && client.phase != Phase::Dead {
                return Err(format!(
                    "OrphansAreKnown: {record:?} is unknown to its process, that has given up {:?}",
                    client.given_up
                ));
            }
        }
        if self.checks(Property::SomeoneCanAcquire) && !self.clone().would_recover() {
            return Err(format!(
                "SomeoneCanAcquire: with {record:?} a newcomer is not granted one ttl later"
            ));
        }
        Ok(())
    }

    fn check_what_is_kept(&self, record: Option<Record>) -> Result<(), String> {
        let counts = |record: &Record| P::REFUSES_LATE_CALLS || !record.late;
        let Some(record) = record.filter(counts) else {
            return Ok(());
        };
        let left = self.server.left(&self.around());
        for kept in self.clients.iter().filter_map(|client| client.kept) {
            let is_longer = left.is_none_or(|left| self.now + left > kept.at_most);
            if kept.owner == record.owner && is_longer {
                return Err(format!(
                    "KeptEndsInTime: the key was to be {kept:?}, the server keeps {record:?} for {left:?} ms more"
                ));
            }
        }
        Ok(())
    }

    /// Whether a newcomer is granted one ttl after the faults are over, all clients are dead and
    /// all messages have arrived.
    fn would_recover(mut self) -> bool {
        let mut around = self.around();
        // The clients are dead.
        around.receive = Default::default();
        self.server.notice_time(&around);
        for flight in std::mem::take(&mut self.flights) {
            let _ = self.server.execute(&flight.request, &mut around, true);
        }
        let ttl = self
            .bounds
            .ttl
            .max(self.bounds.min_hold.unwrap_or_default());
        // A process that is dead may be handed the lock while it counts as alive.
        let ttl = u64::try_from(ttl.as_millis()).expect("short");
        let later = ttl.max(P::ALIVE) + P::GRANULARITY;
        around.now += later;
        around.wall += later;
        self.server.notice_time(&around);
        self.server.would_grant(&mut around)
    }

    fn counts(&self, client: u8) -> bool {
        let all = !self.bounds.confirmed_only || P::CONFIRM_AFTER.is_none();
        all || self.clients[usize::from(client)].confirmed
    }
}
