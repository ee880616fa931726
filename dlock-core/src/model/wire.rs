//! How a call goes over the wire: dlock-net's `Pool::call`, and the adapter's conversation with the server.

use std::time::Duration;

use super::client::{Pending, Slot};
use super::protocol::{Next, Protocol};
use super::types::{Answer, Call, GrantOf, Owner, Verb};
use super::world::{Flight, World};
use crate::{ErrorKind, Time};

impl<P: Protocol> World<P> {
    #[expect(clippy::too_many_arguments, reason = "a call is that much")]
    pub(super) fn call(
        &mut self,
        id: u8,
        slot: Slot,
        verb: Verb,
        not_after: Time,
        sequence: u64,
        ttl: Duration,
        grant: Option<GrantOf>,
    ) -> Result<(), String> {
        let owner = self.owner(id);
        let call = Call {
            verb,
            owner,
            ttl,
            sent: self.local(id),
            not_after,
            sequence,
            grant,
            waits: self.names_process(id, verb),
        };
        self.begin(id, slot, call)
    }

    /// The same for a claim of this client that may not be its latest.
    pub(super) fn call_for_queue(
        &mut self,
        id: u8,
        slot: Slot,
        verb: Verb,
        owner: Owner,
        not_after: Time,
    ) -> Result<(), String> {
        let call = Call {
            verb,
            owner,
            ttl: Duration::ZERO,
            sent: self.local(id),
            not_after,
            sequence: 0,
            grant: None,
            waits: true,
        };
        self.begin(id, slot, call)
    }

    fn begin(&mut self, id: u8, slot: Slot, call: Call) -> Result<(), String> {
        let client = self.client_mut(id);
        if call.verb == Verb::Acquire {
            client.given_up.retain(|owner| *owner != call.owner);
        }
        let (place, link) = client.place(slot);
        *place = Some(Pending {
            call,
            talk: None,
            link: None,
            reply: None,
            reused: link.is_some(),
            retried: false,
            in_doubt: false,
            dead: false,
            excused: false,
        });
        let excused = !self.running;
        if let Some(pending) = self.client_mut(id).pending_mut(slot) {
            pending.excused = excused;
        }
        self.open(id, slot)
    }

    /// Sends the first message of a call, over a new connection if there is none, if it can.
    pub(super) fn open(&mut self, id: u8, slot: Slot) -> Result<(), String> {
        let (local, around) = (self.local(id), self.around());
        let (server, running) = (self.server.clone(), self.running);
        let (place, link) = self.client_mut(id).place(slot);
        let pending = place.as_mut().expect("a call was begun");
        if !server.is_ready(&around, pending.call.verb) {
            return Ok(());
        }
        if link.is_none() && running {
            *link = Some(server.connect(&around, local));
        }
        let Some(link) = link else { return Ok(()) };
        let again = pending.in_doubt;
        let (talk, next) = P::begin(&pending.call, link, local, again, around.seed);
        (pending.talk, pending.link) = (Some(talk), Some(*link));
        self.proceed(id, slot, next)
    }

    pub(super) fn proceed(
        &mut self,
        id: u8,
        slot: Slot,
        next: Next<P::Request>,
    ) -> Result<(), String> {
        let seed = self.bounds.seed;
        let place = self.client_mut(id).place(slot).0;
        let pending = place.as_ref().expect("a call is under way");
        match next {
            // Nothing arrives over a dead connection.
            Next::Ask(_) if pending.dead => Ok(()),
            Next::Ask(request) => {
                self.flights.push(Flight {
                    client: id,
                    slot,
                    awaited: true,
                    request,
                });
                Ok(())
            }
            Next::Done(answer) => {
                let pending = place.take().expect("a call is under way");
                let answer = match answer {
                    // dlock-net, `Lazy::call_in`: an error says so if the first of two runs may have been executed.
                    Answer::Failed { kind, maybe } => Answer::Failed {
                        kind,
                        maybe: maybe || pending.in_doubt,
                    },
                    answer => answer,
                };
                self.hear_of_waiter(id, &pending.call, &answer);
                let answer = P::conclude(&pending.call, answer, pending.in_doubt, seed);
                self.answered(id, slot, &pending.call, answer)
            }
        }
    }

    pub(super) fn receive(&mut self, id: u8, slot: Slot) -> Result<(), String> {
        let (local, seed) = (self.local(id), self.bounds.seed);
        let client = self.client_mut(id);
        let given_up = client.given_up.clone();
        let (place, link) = client.place(slot);
        let pending = place.as_mut().expect("a call is under way");
        let reply = pending.reply.take().expect("it arrived");
        let talk = pending.talk.as_mut().expect("it was asked for");
        // The answer of a dead connection may still be read, and teaches nobody anything.
        let mut forgotten = None;
        let link = match link {
            Some(link) => link,
            None => forgotten.insert(pending.link.expect("there was one")),
        };
        let next = P::hear(talk, &pending.call, &reply, link, local, &given_up, seed);
        self.proceed(id, slot, next)
    }

    pub(super) fn cut(&mut self, id: u8, slot: Slot) -> Result<(), String> {
        let now = self.local(id);
        let pending = self.client(id).pending(slot).expect("a call is under way");
        let may_replace = pending.reused && !pending.retried && now < pending.call.not_after;
        if !pending.dead {
            self.faults.losses -= 1;
        }
        let pending = self.hang_up(id, slot);
        if may_replace {
            let again = Pending {
                retried: true,
                dead: false,
                talk: None,
                ..pending
            };
            *self.client_mut(id).place(slot).0 = Some(again);
            return self.open(id, slot);
        }
        let (kind, maybe) = (ErrorKind::Unreachable, pending.in_doubt);
        self.answered(id, slot, &pending.call, Answer::Failed { kind, maybe })
    }

    pub(super) fn time_out(&mut self, id: u8, slot: Slot) -> Result<(), String> {
        let pending = self.client(id).pending(slot).expect("a call is under way");
        if pending.talk.is_some() && !pending.excused && self.running {
            self.faults.losses -= 1;
        }
        let pending = self.hang_up(id, slot);
        let (kind, maybe) = (ErrorKind::Timeout, pending.in_doubt);
        self.answered(id, slot, &pending.call, Answer::Failed { kind, maybe })
    }

    /// Ends the connection of a call, and says whether it may have been carried out.
    pub(super) fn hang_up(&mut self, id: u8, slot: Slot) -> Pending<P> {
        self.give_up_flights(id, Some(slot));
        let (place, link) = self.client_mut(id).place(slot);
        *link = None;
        let mut pending = place.take().expect("a call is under way");
        pending.reply = None;
        pending.in_doubt |= pending.talk.as_ref().is_some_and(P::is_write);
        pending
    }

    pub(super) fn give_up_flights(&mut self, id: u8, slot: Option<Slot>) {
        for flight in &mut self.flights {
            if flight.client == id && slot.is_none_or(|slot| slot == flight.slot) {
                flight.awaited = false;
            }
        }
    }
}
