//! A waiter that can be woken: dlock-redis/src/waiting. Its queue is the server's; here are the watch, what the process hears, and the thread that
//! looks at the key each tick.

use super::client::{Phase, Slot, Then};
use super::decisions::{Says, Told};
use super::protocol::Protocol;
use super::types::{Answer, Call, Generation, GrantOf, Owner, Seed, Verb};
use super::world::{TICK, World};

/// waiting/state.rs, of one process with one key and one waiter at a time.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Waiting {
    waiter: Option<Waiter>,
    /// Who gave up waiting and could not tell the server.
    still_queued: Vec<Owner>,
    /// When the next look is due, in true time, and when leaves may be repeated.
    look_at: u64,
    leave_at: u64,
    /// drive.rs: the waiter's signal was notified.
    pub(super) signalled: bool,
    /// waiting/mod.rs, `Waiters::shared`: somebody waited before.
    watched: bool,
    /// Messages do not come through.
    pub(super) deaf: bool,
    /// How many ticks went by while the lock was nobody else's: see `NobodyWaitsForEver`.
    pub(super) overdue: u8,
}

#[derive(Clone, Copy, Debug, Hash)]
struct Waiter {
    owner: Owner,
    asked: bool,
    granted: bool,
    generation: Option<Generation>,
}

impl Waiting {
    pub(super) fn is(&self, owner: Owner) -> bool {
        self.waiter.is_some_and(|waiter| waiter.owner == owner)
    }

    pub(super) fn is_queued(&self) -> bool {
        self.waiter
            .is_some_and(|waiter| waiter.generation.is_some() && !waiter.granted)
    }

    /// Whether its thread has something to tell the server of somebody who went.
    pub(super) fn owes(&self) -> bool {
        !self.still_queued.is_empty()
    }

    pub(super) fn still_queued(&mut self, owner: Owner) {
        self.still_queued.push(owner);
    }

    pub(super) fn forget(&mut self) {
        (self.waiter, self.look_at, self.overdue) = (None, 0, 0);
    }
}

impl<P: Protocol> World<P> {
    /// store.rs, `watch`
    pub(super) fn watch(&mut self, id: u8) -> bool {
        let (owner, look_at) = (self.owner(id), self.now + TICK);
        let waiting = &mut self.client_mut(id).waiting;
        if P::WAKES {
            waiting.watched = true;
            waiting.look_at = look_at;
            waiting.waiter = Some(Waiter {
                owner,
                asked: false,
                granted: false,
                generation: None,
            });
        }
        P::WAKES
    }

    /// waiting/mod.rs, `process_of`, `gives_up` and `may_be_queued`
    pub(super) fn names_process(&mut self, id: u8, verb: Verb) -> bool {
        let owner = self.owner(id);
        let waits = self.bounds.waits.is_some();
        let seed = self.bounds.seed;
        let client = self.client_mut(id);
        let copy_may_follow = client.lost_request.is_some() && seed != Seed::CopyStaysQueued;
        let waiting = &mut client.waiting;
        match verb {
            Verb::Acquire => match &mut waiting.waiter {
                Some(waiter) if waiter.owner == owner => {
                    waiter.asked = true;
                    true
                }
                _ => false,
            },
            Verb::Abandon if waits && waiting.watched => {
                waiting.forget();
                true
            }
            Verb::Release if copy_may_follow => waits && waiting.watched,
            _ => false,
        }
    }

    /// store.rs, `acquire`: what the answer to a claim says about a waiter, whatever else core is told.
    pub(super) fn hear_of_waiter(&mut self, id: u8, call: &Call, answer: &Answer) {
        let waiter = &mut self.client_mut(id).waiting.waiter;
        let Some(waiter) = waiter.as_mut().filter(|waiter| waiter.owner == call.owner) else {
            return;
        };
        match answer {
            Answer::Granted(_) => waiter.granted = true,
            Answer::Queued { generation, .. } => waiter.generation = Some(*generation),
            _ => {}
        }
    }

    /// waiting/mod.rs, `leave`: the watch is dropped.
    pub(super) fn drop_watch(&mut self, id: u8, then: Then) -> Result<(), String> {
        let (end, seed) = (self.call_end(id), self.bounds.seed);
        let waiting = &mut self.client_mut(id).waiting;
        let waiter = waiting.waiter;
        waiting.forget();
        let Some(waiter) = waiter
            .filter(|waiter| waiter.asked && (!waiter.granted || seed == Seed::LeaveAfterGrant))
        else {
            self.after_watch(id, then);
            return Ok(());
        };
        self.client_mut(id).phase = Phase::Leaving(then);
        self.call_for_queue(id, Slot::User, Verb::Leave, waiter.owner, end)
    }

