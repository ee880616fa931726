//! The queue of a Redis lock: scripts/queue.lua, line by line. A waiter's process is its client.

use super::types::{Generation, Owner, Seed};

/// `HANDOVER_MS`
pub(super) const HANDOVER: u64 = 1200;
/// `ALIVE_MICROS`
pub(super) const ALIVE: u64 = 3000;
/// `KEPT_MS`
const KEPT: u64 = 10_000;
/// Clients of a world.
const PROCESSES: usize = 3;

/// The keys `queue` and `seen`.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Queue {
    /// Who waits, in the order of their scores.
    pub(super) waiters: Vec<Owner>,
    seen: [Option<Seen>; PROCESSES],
    /// When both keys end: each call of a waiting process renews both.
    ends: u64,
    /// How many generations were begun. The script takes the time, of which there are as many.
    generations: Generation,
}

#[derive(Clone, Copy, Debug, Hash)]
struct Seen {
    generation: Generation,
    alive_until: u64,
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
        self.waiters.is_empty() && self.seen.iter().all(Option::is_none)
    }

    fn seen_mut(&mut self, waiter: Owner) -> &mut Option<Seen> {
        &mut self.seen[usize::from(waiter.client)]
    }

    /// `is_alive`, for the process of `waiter`
    pub(super) fn is_alive(&mut self, waiter: Owner, now: u64) -> Generation {
        let generation = match *self.seen_mut(waiter) {
            Some(seen) => seen.generation,
            None => {
                self.generations += 1;
                self.generations
            }
        };
        *self.seen_mut(waiter) = Some(Seen {
            generation,
            alive_until: now + ALIVE,
        });
        generation
    }

    /// `note_alive`: the same, and keeps the queue.
    pub(super) fn note_alive(&mut self, waiter: Owner, now: u64, seed: Seed) -> Generation {
        let generation = self.is_alive(waiter, now);
        self.ends = match seed {
            Seed::QueueIsImmortal => u64::MAX,
            _ => now + KEPT,
        };
        generation
    }

    /// `first_alive`
    pub(super) fn first_alive(&mut self, handed: Option<Owner>, now: u64) -> Option<Owner> {
        for waiter in self.waiters.clone() {
            if handed == Some(waiter) {
                continue;
            }
            let is_handed = handed.is_some_and(|handed| handed.client == waiter.client);
            let seen = self.seen_mut(waiter);
            if is_handed || seen.is_some_and(|seen| seen.alive_until > now) {
                return Some(waiter);
            }
            *seen = None;
            self.waiters.retain(|other| *other != waiter);
        }
        None
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
            self.seen = [None; PROCESSES];
        }
        self.exists()
    }

    /// `hand_over`, but for the lock itself: the waiter goes to the end, its process is doubted.
    pub(super) fn handed(&mut self, waiter: Owner, now: u64, seed: Seed) {
        let mut alive_until = 0;
        if seed == Seed::NotDoubted {
            alive_until = now + ALIVE;
        } else {
            self.waiters.retain(|other| *other != waiter);
            self.waiters.push(waiter);
        }
        if let Some(seen) = self.seen_mut(waiter) {
            seen.alive_until = alive_until;
        }
    }
}
