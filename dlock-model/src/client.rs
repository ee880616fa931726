//! A client: one process with one lock, its keeper, and its connections; and what can happen to it.

use std::rc::Rc;
use std::time::Duration;

use super::call::{Talk, Wants};
use super::flows::Process;
use super::protocol::Protocol;
use super::types::{Call, Fence, GrantOf, Owner, Verb};
use super::waiting::Waiting;
use super::world::{Step, World};
use dlock_core::Time;

/// Which of a client's threads makes a call, each over a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Slot {
    User,
    Keeper,
    /// dlock-redis, waiting/heartbeat.rs
    Heartbeat,
}

pub(super) const SLOTS: [Slot; 3] = [Slot::User, Slot::Keeper, Slot::Heartbeat];

/// Where the user's thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Idle,
    Claiming,
    /// An acquisition that sleeps.
    Sleeping {
        until: Time,
        wakeable: bool,
    },
    /// The watch ends: the waiter leaves the queue.
    Leaving,
    /// An acquisition that abandons its claim, or releases a grant that came too late.
    Undoing,
    Holding,
    /// Before the rest of `min_hold` is asked for.
    AwaitingLost {
        until: Time,
    },
    /// The calls of a release.
    Finishing(Finish),
    /// After a release, until a lost copy of the claim can do nothing any more.
    Outliving {
        until: Time,
    },
    Abandoning,
    /// No round is left.
    Ended,
    Dead,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Finish {
    /// For how long the call is to keep the key.
    pub(super) keep: Option<Duration>,
    /// When it was sent, in true time.
    pub(super) sent: u64,
    /// Whether something might be left before it was sent.
    pub(super) unclean: bool,
    pub(super) is_first: bool,
}

/// A key that is to be kept for `min_hold` after the guard is gone, in true time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kept {
    pub(super) owner: Owner,
    /// Until when at least, and until when at most.
    pub(super) until: u64,
    pub(super) at_most: u64,
}

/// A call under way.
#[derive(Clone, Debug, Hash)]
pub(super) struct Pending<P: Protocol> {
    pub(super) call: Call,
    pub(super) talk: Talk<P>,
    pub(super) reply: Option<P::Reply>,
    /// Whether the replica has what was done before the reply.
    pub(super) is_replicated: bool,
    /// The server closed the connection.
    pub(super) dead: bool,
    /// Its time may run out without being a fault.
    pub(super) excused: bool,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Client<P: Protocol> {
    pub(super) phase: Phase,
    pub(super) process: Process,
    user: Option<Pending<P>>,
    keeper: Option<Pending<P>>,
    heartbeat: Option<Pending<P>>,
    pub(super) user_link: Option<P::Link>,
    keeper_link: Option<P::Link>,
    pub(super) heartbeat_link: Option<P::Link>,
    pub(super) waiting: Waiting,
    pub(super) number: u8,
    pub(super) rounds: u8,
    pub(super) paused: bool,
    /// dlock-memcache, `Abandoned`
    pub(super) given_up: Vec<Owner>,
    pub(super) lost_request: Option<Time>,
    /// The first call of its release failed, and there is time for another.
    pub(super) owes_a_try: bool,
    /// dlock-redis/src/unanswered.rs
    pub(super) unanswered: Option<Owner>,
    /// The grant that it holds by.
    pub(super) grant: Option<GrantOf>,
    /// Whether the store's look at what it keeps came after its latest promise.
    pub(super) confirmed: bool,
    pub(super) looked: bool,
    /// A write that is under way to the guarded resource.
    pub(super) write: Option<(Fence, u8)>,
    /// Something may be left of the present claim.
    pub(super) unclean: bool,
    /// Claims that came to their end, so that nothing may be left.
    pub(super) clean: Vec<Owner>,
    /// Those of them that were never granted.
    pub(super) failed: Vec<Owner>,
    /// What its latest release left in the store.
    pub(super) kept: Option<Kept>,
}

impl<P: Protocol> Pending<P> {
    /// Whether the call notices that its connection is dead.
    fn dead_is_noticed(&self) -> bool {
        let uses_it = matches!(self.talk.wants, Wants::Reply(_) | Wants::ToBeGranted);
        self.dead && uses_it
    }
}

impl<P: Protocol> Client<P> {
    pub(super) fn new(rounds: u8) -> Self {
        Client {
            phase: Phase::Idle,
            process: Process::new(),
            user: None,
            keeper: None,
            heartbeat: None,
            user_link: None,
            keeper_link: None,
            heartbeat_link: None,
            waiting: Waiting::default(),
            number: 0,
            rounds,
            paused: false,
            given_up: Vec::new(),
            lost_request: None,
            owes_a_try: false,
            unanswered: None,
            grant: None,
            confirmed: false,
            looked: false,
            write: None,
            unclean: false,
            clean: Vec::new(),
            failed: Vec::new(),
            kept: None,
        }
    }

