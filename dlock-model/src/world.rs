//! The world: a server, clients, what is under way between them, faults, and what must hold.

use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

pub(super) use super::bounds::{Bounds, Faults, Replica};
use super::call;
use super::client::{Client, Phase, Slot};
use super::explorer::{Machine, digest};
use super::flows::Memory;
use super::protocol::{Around, PROCESSES, Protocol};
use super::types::{Fence, Message, Owner, Part, Property, Verb};
use dlock_core::{FakeClock, Time};

/// What goes through in one step of time.
pub(super) const TICK: u64 = 1000;
/// When the world begins, in ms.
const BEGIN: u64 = 10_000;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Start(u8),
    /// A call goes on that waited for a connection, a server that may grant, or a time.
    Proceed(u8, Slot),
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
    Unsubscribe(u8),
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
    /// A copy of the server's data is taken, once.
    Copy,
    BringBack(Part),
    /// The replica has everything that the server has.
    Replicate,
    /// The replica takes the place of the server.
    FailOver,
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
    pub(super) calls: Rc<call::Memory<P>>,
    /// What a fake clock shows at first, and cannot show less than.
    epoch: Time,
    pub(super) now: u64,
    /// What the server's machine takes for the time.
    wall: u64,
    pub(super) running: bool,
    pub(super) server: P,
    grants: u8,
    pub(super) flights: Vec<Flight<P>>,
    /// Messages under way to waiting processes.
    pub(super) messages: Vec<Message>,
    /// The copy that was taken of the server's data.
    pub(super) copy: Option<Rc<P>>,
    /// What the server's replica has, if there is one.
    pub(super) replica: Option<Rc<P>>,
    /// Of which clients a call arrived when they were dead, as bits.
    pub(super) spoke_after_death: u8,
    /// How many ticks a waiter may lose by what came back.
    pub(super) brought_back_costs: u8,
    pub(super) clients: Vec<Rc<Client<P>>>,
    /// The fencing tokens that clients received, by ordinal.
    pub(super) received_fences: Vec<Option<Fence>>,
    /// The highest token that the guarded resource has seen, and the latest grant that it was
    /// written under.
    pub(super) resource: (Fence, u8),
    pub(super) faults: Faults,
}

impl<P: Protocol> World<P> {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let around = Around {
            now: BEGIN,
            wall: BEGIN,
            micros: 0,
            grants: 0,
            notified: [None; 4],
            receive: [false; PROCESSES],
            seed: bounds.seed,
        };
        let without_checks = Bounds {
            properties: Vec::new(),
            ..bounds.clone()
        };
        let client = Rc::new(Client::new(bounds.rounds));
        let mut world = World {
            memory: Rc::default(),
            calls: Rc::default(),
            epoch: FakeClock::new().clock().now(),
            now: BEGIN,
            wall: BEGIN,
            running: true,
            server: P::start(&around),
            grants: 0,
            flights: Vec::new(),
            messages: Vec::new(),
            copy: None,
            replica: None,
            spoke_after_death: 0,
            brought_back_costs: 0,
            clients: vec![client; usize::from(bounds.clients)],
            received_fences: Vec::new(),
            resource: (0, 0),
            faults: bounds.faults,
            bounds: Rc::new(bounds.clone()),
            without_checks: Rc::new(without_checks),
            lasts_until: BEGIN + bounds.ticks * TICK,
        };
        if bounds.begun {
            world.all_begin();
        }
        if let Some(part) = bounds.begins_with {
            world.begin_with(part);
        }
        world.begin_replica();
        world
    }

    pub(super) fn around(&self) -> Around {
        Around {
            now: self.now,
            wall: self.wall,
            // Each grant comes at a time of its own.
            micros: u64::from(self.grants),
            grants: self.grants,
            notified: [None; 4],
            receive: self.receivers(),
            seed: self.bounds.seed,
        }
    }

    /// Which processes receive messages: those that waited before, live, and have not lost their
    /// subscription. One that is paused keeps it.
    fn receivers(&self) -> [bool; PROCESSES] {
        let mut receive = [false; PROCESSES];
        for (client, receives) in self.clients.iter().zip(&mut receive) {
            let is_there = client.phase != Phase::Dead && client.waiting.is_watched();
            *receives = is_there && !client.waiting.unsubscribed;
        }
        receive
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
        let before = (self.server.record(&around), self.server.queue(&around));
        let result = self.server.execute(&flight.request, &mut around, late);
        self.grants = around.grants;
        let reply = result?;
        self.messages.extend(around.notified.into_iter().flatten());
        if self.client(flight.client).phase == Phase::Dead {
            self.spoke_after_death |= 1 << flight.client;
        }
        self.check_turn(before)?;
        if flight.awaited {
            let client = Rc::make_mut(&mut self.clients[usize::from(flight.client)]);
            let (place, _) = client.place(flight.slot);
            // Nobody waits for what is answered to that.
            if place
                .as_ref()
                .is_some_and(|pending| pending.call.verb == Verb::GiveBack)
            {
                *place = None;
            }
            if let Some(pending) = place {
                (pending.reply, pending.is_replicated) = (Some(reply), false);
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

    pub(super) fn end_of_process(&mut self, keeps_data: bool) {
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
        let is_awake = |message: &&Message| !self.client(message.client()).paused;
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
        for (at, message) in (0u8..).zip(&self.messages) {
            if !self.client(message.client()).paused {
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
        let can_copy = faults.old_data > 0 && self.copy.is_none();
        add(self.running && can_copy, Step::Copy);
        for part in self.bounds.parts {
            let can_bring_back = faults.old_data > 0 && self.copy.is_some();
            add(self.running && can_bring_back, Step::BringBack(*part));
        }
        add(self.running && self.is_ahead_of_replica(), Step::Replicate);
        add(faults.failovers > 0, Step::FailOver);
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
            Step::Copy => self.copy = Some(Rc::new(self.server.clone())),
            Step::BringBack(part) => self.bring_back(part),
            Step::Replicate => self.replicate(),
            Step::FailOver => self.fail_over(),
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
                let message = self.messages.remove(usize::from(at));
                self.received(message)?;
            }
            Step::TellTwice(at) => {
                self.faults.copies -= 1;
                self.received(self.messages[usize::from(at)])?;
            }
            Step::LoseMessage(at) => {
                self.faults.losses -= 1;
                self.messages.remove(usize::from(at));
            }
            Step::Unsubscribe(client) => {
                self.faults.unsubscribed -= 1;
                self.client_mut(client).waiting.unsubscribed = true;
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
            (&self.received_fences, self.resource, self.faults),
            (&self.copy, self.brought_back_costs, self.spoke_after_death),
            &self.replica,
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
            let _ = write!(text, "; messages {:?}", self.messages);
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
        client.phase == Phase::Holding && !client.process.lost && now < client.process.until
    }

    pub(super) fn owner(&self, client: u8) -> Owner {
        Owner {
            client,
            number: self.clients[usize::from(client)].number,
        }
    }
}
