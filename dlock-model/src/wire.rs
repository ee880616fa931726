//! How a call goes over the wire: who carries out what the calls want, one step at a time.

use std::rc::Rc;
use std::time::Duration;

use dlock_core::Time;

use super::call::{Begin, Notice, Talk, Wants};
use super::client::{Pending, Slot};
use super::protocol::Protocol;
use super::types::{Answer, Call, GrantOf, Owner, Verb};
use super::world::{Flight, Replica, World};

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
            named: verb == Verb::Acquire && self.is_listening(id),
            last: false,
            again: verb == Verb::Acquire && self.client(id).unanswered == Some(owner),
        };
        if matches!(verb, Verb::Release | Verb::Abandon) {
            self.client_mut(id).waiting.ends(owner);
        }
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
            named: false,
            last: verb == Verb::Look && self.client(id).waiting.is_queued(),
            again: false,
        };
        self.begin(id, slot, call)
    }

    fn begin(&mut self, id: u8, slot: Slot, call: Call) -> Result<(), String> {
        let (excused, seed, verify) = (!self.running, self.bounds.seed, self.bounds.verify);
        let client = self.client_mut(id);
        if call.verb == Verb::Acquire {
            client.given_up.retain(|owner| *owner != call.owner);
        }
        let given_up = client.given_up.clone();
        let (place, link) = client.place(slot);
        let begin = Begin {
            call,
            slot,
            given_up,
            verify,
            link: *link,
            seed,
        };
        *place = Some(Pending {
            call,
            talk: Talk::new(),
            reply: None,
            is_replicated: false,
            dead: false,
            excused,
        });
        self.notify(id, slot, Notice::Begin(begin))
    }

    /// Reports something to a call, and carries out what it then wants, as far as that can be done
    /// at once.
    fn notify(
        &mut self,
        id: u8,
        slot: Slot,
        notice: Notice<P::Link, P::Reply>,
    ) -> Result<(), String> {
        let (calls, now) = (Rc::clone(&self.calls), self.local(id));
        let place = self.client_mut(id).place(slot).0;
        let pending = place.as_mut().expect("a call is under way");
        pending.talk.notify(&calls, now, notice);
        match pending.talk.wants.clone() {
            // Nothing arrives over a dead connection.
            Wants::Reply(_) if pending.dead => {}
            Wants::Reply(request) => self.flights.push(Flight {
                client: id,
                slot,
                awaited: true,
                request,
            }),
            Wants::Answer {
                answer,
                in_doubt,
                link,
            } => return self.conclude(id, slot, answer, in_doubt, link),
            _ => {
                if let Some(notice) = self.can_go_on(id, slot) {
                    return self.notify(id, slot, notice);
                }
            }
        }
        Ok(())
    }

    fn conclude(
        &mut self,
        id: u8,
        slot: Slot,
        answer: Answer,
        in_doubt: bool,
        link: Option<P::Link>,
    ) -> Result<(), String> {
        let (place, before) = self.client_mut(id).place(slot);
        let pending = place.take().expect("a call is under way");
        *before = link.filter(|_| !pending.dead);
        self.hear_of_waiter(id, &pending.call, &answer);
        let answer = P::conclude(&pending.call, answer, in_doubt, self.bounds.seed);
        self.answered(id, slot, &pending.call, answer)
    }

    /// The notice that a call can get which waits for a connection, a server that may grant, or a
    /// time.
    fn can_go_on(&self, id: u8, slot: Slot) -> Option<Notice<P::Link, P::Reply>> {
        let (now, around) = (self.local(id), self.around());
        let pending = self.client(id).pending(slot)?;
        match pending.talk.wants {
            Wants::Connection if self.running => {
                Some(Notice::Connected(self.server.connect(&around, now)))
            }
            Wants::ToBeGranted if self.running && !pending.dead => {
                self.server.may_grant(&around).then_some(Notice::MayGrant)
            }
            Wants::Sleep(until) => (until <= now).then_some(Notice::Woken),
            _ => None,
        }
    }

    pub(super) fn can_proceed(&self, id: u8, slot: Slot) -> bool {
        self.can_go_on(id, slot).is_some()
    }

    pub(super) fn proceed(&mut self, id: u8, slot: Slot) -> Result<(), String> {
        let notice = self.can_go_on(id, slot).expect("it can");
        self.notify(id, slot, notice)
    }

    pub(super) fn receive(&mut self, id: u8, slot: Slot) -> Result<(), String> {
        let has_replica = self.replica.is_some();
        let pending = self.client_mut(id).pending_mut(slot);
        let pending = pending.expect("a call is under way");
        let (reply, is_replicated) = (pending.reply.take(), pending.is_replicated);
        let reply = reply.expect("it arrived");
        let reply = match self.bounds.replica {
            Replica::Acknowledges if !is_replicated && has_replica => {
                P::unacknowledged(reply, self.bounds.seed)
            }
            _ => reply,
        };
        self.notify(id, slot, Notice::Replied(reply))
    }

    pub(super) fn cut(&mut self, id: u8, slot: Slot) -> Result<(), String> {
        if !self.hang_up(id, slot).dead {
            self.faults.losses -= 1;
        }
        self.notify(id, slot, Notice::Cut)
    }

    pub(super) fn time_out(&mut self, id: u8, slot: Slot) -> Result<(), String> {
        let before = self.hang_up(id, slot);
        if before.talk.has_asked() && !before.excused && self.running {
            self.faults.losses -= 1;
        }
        self.notify(id, slot, Notice::TimedOut)
    }

    /// Ends the connection of a call; what the call was before.
    fn hang_up(&mut self, id: u8, slot: Slot) -> Pending<P> {
        self.give_up_flights(id, Some(slot));
        let (place, link) = self.client_mut(id).place(slot);
        *link = None;
        let pending = place.as_mut().expect("a call is under way");
        let before = pending.clone();
        (pending.reply, pending.dead) = (None, false);
        before
    }

    pub(super) fn give_up_flights(&mut self, id: u8, slot: Option<Slot>) {
        for flight in &mut self.flights {
            if flight.client == id && slot.is_none_or(|slot| slot == flight.slot) {
                flight.awaited = false;
            }
        }
    }
}
