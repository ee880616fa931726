//! The world: a server, clients, what is under way between them, faults, and what must hold.

use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use super::client::{Client, Phase, Slot};
use super::decisions::Memory;
use super::explorer::{Machine, digest};
use super::protocol::{Around, Protocol};
use super::types::{Fence, Owner, Property, Seed};
use crate::{FakeClock, Time};

/// What goes through in one step of time.
pub(super) const TICK: u64 = 1000;
/// When the world begins, in ms.
const BEGIN: u64 = 10_000;

/// How far an exploration goes.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) clients: u8,
    /// How often each client acquires.
    pub(super) rounds: u8,
    /// How long the world lasts, in ticks.
    pub(super) ticks: u64,
    pub(super) ttl: Duration,
    pub(super) call_timeout: Duration,
    /// Whether the world begins when all clients have: the first one holds, the others wait, if they do.
    pub(super) begun: bool,
    /// For how long a refused client waits; `None` if it only tries.
    pub(super) waits: Option<Duration>,
    pub(super) renew: bool,
    pub(super) min_hold: Option<Duration>,
    pub(super) max_hold: Option<Duration>,
    /// How many ms of a client's clock pass in a second.
    pub(super) pace: [u64; 3],
    /// Whether a server's timer may be late by less than a tick.
    pub(super) lag: bool,
    /// Whether only leases count that the store has confirmed, if it can: what it promised while it was behind is not kept.
    pub(super) confirmed_only: bool,
    /// Whether holders write to a guarded resource.
    pub(super) writes: bool,
    pub(super) faults: Faults,
    pub(super) properties: Vec<Property>,
    pub(super) seed: Seed,
}

/// How many faults of each kind may happen.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq)]
pub(super) struct Faults {
    /// Connections that break, and calls that are not answered in time though nothing is stopped.
    pub(super) losses: u8,
    /// Messages that take a tick longer, each time.
    pub(super) lates: u8,
    /// Requests that arrive twice.
    pub(super) copies: u8,
    pub(super) pauses: u8,
    pub(super) crashes: u8,
    pub(super) stops: u8,
    /// Restarts that keep the data, if the server can.
    pub(super) restarts: u8,
    /// Restarts that do not.
    pub(super) wipes: u8,
    /// All keys deleted while the server runs.
    pub(super) flushes: u8,
    /// Processes that messages do not reach, for good.
    pub(super) deaf: u8,
    pub(super) clock_back: u8,
    pub(super) clock_forward: u8,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Start(u8),
    Connect(u8, Slot),
    Receive(u8, Slot),
    Cut(u8, Slot),
    Timeout(u8, Slot),
    /// A sleep is over.
    Wake(u8),
    /// The process looks after its waiter.
    Attend(u8),
    /// A message arrives.
    Tell(u8),
    /// The same, and it will once more.
    TellTwice(u8),
    LoseMessage(u8),
    Deafen(u8),
    /// The keeper looks after its lease.
    Keep(u8),
    /// The user lets go.
    Release(u8),
    Pause(u8),
    Resume(u8),
    Crash(u8),
    /// The user looks whether his lease is valid, and is about to write.
    Look(u8),
    /// The write arrives.
    Write(u8),
    Deliver(u8),
    /// The same, and a copy stays under way.
    DeliverCopy(u8),
    Stop,
    Continue,
    Restart,
    Wipe,
    Flush,
    ClockBack,
    ClockForward,
    /// The server's timer fires.
    Timer,
    Tick,
}

/// A request under way.
#[derive(Clone, Debug, Hash)]
pub(super) struct Flight<P: Protocol> {
    pub(super) client: u8,
    pub(super) slot: Slot,
    /// Whether the client still waits for the answer.
    pub(super) awaited: bool,
    pub(super) request: P::Request,
}

#[derive(Clone)]
pub(super) struct World<P: Protocol> {
    pub(super) bounds: Rc<Bounds>,
    /// The same, with nothing to look at.
    pub(super) without_checks: Rc<Bounds>,
    pub(super) lasts_until: u64,
    pub(super) memory: Rc<Memory>,
    /// What a fake clock shows at first, and cannot show less than.
    epoch: Time,
    pub(super) now: u64,
    /// What the server's machine takes for the time.
    wall: u64,
    pub(super) running: bool,
    pub(super) server: P,
    grants: u8,
    pub(super) flights: Vec<Flight<P>>,
    /// Messages under way: who was handed the lock.
    pub(super) messages: Vec<Owner>,
    pub(super) clients: Vec<Rc<Client<P>>>,
    /// The fencing tokens that clients were told, by ordinal.
    pub(super) told: Vec<Option<Fence>>,
    /// The highest token that the guarded resource has seen, and the latest grant that it was written under.
    pub(super) resource: (Fence, u8),
    pub(super) faults: Faults,
}

