//! A waiter that can be woken: dlock-redis/src/waiting. Its queue is the server's; here are the
//! watch, what the process hears, and the thread that looks at the key each tick.

use super::client::{Phase, Slot};
use super::flows::{Input, Output};
use super::protocol::Protocol;
use super::types::{Answer, Call, Generation, GrantOf, Message, Owner, Seed, Verb};
use super::world::{TICK, World};

/// waiting/state.rs, of one process with one key and one waiter at a time.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Waiting {
    waiter: Option<Waiter>,
    /// The waiters that gave up and could not report it to the server.
    still_queued: Vec<Owner>,
    /// What is to be said to messages: what is given back, and what was released already.
    answers: Vec<(Verb, Owner)>,
    /// waiting/ended.rs: the numbers of the claims that were released or given up, as bits.
    ended: u16,
    /// When the next look is due, in true time, and when leaves may be repeated.
    look_at: u64,
    leave_at: u64,
    /// drive.rs: the waiter's signal was notified.
    pub(super) signalled: bool,
    /// waiting.rs, `Waiters::shared`: somebody waited before.
    watched: bool,
    /// Messages do not come through.
    pub(super) unsubscribed: bool,
    /// How many ticks went by while the lock was nobody else's: see `NobodyWaitsForEver`.
    pub(super) overdue: u8,
}

#[derive(Clone, Copy, Debug, Hash)]
struct Waiter {
    owner: Owner,
    asked: bool,
    granted: bool,
    generation: Option<Generation>,
    /// Whether the last that the server said of it is that it is queued.
    rests: bool,
}

impl Waiting {
    pub(super) fn is(&self, owner: Owner) -> bool {
        self.waiter.is_some_and(|waiter| waiter.owner == owner)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiter
            .is_some_and(|waiter| waiter.generation.is_some() && !waiter.granted)
    }

    /// waiting/state.rs, `Waiter::is_queued`
    pub(super) fn is_queued(&self) -> bool {
        self.is_waiting() && self.waiter.is_some_and(|waiter| waiter.rests)
    }

    pub(super) fn ends(&mut self, owner: Owner) {
        if self.watched {
            self.ended |= 1 << owner.number;
        }
    }

    pub(super) fn has_ended(&self, owner: Owner) -> bool {
        self.ended & (1 << owner.number) != 0
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched
    }

    /// Whether its thread has to report to the server that a waiter left.
    pub(super) fn owes(&self) -> bool {
        !self.still_queued.is_empty() || !self.answers.is_empty()
    }

