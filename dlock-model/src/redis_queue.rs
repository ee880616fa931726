//! The queue of a Redis lock: scripts/queue.lua, line by line. A waiter's process is its client.

use super::protocol::{Around, PROCESSES};
use super::types::{Generation, Message, Owner, Seed};

/// `HANDOVER_MS`
pub(super) const HANDOVER: u64 = 1200;
/// `ALIVE_MICROS`
pub(super) const ALIVE: u64 = 3000;
/// `KEPT_MS`
const KEPT: u64 = 10_000;

/// The keys `queue` and `heartbeats`.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Queue {
    /// Who waits, in the order of their scores.
    pub(super) waiters: Vec<Owner>,
    pub(super) heartbeats: [Option<Heartbeat>; PROCESSES],
    /// When both keys end: each call of a waiting process renews both.
    pub(super) ends: u64,
    /// How many generations were begun. The script takes the time, of which there are as many.
    generations: Generation,
}

#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Heartbeat {
    pub(super) generation: Generation,
    pub(super) until: u64,
    /// `!`: it calls, and receives no messages.
    pub(super) unsubscribed: bool,
    /// `?`: it has not called since it was handed the lock, could not be reached or was asked to
    /// call.
    pub(super) has_not_called: bool,
}

/// `standing`
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Served,
    Unsubscribed,
    Passed,
    Dead,
}

impl Queue {
    /// Redis frees a key on the first look at or after its end.
    pub(super) fn expire(&mut self, now: u64) {
        if now >= self.ends {
            self.flush();
        }
    }

    pub(super) fn flush(&mut self) {
        *self = Queue {
            generations: self.generations,
            ..Queue::default()
        };
    }

    /// `EXISTS queue`
    pub(super) fn exists(&self) -> bool {
        !self.waiters.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty() && self.heartbeats.iter().all(Option::is_none)
    }

    fn heartbeat_mut(&mut self, waiter: Owner) -> &mut Option<Heartbeat> {
        &mut self.heartbeats[usize::from(waiter.client)]
    }

    fn new_generation(&mut self) -> Generation {
        self.generations += 1;
        self.generations
    }

    /// `is_alive`, for the process of `waiter`; whether it is unsubscribed, if that is known
    pub(super) fn is_alive(
        &mut self,
        waiter: Owner,
        now: u64,
        unsubscribed: Option<bool>,
    ) -> Generation {
        let before = *self.heartbeat_mut(waiter);
        let generation = match before {
            Some(seen) => seen.generation,
            None => self.new_generation(),
        };
        *self.heartbeat_mut(waiter) = Some(Heartbeat {
            generation,
            until: now + ALIVE,
            unsubscribed: unsubscribed.unwrap_or(before.is_some_and(|seen| seen.unsubscribed)),
            has_not_called: false,
        });
        generation
    }

    /// `note_alive`: the same, and keeps the queue.
    pub(super) fn note_alive(
        &mut self,
        waiter: Owner,
        around: &Around,
        unsubscribed: Option<bool>,
    ) -> Generation {
        let generation = self.is_alive(waiter, around.wall, unsubscribed);
        self.ends = match around.seed {
            Seed::QueueIsImmortal => u64::MAX,
            _ => around.wall + KEPT,
        };
        generation
    }

    /// `pass_over`
    fn pass_over(&mut self, waiter: Owner, now: u64) {
        if let Some(seen) = self.heartbeat_mut(waiter) {
            (seen.until, seen.has_not_called) = (now + ALIVE, true);
        }
    }

    fn standing(&mut self, waiter: Owner, around: &mut Around) -> Standing {
        let (now, seen) = (around.wall, *self.heartbeat_mut(waiter));
        if let Some(seen) = seen.filter(|seen| seen.until > now) {
            return match seen {
                Heartbeat {
                    has_not_called: true,
                    ..
                } => Standing::Passed,
                Heartbeat {
                    unsubscribed: true, ..
                } if around.seed != Seed::UnsubscribedIsDead => Standing::Unsubscribed,
                _ => Standing::Served,
            };
        }
        let was_asked = seen.is_some_and(|seen| seen.has_not_called);
        let process = Owner {
            number: 0,
            ..waiter
        };
        if !was_asked && around.notify(Message::Call(process)) {
            let generation = match seen {
                Some(seen) => seen.generation,
                None => self.new_generation(),
            };
            *self.heartbeat_mut(waiter) = Some(Heartbeat {
                generation,
                until: now + ALIVE,
                unsubscribed: false,
                has_not_called: true,
            });
            return Standing::Passed;
        }
        *self.heartbeat_mut(waiter) = None;
        Standing::Dead
    }

