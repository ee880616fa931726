//! What the world must know of a server and of the adapter that talks to it.

use std::fmt::Debug;
use std::hash::Hash;

use dlock_core::{DatastoreError, Time};
use dlock_net::Earlier;

use super::call::{Begin, Wire};
use super::types::{Answer, Call, Message, Owner, Part, Record, Seed};

/// What surrounds a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    /// The true time, in ms.
    pub(super) now: u64,
    /// What the server's machine takes for the time, in ms.
    pub(super) wall: u64,
    /// How many µs past that.
    pub(super) micros: u64,
    /// How many grants of the key there were.
    pub(super) grants: u8,
    /// The messages of the server to processes.
    pub(super) notified: [Option<Message>; 4],
    /// Which processes receive messages.
    pub(super) receive: [bool; PROCESSES],
    pub(super) seed: Seed,
}

/// Clients of a world.
pub(super) const PROCESSES: usize = 3;

impl Around {
    /// Notifies a process; answers whether it receives messages.
    pub(super) fn notify(&mut self, message: Message) -> bool {
        let receives = self.receives(message.client());
        if receives && let Some(place) = self.notified.iter_mut().find(|place| place.is_none()) {
            *place = Some(message);
        }
        receives
    }

    pub(super) fn receives(&self, client: u8) -> bool {
        self.seed == Seed::ReceiversIgnored || self.receive[usize::from(client)]
    }
}

/// A server with one key, and the adapter's side of a call to it.
pub(super) trait Protocol: Clone + Debug + Hash + 'static {
    /// What goes to the server in one message.
    type Request: Clone + Debug + Hash + PartialEq + Send;
    type Reply: Clone + Debug + Hash + Eq + Send;
    /// What an open connection knows.
    type Link: Copy + Debug + Hash + Eq + Send;

    /// Whether a call that comes late changes nothing.
    const REFUSES_LATE_CALLS: bool;
    /// How long after its end a record may still be there, and how long a new server grants
    /// nothing, in ms.
    const GRANULARITY: u64;
    const CONFIRM_AFTER: Option<u64>;
    /// Whether it queues waiters, and notifies them when their turn has come.
    const WAKES: bool;
    /// For how long a lock is kept for a waiter that it was handed to, in ms.
    const HANDOVER: u64;
    /// For how long after its last call a process still counts as alive, in ms.
    const ALIVE: u64;

    fn start(around: &Around) -> Self;

    /// What a connection learns when it is opened, by a client whose clock shows `local`.
    fn connect(&self, around: &Around, local: Time) -> Self::Link;

    /// Whether it is old enough to grant.
    fn may_grant(&self, around: &Around) -> bool;

    /// One try of a call, after what `earlier` ones may have done.
    fn converse(
        wire: &mut Wire<Self>,
        begin: &Begin<Self::Link>,
        earlier: Earlier,
    ) -> impl Future<Output = Result<Answer, DatastoreError>>;

    /// What the store makes of an answer if an earlier try of the same call may have been carried
    /// out.
    fn conclude(call: &Call, answer: Answer, in_doubt: bool, seed: Seed) -> Answer;

    /// Runs a request, `late` if its client has given it up. An error is a property that it broke.
    fn execute(
        &mut self,
        request: &Self::Request,
        around: &mut Around,
        late: bool,
    ) -> Result<Self::Reply, String>;

    /// What becomes of a reply if the replica has not acknowledged what was written.
    fn unacknowledged(reply: Self::Reply, seed: Seed) -> Self::Reply;

    /// Whether the request, whose client has given it up, can do nothing any more, whatever comes.
    fn is_moot(&self, request: &Self::Request, around: &Around) -> bool;

    /// What stands at the key.
    fn record(&self, around: &Around) -> Option<Record>;

    /// Who waits, in the order of their turns.
    fn queue(&self, around: &Around) -> Vec<Owner>;

    /// Whether nothing at all is kept, but what makes tokens rise.
    fn is_empty(&self, around: &Around) -> bool;

    /// The most that a record can be kept from now on, in ms, if it was written now for `ttl` ms;
    /// `None`: for ever.
    fn left(&self, around: &Around) -> Option<u64>;

    /// The longest that a record is kept for `ttl` ms.
    fn longest(ttl: u64) -> u64;

    /// A claim by a newcomer, as the last thing that happens.
    fn would_grant(&mut self, around: &mut Around) -> bool;

    /// Whether the server has not noticed yet what time it is.
    fn is_behind(&self, around: &Around) -> bool;

    /// It notices.
    fn notice_time(&mut self, around: &Around);

    /// It starts anew.
    fn restart(&mut self, around: &Around, keeps_data: bool);

    /// It forgets all keys.
    fn flush(&mut self);

    /// An old copy of its data comes back.
    fn bring_back(&mut self, old: &Self, part: Part);

    /// What it had of a claim that was served and released since comes back: the lock, or the first
    /// place in the queue.
    fn haunt(&mut self, around: &mut Around, owner: Owner, part: Part);
}

/// The broken property that a call of `by` changed a record of another.
pub(super) fn strangers_record(by: Owner, record: &Record) -> String {
    format!(
        "StrangersAreSafe: a call of {by:?} changed what {:?} holds",
        record.owner
    )
}