impl<P: Protocol> World<P> {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let around = Around {
            now: BEGIN,
            wall: BEGIN,
            grants: 0,
            told: None,
            seed: bounds.seed,
        };
        let without_checks = Bounds {
            properties: Vec::new(),
            ..bounds.clone()
        };
        let client = Rc::new(Client::new(bounds.rounds));
        let mut world = World {
            memory: Rc::default(),
            epoch: FakeClock::new().clock().now(),
            now: BEGIN,
            wall: BEGIN,
            running: true,
            server: P::start(&around),
            grants: 0,
            flights: Vec::new(),
            messages: Vec::new(),
            clients: vec![client; usize::from(bounds.clients)],
            told: Vec::new(),
            resource: (0, 0),
            faults: bounds.faults,
            bounds: Rc::new(bounds.clone()),
            without_checks: Rc::new(without_checks),
            lasts_until: BEGIN + bounds.ticks * TICK,
        };
        if bounds.begun {
            world.all_begin();
        }
        world
    }

    pub(super) fn around(&self) -> Around {
        Around {
            now: self.now,
            wall: self.wall,
            grants: self.grants,
            told: None,
            seed: self.bounds.seed,
        }
    }

    /// What a client's clock shows.
    pub(super) fn local(&self, client: u8) -> Time {
        self.local_at(client, self.now)
    }

    pub(super) fn local_at(&self, client: u8, now: u64) -> Time {
        let pace = self.bounds.pace[usize::from(client)];
        self.epoch.saturating_add(Duration::from_micros(now * pace))
    }

    pub(super) fn checks(&self, property: Property) -> bool {
        self.bounds.properties.contains(&property)
    }

    fn deliver(&mut self, at: usize) -> Result<(), String> {
        let flight = self.flights.remove(at);
        let mut around = self.around();
        let late = !flight.awaited;
        let result = self.server.execute(&flight.request, &mut around, late);
        self.grants = around.grants;
        let reply = result?;
        self.messages.extend(around.told);
        if flight.awaited {
            let client = Rc::make_mut(&mut self.clients[usize::from(flight.client)]);
            if let Some(pending) = client.pending_mut(flight.slot) {
                pending.reply = Some(reply);
            }
        }
        Ok(())
    }

    /// What goes on without anybody's doing.
    fn settle(&mut self) {
        let around = self.around();
        if !self.bounds.lag && self.running && self.server.is_behind(&around) {
            self.server.notice_time(&around);
        }
        let server = &self.server;
        let exact = self.bounds.faults.clock_back == 0;
        self.flights.retain(|flight| {
            flight.awaited || !(exact && server.is_moot(&flight.request, &around))
        });
        // They may arrive in any order, so the order in which they were sent tells nothing.
        self.flights.sort_by_cached_key(digest);
        self.settle_messages();
    }

    fn end_of_process(&mut self, keeps_data: bool) {
        let around = self.around();
        self.server.restart(&around, keeps_data);
        self.running = true;
        self.flights.clear();
        self.messages.clear();
        for client in &mut self.clients {
            Rc::make_mut(client).lose_connections();
        }
    }

    /// How many messages are late if time goes on now.
    fn late_messages(&self) -> u8 {
        let requests = self.flights.iter().filter(|flight| flight.awaited);
        let requests = if self.running { requests.count() } else { 0 };
        let replies = self
            .clients
            .iter()
            .map(|client| client.unread())
            .sum::<usize>();
        let is_awake = |owner: &&Owner| !self.clients[usize::from(owner.client)].paused;
        let messages = self.messages.iter().filter(is_awake).count();
        u8::try_from(requests + replies + messages).expect("few")
    }

    /// Whether time must not pass yet.
    fn is_urgent(&self) -> bool {
        if self.running && self.server.is_behind(&self.around()) {
            return true;
        }
        (0..self.bounds.clients).any(|client| self.must_act(client))
    }
}