    /// `first_alive` as `hand_over` calls it: the first that takes the lock, or `claimant`, who is
    /// here.
    pub(super) fn first_reached(
        &mut self,
        claimant: Option<Owner>,
        around: &mut Around,
    ) -> Option<Owner> {
        let now = around.wall;
        self.first_alive(
            [None; PROCESSES],
            around,
            |queue, around, waiter, standing| {
                let is_reached = Some(waiter) == claimant
                    || around.notify(Message::Claim(waiter))
                    || *standing == Standing::Unsubscribed;
                if !is_reached {
                    queue.pass_over(waiter, now);
                    *standing = Standing::Passed;
                }
                is_reached
            },
        )
    }

    /// `next_waiter`
    pub(super) fn next_waiter(
        &mut self,
        handed: Option<Owner>,
        around: &mut Around,
    ) -> Option<Owner> {
        let mut standings = [None; PROCESSES];
        if let Some(handed) = handed {
            standings[usize::from(handed.client)] = Some(Standing::Served);
        }
        self.first_alive(standings, around, |_, _, waiter, _| handed != Some(waiter))
    }

    fn first_alive(
        &mut self,
        mut standings: [Option<Standing>; PROCESSES],
        around: &mut Around,
        mut takes: impl FnMut(&mut Self, &mut Around, Owner, &mut Standing) -> bool,
    ) -> Option<Owner> {
        for waiter in self.waiters.clone() {
            let place = usize::from(waiter.client);
            let mut standing = match standings[place] {
                Some(standing) => standing,
                None => self.standing(waiter, around),
            };
            if standing == Standing::Dead {
                self.waiters.retain(|other| *other != waiter);
            } else if standing != Standing::Passed && takes(self, around, waiter, &mut standing) {
                return Some(waiter);
            }
            standings[place] = Some(standing);
            if around.seed == Seed::OnlyTheFirstLookedAt {
                return None;
            }
        }
        None
    }

    /// `is_gone`
    pub(super) fn is_gone(&self, waiter: Owner, around: &Around) -> bool {
        let is_unsubscribed =
            self.heartbeats[usize::from(waiter.client)].is_some_and(|seen| seen.unsubscribed);
        !is_unsubscribed && !around.receives(waiter.client)
    }

    /// `enter`, unless it is there: `ZSCORE`
    pub(super) fn enter(&mut self, waiter: Owner) -> bool {
        let is_new = !self.waiters.contains(&waiter);
        if is_new {
            self.waiters.push(waiter);
        }
        is_new
    }

    /// `leave`; nobody is in the queue without its process.
    pub(super) fn leave(&mut self, waiter: Option<Owner>) -> bool {
        self.waiters.retain(|other| Some(*other) != waiter);
        if self.waiters.is_empty() {
            self.heartbeats = [None; PROCESSES];
        }
        self.exists()
    }

    /// `hand_over`, but for the lock itself: the waiter goes to the end, its process is passed
    /// over.
    pub(super) fn handed(&mut self, waiter: Owner, now: u64, seed: Seed) {
        if seed == Seed::NotDoubted {
            let _: Generation = self.is_alive(waiter, now, None);
            return;
        }
        self.waiters.retain(|other| *other != waiter);
        self.waiters.push(waiter);
        self.pass_over(waiter, now);
    }

    /// The keys, or one of them, are as they were. Generations are the server's time, and never
    /// begin anew.
    pub(super) fn bring_back(&mut self, old: &Queue, waiters: bool, seen: bool) {
        if waiters {
            self.waiters.clone_from(&old.waiters);
        }
        if seen {
            self.heartbeats = old.heartbeats;
        }
        // Each key has an end of its own; the later one is the harder case.
        self.ends = self.ends.max(old.ends);
    }
}