    pub(super) fn pending_mut(&mut self, slot: Slot) -> Option<&mut Pending<P>> {
        match slot {
            Slot::User => self.user.as_mut(),
            Slot::Keeper => self.keeper.as_mut(),
            Slot::Heartbeat => self.heartbeat.as_mut(),
        }
    }

    pub(super) fn pending(&self, slot: Slot) -> Option<&Pending<P>> {
        match slot {
            Slot::User => self.user.as_ref(),
            Slot::Keeper => self.keeper.as_ref(),
            Slot::Heartbeat => self.heartbeat.as_ref(),
        }
    }

    pub(super) fn place(&mut self, slot: Slot) -> (&mut Option<Pending<P>>, &mut Option<P::Link>) {
        match slot {
            Slot::User => (&mut self.user, &mut self.user_link),
            Slot::Keeper => (&mut self.keeper, &mut self.keeper_link),
            Slot::Heartbeat => (&mut self.heartbeat, &mut self.heartbeat_link),
        }
    }

    pub(super) fn lose_connections(&mut self) {
        (self.user_link, self.keeper_link, self.heartbeat_link) = (None, None, None);
        for pending in self.all_pending_mut() {
            pending.dead = pending.talk.is_connected();
            pending.excused = true;
        }
    }

    /// How many answers are there that it could read.
    pub(super) fn unread(&self) -> usize {
        let pending = SLOTS.iter().filter_map(|slot| self.pending(*slot));
        let unread = pending.filter(|pending| pending.reply.is_some());
        if self.paused { 0 } else { unread.count() }
    }

    pub(super) fn all_pending_mut(&mut self) -> impl Iterator<Item = &mut Pending<P>> {
        [&mut self.user, &mut self.keeper, &mut self.heartbeat]
            .into_iter()
            .flatten()
    }

    fn is_keeping(&self) -> bool {
        matches!(self.phase, Phase::Holding | Phase::AwaitingLost { .. })
    }

    fn wakes_at(&self) -> Option<Time> {
        match self.phase {
            Phase::Sleeping { wakeable: true, .. } if self.waiting.signalled => Some(Time::ZERO),
            Phase::Sleeping { until, .. }
            | Phase::AwaitingLost { until }
            | Phase::Outliving { until } => Some(until),
            _ => None,
        }
    }
}

/// What a client can do.
impl<P: Protocol> World<P> {
    pub(super) fn client(&self, id: u8) -> &Client<P> {
        &self.clients[usize::from(id)]
    }

    pub(super) fn client_mut(&mut self, id: u8) -> &mut Client<P> {
        Rc::make_mut(&mut self.clients[usize::from(id)])
    }