impl<P: Protocol> Machine for World<P> {
    type Step = Step;

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let faults = &self.faults;
        for client in 0..self.bounds.clients {
            self.client_steps(client, &mut steps);
        }
        let mut add = |if_so: bool, step: Step| {
            if if_so {
                steps.push(step);
            }
        };
        let flights = u8::try_from(self.flights.len()).expect("few");
        for at in 0..flights {
            add(self.running, Step::Deliver(at));
            add(self.running && faults.copies > 0, Step::DeliverCopy(at));
        }
        for (at, owner) in (0u8..).zip(&self.messages) {
            if !self.client(owner.client).paused {
                add(true, Step::Tell(at));
                add(faults.copies > 0, Step::TellTwice(at));
                add(faults.losses > 0, Step::LoseMessage(at));
            }
        }
        let is_behind = self.server.is_behind(&self.around());
        add(self.running && is_behind, Step::Timer);
        add(self.running && faults.stops > 0, Step::Stop);
        add(!self.running, Step::Continue);
        add(faults.restarts > 0, Step::Restart);
        add(faults.wipes > 0, Step::Wipe);
        add(self.running && faults.flushes > 0, Step::Flush);
        add(faults.clock_back > 0, Step::ClockBack);
        add(faults.clock_forward > 0, Step::ClockForward);
        let lasts = self.now < self.lasts_until;
        let is_free = lasts && self.late_messages() <= faults.lates && !self.is_urgent();
        add(is_free, Step::Tick);
        steps
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Deliver(at) => self.deliver(usize::from(at))?,
            Step::DeliverCopy(at) => {
                self.faults.copies -= 1;
                let mut copy = self.flights[usize::from(at)].clone();
                copy.awaited = false;
                self.deliver(usize::from(at))?;
                self.flights.push(copy);
            }
            Step::Stop => {
                self.faults.stops -= 1;
                self.running = false;
                self.excuse_all();
            }
            Step::Continue => self.running = true,
            Step::Restart => {
                self.faults.restarts -= 1;
                self.end_of_process(true);
            }
            Step::Wipe => {
                self.faults.wipes -= 1;
                self.end_of_process(false);
            }
            Step::Flush => {
                self.faults.flushes -= 1;
                self.server.flush();
            }
            Step::ClockBack => {
                self.faults.clock_back -= 1;
                self.wall -= 6 * TICK;
            }
            Step::ClockForward => {
                self.faults.clock_forward -= 1;
                self.wall += 6 * TICK;
            }
            Step::Timer => {
                let around = self.around();
                self.server.notice_time(&around);
            }
            Step::Tell(at) => {
                let owner = self.messages.remove(usize::from(at));
                self.told(owner)?;
            }
            Step::TellTwice(at) => {
                self.faults.copies -= 1;
                self.told(self.messages[usize::from(at)])?;
            }
            Step::LoseMessage(at) => {
                self.faults.losses -= 1;
                self.messages.remove(usize::from(at));
            }
            Step::Deafen(client) => {
                self.faults.deaf -= 1;
                self.client_mut(client).waiting.deaf = true;
            }
            Step::Tick => {
                self.faults.lates -= self.late_messages();
                self.count_overdue()?;
                self.now += TICK;
                self.wall += TICK;
            }
            Step::Write(client) => {
                let client = Rc::make_mut(&mut self.clients[usize::from(client)]);
                if let Some(write) = client.write.take() {
                    self.write(write)?;
                }
            }
            client => self.client_step(client)?,
        }
        self.settle();
        if step == Step::Tick && !self.bounds.properties.is_empty() {
            self.check_future()?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        self.check_properties()
    }

    fn fingerprint(&self) -> u64 {
        digest(&(
            (self.now, self.wall, self.running, self.grants),
            (&self.server, &self.flights, &self.clients, &self.messages),
            (&self.told, self.resource, self.faults),
        ))
    }

    fn show(&self) -> String {
        let mut text = format!("{} ms", self.now - BEGIN);
        if self.wall != self.now {
            let _ = write!(text, ", wall {}", self.wall);
        }
        if !self.running {
            text.push_str(", server stopped");
        }
        let record = self.server.record(&self.around());
        match record {
            Some(record) => {
                let _ = write!(text, ", {record:?}");
            }
            None => text.push_str(", free"),
        }
        for (id, client) in (0u8..).zip(&self.clients) {
            let believes = if self.believes(id) { " believes" } else { "" };
            let _ = write!(text, "; {:?} {:?}{believes}", self.owner(id), client.phase);
            let _ = write!(text, "{}", if client.paused { " paused" } else { "" });
        }
        let queue = self.server.queue(&self.around());
        if !queue.is_empty() {
            let _ = write!(text, "; queue {queue:?}");
        }
        if !self.messages.is_empty() {
            let _ = write!(text, "; told {:?}", self.messages);
        }
        for flight in &self.flights {
            let lost = if flight.awaited { "" } else { " (given up)" };
            let _ = write!(text, "; under way{lost}: {:?}", flight.request);
        }
        text
    }
}

impl<P: Protocol> World<P> {
    /// Whether a client believes that it holds, or would if it were running.
    pub(super) fn believes(&self, client: u8) -> bool {
        let now = self.local(client);
        let client = &self.clients[usize::from(client)];
        client.phase == Phase::Holding && !client.mind.lost && now < client.mind.until
    }

    pub(super) fn owner(&self, client: u8) -> Owner {
        Owner {
            client,
            number: self.clients[usize::from(client)].number,
        }
    }
}