    /// waiting/state.rs, `State::handed`
    fn handed(&mut self, owner: Owner, seed: Seed) {
        if self.is(owner) {
            self.signalled = true;
        } else if seed != Seed::NotGivenBack && !self.answers.contains(&(Verb::GiveBack, owner)) {
            self.answers.push((Verb::GiveBack, owner));
        }
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
                rests: false,
            });
        }
        P::WAKES
    }

    /// waiting.rs, `process_of`, `gives_up` and `may_be_queued`
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
                    (waiter.asked, waiter.rests) = (true, false);
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

    /// store.rs, `acquire`: what the answer to a claim shows of a waiter, whatever core receives.
    pub(super) fn hear_of_waiter(&mut self, id: u8, call: &Call, answer: &Answer) {
        let waiter = &mut self.client_mut(id).waiting.waiter;
        let Some(waiter) = waiter.as_mut().filter(|waiter| waiter.owner == call.owner) else {
            return;
        };
        match answer {
            Answer::Granted(_) => waiter.granted = true,
            Answer::Queued { generation, .. } => {
                (waiter.generation, waiter.rests) = (Some(*generation), true);
            }
            _ => {}
        }
    }

    /// waiting.rs, `leave`: the watch ends.
    pub(super) fn leave(&mut self, id: u8) -> Result<(), String> {
        let (end, seed) = (self.call_end(id), self.bounds.seed);
        let waiting = &mut self.client_mut(id).waiting;
        let waiter = waiting.waiter;
        waiting.forget();
        let Some(waiter) = waiter
            .filter(|waiter| waiter.asked && (!waiter.granted || seed == Seed::LeaveAfterGrant))
        else {
            return self.go_on(id, Input::Left);
        };
        let client = self.client_mut(id);
        client.phase = Phase::Leaving;
        client.waiting.ends(waiter.owner);
        self.call_for_queue(id, Slot::User, Verb::Leave, waiter.owner, end)
    }

    pub(super) fn left(&mut self, id: u8, failed: bool) {
        if failed {
            let (owner, seed) = (self.owner(id), self.bounds.seed);
            let client = self.client_mut(id);
            client.unclean = true;
            if seed != Seed::LeaveNotRepeated {
                client.waiting.still_queued.push(owner);
            }
        }
    }

    pub(super) fn heartbeat_is_due(&self, id: u8) -> bool {
        let client = self.client(id);
        let waiting = &client.waiting;
        let must_look = waiting.waiter.is_some() && waiting.look_at <= self.now;
        let must_leave = !waiting.still_queued.is_empty() && waiting.leave_at <= self.now;
        let must_answer = !waiting.answers.is_empty();
        client.pending(Slot::Heartbeat).is_none() && (must_look || must_leave || must_answer)
    }

    /// waiting/heartbeat.rs: the next of what goes out in one trip there.
    pub(super) fn attend(&mut self, id: u8) -> Result<(), String> {
        let (process, now) = (self.owner(id), self.now);
        let end = self.local_at(id, now + TICK);
        let waiting = &mut self.client_mut(id).waiting;
        let (verb, owner) = if let Some(answer) = waiting.answers.pop() {
            answer
        } else if waiting.waiter.is_some() && waiting.look_at <= now {
            waiting.look_at = now + TICK;
            (Verb::Look, process)
        } else {
            let owner = waiting.still_queued.pop().expect("something is due");
            waiting.leave_at = now + TICK;
            (Verb::Leave, owner)
        };
        self.call_for_queue(id, Slot::Heartbeat, verb, owner, end)
    }

    /// The same, answered: `State::looked` and `State::look_failed`.
    pub(super) fn attended(&mut self, id: u8, call: &Call, answer: &Answer) {
        let seed = self.bounds.seed;
        let waiting = &mut self.client_mut(id).waiting;
        let counts = !call.last || (waiting.is(call.owner) && waiting.is_queued());
        match answer {
            Answer::Looked {
                handed_to,
                generation,
            } => {
                if let Some(waiter) = waiting.waiter {
                    let dropped = waiter.generation.is_some_and(|it| it != *generation)
                        && seed != Seed::GenerationIgnored;
                    waiting.signalled |= dropped && (counts || *generation != 0);
                }
                if let Some(owner) = *handed_to {
                    waiting.handed(owner, seed);
                }
            }
            Answer::Failed { .. } => match call.verb {
                Verb::Leave => waiting.still_queued.push(call.owner),
                Verb::GiveBack => {}
                _ => waiting.signalled |= waiting.waiter.is_some(),
            },
            _ => {}
        }
    }

    /// A message came: `State::received`.
    pub(super) fn received(&mut self, message: Message) -> Result<(), String> {
        let (id, now, seed) = (message.client(), self.now, self.bounds.seed);
        let waiting = &mut self.client_mut(id).waiting;
        match message {
            Message::Claim(owner) => {
                waiting.handed(owner, seed);
                if waiting.is(owner) && seed == Seed::MessageIsLease {
                    return self.believe_message(id);
                }
            }
            Message::Asked(owner) => {
                let is_unknown = seed == Seed::UnknownIsReleased && !waiting.is(owner);
                if waiting.has_ended(owner) || is_unknown {
                    waiting.answers.push((Verb::Leave, owner));
                }
            }
            Message::Call(_) => waiting.look_at = waiting.look_at.min(now),
        }
        Ok(())
    }

    /// What the seed does instead of a claim.
    fn believe_message(&mut self, id: u8) -> Result<(), String> {
        let Phase::Sleeping { wakeable: true, .. } = self.client(id).phase else {
            return Ok(());
        };
        let ttl = self.bounds.ttl;
        let output = self.give(id, Input::Woken);
        let Output::Call {
            verb: Verb::Acquire,
            ..
        } = output
        else {
            return self.act(id, output);
        };
        let grant = GrantOf {
            fence: None,
            ttl,
            at: None,
            ordinal: 0,
            copy_may_follow: false,
        };
        let answer = Answer::Granted(grant);
        let waiting = &mut self.client_mut(id).waiting;
        waiting.signalled = false;
        waiting.waiter = waiting.waiter.map(|waiter| Waiter {
            granted: true,
            ..waiter
        });
        self.go_on(id, Input::Answered(answer))
    }

    /// dlock-redis/src/store/outcomes.rs, `acquire_call`: whether the claim's record names its
    /// process.
    pub(super) fn is_listening(&self, id: u8) -> bool {
        self.bounds.waits.is_some() && self.client(id).waiting.watched
    }

    /// Messages that nobody receives, or that change nothing.
    pub(super) fn settle_messages(&mut self) {
        let around = self.around();
        let (record, queue) = (self.server.record(&around), self.server.queue(&around));
        let holds = |owner| record.is_some_and(|record| record.owner == owner);
        // What is given back after its claim changes nothing, but for the seed.
        let is_handed = |owner| {
            let frees = self.bounds.seed == Seed::GivenBackClaimed;
            record.is_some_and(|record| record.owner == owner && (record.handed || frees))
        };
        let (clients, seed) = (&self.clients, self.bounds.seed);
        self.messages.retain(|message| {
            let client = &clients[usize::from(message.client())];
            let waiting = &client.waiting;
            let says = match *message {
                Message::Call(_) => waiting.waiter.is_some(),
                Message::Claim(owner) => {
                    waiting.is(owner) || is_handed(owner) || queue.contains(&owner)
                }
                Message::Asked(owner) => {
                    let frees = waiting.has_ended(owner) || seed == Seed::UnknownIsReleased;
                    frees && holds(owner)
                }
            };
            says && client.phase != Phase::Dead && !waiting.unsubscribed
        });
        self.messages.sort();
        let is_same = |one: &mut Message, other: &mut Message| {
            one == other && !matches!(one, Message::Claim(_))
        };
        self.messages.dedup_by(is_same);
    }
}