    pub(super) fn client_steps(&self, id: u8, steps: &mut Vec<Step>) {
        let client = self.client(id);
        if client.write.is_some() {
            steps.push(Step::Write(id));
        }
        if client.phase == Phase::Dead {
            return;
        }
        if client.paused {
            steps.push(Step::Resume(id));
            return;
        }
        let (now, faults) = (self.local(id), &self.faults);
        for slot in SLOTS {
            let Some(pending) = client.pending(slot) else {
                continue;
            };
            let lossy = faults.losses > 0;
            if pending.reply.is_some() {
                steps.push(Step::Receive(id, slot));
            }
            if self.can_proceed(id, slot) {
                steps.push(Step::Proceed(id, slot));
            }
            let has_asked = pending.talk.has_asked();
            if pending.dead_is_noticed() || (has_asked && lossy) {
                steps.push(Step::Cut(id, slot));
            }
            let is_over = now >= pending.talk.until;
            let is_fault = has_asked && !pending.excused && self.running;
            if is_over && (lossy || !is_fault) {
                steps.push(Step::Timeout(id, slot));
            }
        }
        let is_idle = client.phase == Phase::Idle;
        let mut add = |if_so: bool, step: Step| {
            if if_so {
                steps.push(step);
            }
        };
        add(is_idle, Step::Start(id));
        add(
            client.wakes_at().is_some_and(|at| at <= now),
            Step::Wake(id),
        );
        add(self.is_due(id), Step::Keep(id));
        add(self.heartbeat_is_due(id), Step::Attend(id));
        let is_holding = client.phase == Phase::Holding;
        add(is_holding, Step::Release(id));
        let can_look = self.bounds.writes && is_holding && !client.looked;
        let is_valid = !client.process.lost && now < client.process.until;
        add(can_look && is_valid, Step::Look(id));
        let is_at_work = !is_idle && client.phase != Phase::Ended;
        add(is_at_work && faults.pauses > 0, Step::Pause(id));
        add(is_at_work && faults.crashes > 0, Step::Crash(id));
        let can_hear = is_at_work && !client.waiting.unsubscribed && P::WAKES;
        add(can_hear && faults.unsubscribed > 0, Step::Unsubscribe(id));
    }

    /// Whether the client, if it runs, is at something before time goes on.
    pub(super) fn must_act(&self, id: u8) -> bool {
        let (client, now) = (self.client(id), self.local(id));
        if client.paused || client.phase == Phase::Dead {
            return false;
        }
        let is_urgent = |slot: &Slot| {
            client.pending(*slot).is_some_and(|pending| {
                self.can_proceed(id, *slot)
                    || pending.dead_is_noticed()
                    || now >= pending.talk.until
            })
        };
        SLOTS.iter().any(is_urgent)
            || client.wakes_at().is_some_and(|at| at <= now)
            || self.is_due(id)
            || self.heartbeat_is_due(id)
    }

    fn is_due(&self, id: u8) -> bool {
        let (client, now) = (self.client(id), self.local(id));
        let process = &client.process;
        // The worker may still be at an earlier lease.
        let is_free = client.keeper.as_ref().is_none_or(|pending| {
            pending.call.owner == self.owner(id) && pending.call.verb != Verb::Release
        });
        client.is_keeping()
            && !process.lost
            && process.next_look <= now
            && (is_free || process.until <= now)
    }

    pub(super) fn excuse_all(&mut self) {
        for client in &mut self.clients {
            excuse(Rc::make_mut(client));
        }
    }

    pub(super) fn client_step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Start(id) => self.start(id),
            Step::Proceed(id, slot) => self.proceed(id, slot),
            Step::Receive(id, slot) => self.receive(id, slot),
            Step::Cut(id, slot) => self.cut(id, slot),
            Step::Timeout(id, slot) => self.time_out(id, slot),
            Step::Wake(id) => self.wake(id),
            Step::Keep(id) => self.keep(id),
            Step::Attend(id) => self.attend(id),
            Step::Release(id) => self.end_guard(id),
            Step::Pause(id) => {
                self.faults.pauses -= 1;
                let client = self.client_mut(id);
                client.paused = true;
                excuse(client);
                Ok(())
            }
            Step::Resume(id) => {
                self.client_mut(id).paused = false;
                Ok(())
            }
            Step::Crash(id) => {
                self.faults.crashes -= 1;
                self.give_up_flights(id, None);
                let client = self.client_mut(id);
                *client = Client {
                    phase: Phase::Dead,
                    number: client.number,
                    write: client.write,
                    clean: std::mem::take(&mut client.clean),
                    kept: client.kept,
                    ..Client::new(0)
                };
                Ok(())
            }
            Step::Look(id) => {
                let client = self.client_mut(id);
                client.looked = true;
                client.write = client
                    .grant
                    .and_then(|grant| Some((grant.fence?, grant.ordinal)));
                Ok(())
            }
            _ => unreachable!("not a client's"),
        }
    }
}

fn excuse<P: Protocol>(client: &mut Client<P>) {
    for pending in client.all_pending_mut() {
        pending.excused = true;
    }
}
