//! What is asked of a server.

use std::time::Duration;

use dlock_core::{Claim, FencingToken, Lease, OwnerToken, Time};
use dlock_net::deadline_in;

use super::Deletes;

/// One call of a script.
#[derive(Clone, Copy)]
pub(crate) enum Call<'a> {
    Acquire {
        claim: &'a Claim,
        ttl: Duration,
        /// The claimant's process, if that receives messages: the record names it.
        process: Option<&'a str>,
        /// Whether a refusal queues the claimant, which waits in that process.
        queues: bool,
        /// Whether it may have been carried out before, unanswered.
        again: bool,
        keys: Keys,
    },
    Extend(&'a Lease, Duration),
    /// The same with one key, whatever the time to live: the waiters learn of a near end later.
    ExtendAlone(&'a Lease, Duration),
    /// Frees a key whose owner is not queued.
    Release {
        record: Record<'a>,
        keys: Keys,
    },
    /// The same for an owner that may be queued, in that process.
    Leave {
        key: &'a str,
        owner: OwnerToken,
        process: &'a str,
    },
    /// Gives back what was handed to a waiter that its process does not know, unless it was
    /// claimed, and takes the waiter off the queue.
    GiveBack {
        key: &'a str,
        owner: OwnerToken,
        process: &'a str,
    },
    /// Keeps the waiters of a process in the queue of a key.
    Heartbeat {
        key: &'a str,
        process: &'a str,
        /// Whether the holder's process is asked whether it has released the lock already.
        asks: bool,
        /// The last of the process's waiters that came and is in the queue.
        last: Option<OwnerToken>,
    },
    /// Asks who holds a key.
    Holder(&'a str),
    /// Counts who waits for a key.
    Waiting(&'a str),
    /// Names keys of the server that the call goes to, of which this is one page.
    List(Listing<'a>),
    /// Frees a key that is held under this fencing token.
    Break(&'a str, FencingToken, Keys),
    /// Takes back what a claim was granted under this fencing token, and nothing that it was
    /// granted since.
    TakeBack(&'a Claim, FencingToken, Keys),
    /// Lets the next call on this connection use a slot that is being moved here.
    Asking,
}

/// Some of the keys of one server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listing<'a> {
    /// Where to begin, as the server said the time before; 0 at first.
    pub(crate) cursor: u64,
    /// What the keys are like, in the way of SCAN.
    pub(crate) pattern: &'a str,
}

/// Which keys a call names. A call that needs no more than a few is not refused while a cluster
/// moves their slot, where the others do not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Those without which it cannot do its work where nobody waits.
    Few,
    /// Also those of the queue.
    All,
}

/// What an owner wrote under a key, as far as it knows: a call whose answer was lost may have
/// changed it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) key: &'a str,
    pub(crate) owner: OwnerToken,
    /// Of the last extend.
    pub(crate) sequence: u64,
    /// The owner's process, if that receives messages.
    pub(crate) process: Option<&'a str>,
    pub(crate) holder: &'a str,
}

/// What a call may be answered by a number alone depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Acquire,
    Extend,
    /// A key is freed, by whatever right.
    Free,
    /// The same without a script.
    Delete,
    Holder,
    Waiting,
    List,
    Heartbeat,
    Asking,
    /// Not a script: how many replicas have acknowledged what was sent before, of this many.
    Wait(u32),
}

impl<'a> Call<'a> {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Call::Acquire { .. } => Kind::Acquire,
            Call::Extend(..) | Call::ExtendAlone(..) => Kind::Extend,
            Call::Release { .. }
            | Call::Leave { .. }
            | Call::GiveBack { .. }
            | Call::Break(..)
            | Call::TakeBack(..) => Kind::Free,
            Call::Holder(_) => Kind::Holder,
            Call::Waiting(_) => Kind::Waiting,
            Call::List(_) => Kind::List,
            Call::Heartbeat { .. } => Kind::Heartbeat,
            Call::Asking => Kind::Asking,
        }
    }

    /// The key of its lock, which decides to which slot of a cluster it belongs.
    pub(crate) fn key(&self) -> &'a str {
        match *self {
            Call::Acquire { claim, .. } => claim.key(),
            Call::Extend(lease, _) | Call::ExtendAlone(lease, _) => lease.key(),
            Call::Release { record, .. } => record.key,
            Call::Leave { key, .. }
            | Call::GiveBack { key, .. }
            | Call::Heartbeat { key, .. }
            | Call::Holder(key)
            | Call::Waiting(key)
            | Call::Break(key, ..) => key,
            Call::TakeBack(claim, ..) => claim.key(),
            // They name no key, and are sent to a node that their caller chooses.
            Call::Asking | Call::List(_) => "",
        }
    }

    /// Whether replicas must have what it writes, if they are waited for at all.
    pub(crate) fn is_for_replicas(&self) -> bool {
        matches!(
            self,
            Call::Acquire { .. } | Call::Extend(..) | Call::ExtendAlone(..)
        )
    }

    /// Whether others wait for its effect.
    pub(crate) fn is_urgent(&self) -> bool {
        !matches!(self, Call::Acquire { .. })
    }

    /// A call that does the same with fewer keys, or finds that it takes more; `None` if there is
    /// none.
    pub(crate) fn with_few_keys(self) -> Option<Self> {
        match self {
            Call::Extend(lease, ttl) => Some(Call::ExtendAlone(lease, ttl)),
            Call::Release {
                record,
                keys: Keys::All,
            } => Some(Call::Release {
                record,
                keys: Keys::Few,
            }),
            Call::Break(key, fence, Keys::All) => Some(Call::Break(key, fence, Keys::Few)),
            Call::TakeBack(claim, fence, Keys::All) => {
                Some(Call::TakeBack(claim, fence, Keys::Few))
            }
            _ => None,
        }
    }

    /// The same on a connection to a server that deletes in this way.
    pub(crate) fn kind_with(&self, deletes: Deletes) -> Kind {
        match self {
            Call::Release {
                keys: Keys::Few, ..
            } if deletes.is_command() => Kind::Delete,
            call => call.kind(),
        }
    }

    /// The same call once more, the answer to which was lost.
    pub(crate) fn once_more(mut self) -> Self {
        if let Call::Acquire { again, .. } = &mut self {
            *again = true;
        }
        self
    }

    /// The same call, for a key where somebody waits.
    pub(crate) fn with_all_keys(mut self) -> Self {
        if let Call::Acquire { keys, .. }
        | Call::Release { keys, .. }
        | Call::Break(.., keys)
        | Call::TakeBack(.., keys) = &mut self
        {
            *keys = Keys::All;
        }
        self
    }

    /// When it must have ended, on the system's clock.
    pub(crate) fn end(&self) -> Time {
        match self {
            Call::Acquire { claim, .. } => deadline_in(claim.time_left()),
            Call::Extend(lease, _) | Call::ExtendAlone(lease, _) => deadline_in(lease.time_left()),
            // They are right at any time.
            Call::Release { .. }
            | Call::Leave { .. }
            | Call::GiveBack { .. }
            | Call::Heartbeat { .. }
            | Call::Holder(_)
            | Call::Waiting(_)
            | Call::List(_)
            | Call::Break(..)
            | Call::TakeBack(..)
            | Call::Asking => Time::MAX,
        }
    }
}