    pub(super) fn left(&mut self, id: u8, then: Then, failed: bool) {
        if failed {
            let (owner, seed) = (self.owner(id), self.bounds.seed);
            let client = self.client_mut(id);
            client.unclean = true;
            if seed != Seed::LeaveNotRepeated {
                client.waiting.still_queued.push(owner);
            }
        }
        self.after_watch(id, then);
    }

    fn after_watch(&mut self, id: u8, then: Then) {
        match then {
            Then::Sleep { until } => {
                let wakeable = false;
                self.client_mut(id).phase = Phase::Sleeping { until, wakeable };
            }
            Then::Hold => self.client_mut(id).phase = Phase::Holding,
            Then::End => self.end(id),
        }
    }

    pub(super) fn looker_is_due(&self, id: u8) -> bool {
        let client = self.client(id);
        let waiting = &client.waiting;
        let must_look = waiting.waiter.is_some() && waiting.look_at <= self.now;
        let must_leave = waiting.owes() && waiting.leave_at <= self.now;
        client.pending(Slot::Looker).is_none() && (must_look || must_leave)
    }

    /// waiting/looker.rs: the next of what goes out in one trip there.
    pub(super) fn attend(&mut self, id: u8) -> Result<(), String> {
        let (process, now) = (self.owner(id), self.now);
        let end = self.local_at(id, now + TICK);
        let waiting = &mut self.client_mut(id).waiting;
        let (verb, owner) = if waiting.waiter.is_some() && waiting.look_at <= now {
            waiting.look_at = now + TICK;
            (Verb::Look, process)
        } else {
            let owner = waiting.still_queued.pop().expect("something is due");
            waiting.leave_at = now + TICK;
            (Verb::Leave, owner)
        };
        self.call_for_queue(id, Slot::Looker, verb, owner, end)
    }

    /// The same, answered: `State::looked` and `State::look_failed`.
    pub(super) fn attended(&mut self, id: u8, call: &Call, answer: &Answer) {
        let seed = self.bounds.seed;
        let waiting = &mut self.client_mut(id).waiting;
        match answer {
            Answer::Looked {
                handed_to,
                generation,
            } => {
                if let Some(waiter) = waiting.waiter {
                    let dropped = waiter.generation.is_some_and(|it| it != *generation)
                        && seed != Seed::GenerationIgnored;
                    let handed = *handed_to == Some(waiter.owner);
                    waiting.signalled |= dropped || handed;
                }
            }
            Answer::Failed { .. } => match call.verb {
                Verb::Leave => waiting.still_queued.push(call.owner),
                _ => waiting.signalled |= waiting.waiter.is_some(),
            },
            _ => {}
        }
    }

    /// A message came: `State::hear`.
    pub(super) fn told(&mut self, owner: Owner) -> Result<(), String> {
        let id = owner.client;
        let waiting = &mut self.client_mut(id).waiting;
        if waiting.is(owner) {
            waiting.signalled = true;
            if self.bounds.seed == Seed::MessageIsLease {
                return self.believe_message(id);
            }
        }
        Ok(())
    }

    /// What the seed does instead of a claim.
    fn believe_message(&mut self, id: u8) -> Result<(), String> {
        let Phase::Sleeping { wakeable: true, .. } = self.client(id).phase else {
            return Ok(());
        };
        let (sent, ttl) = (self.local(id), self.bounds.ttl);
        let says = self.tell(id, Told::Woken);
        let Says::Claim { .. } = says else {
            return self.act(id, says);
        };
        let grant = GrantOf {
            fence: None,
            ttl,
            at: None,
            ordinal: 0,
        };
        let answer = Answer::Granted(grant);
        let waiting = &mut self.client_mut(id).waiting;
        waiting.signalled = false;
        waiting.waiter = waiting.waiter.map(|waiter| Waiter {
            granted: true,
            ..waiter
        });
        let says = self.tell(id, Told::Claimed { sent, answer });
        self.act(id, says)
    }

    /// Messages that nobody hears, or that nobody waits for any more.
    pub(super) fn settle_messages(&mut self) {
        let clients = &self.clients;
        self.messages.retain(|owner| {
            let waiting = &clients[usize::from(owner.client)].waiting;
            waiting.is(*owner) && !waiting.deaf
        });
        self.messages.sort();
    }
}
