//! What passes between core, the adapters and the servers of the model: plain data.

use std::time::Duration;

use crate::{ErrorKind, Time};

/// An owner token: whose, and the how manieth of his.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) client: u8,
    pub(super) number: u8,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", char::from(b'A' + self.client), self.number)
    }
}

pub(super) type Fence = u64;

/// Of a process in a queue.
pub(super) type Generation = u8;

/// What memcached's adapter has a grant carry (`At` in dlock-memcache/src/grant.rs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct At {
    pub(super) life: Life,
    pub(super) cas: u64,
    pub(super) sequence: u64,
    pub(super) kept: Kept,
}

/// One run of a memcached process (dlock-memcache/src/life.rs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Life {
    pub(super) pid: u8,
    pub(super) start: u64,
}

/// What memcached was told when (`Kept` in dlock-memcache/src/ttl.rs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kept {
    pub(super) seconds: u64,
    pub(super) ttl: Duration,
    pub(super) sent: Time,
}

/// A grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct GrantOf {
    pub(super) fence: Option<Fence>,
    pub(super) ttl: Duration,
    pub(super) at: Option<At>,
    /// The how manieth grant of the key it is. No real store tells; the properties are about it.
    pub(super) ordinal: u8,
}

/// What core asks a store for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Verb {
    Acquire,
    Extend,
    Release,
    Abandon,
    Confirm,
    /// The look of a process where some of it wait.
    Look,
    /// A waiter goes.
    Leave,
}

/// One call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Call {
    pub(super) verb: Verb,
    pub(super) owner: Owner,
    pub(super) ttl: Duration,
    /// When it was sent, on the client's clock.
    pub(super) sent: Time,
    /// Its end, on the client's clock.
    pub(super) not_after: Time,
    pub(super) sequence: u64,
    /// The lease's latest grant.
    pub(super) grant: Option<GrantOf>,
    /// Whether it names the process as one in which the owner waits.
    pub(super) waits: bool,
}

/// What a store answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Answer {
    Granted(GrantOf),
    Held {
        expires_in: Duration,
    },
    /// The same, and the claim is in the queue.
    Queued {
        expires_in: Duration,
        retry_in: Duration,
        generation: Generation,
    },
    /// Which waiter of the process the lock was handed to.
    Looked {
        handed_to: Option<Owner>,
        generation: Generation,
    },
    Left,
    Extended(GrantOf),
    Lost,
    Released(bool),
    Abandoned,
    Failed {
        kind: ErrorKind,
        maybe: bool,
    },
}

/// What an acquisition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PlanOf {
    pub(super) deadline: Time,
    pub(super) waits: bool,
    pub(super) call_timeout: Duration,
    pub(super) pause: Duration,
}

/// What a holder asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Promise {
    pub(super) ttl: Duration,
    pub(super) renew: bool,
    pub(super) min_hold: Option<Duration>,
    pub(super) max_hold: Option<Duration>,
    pub(super) ttl_min: Duration,
    pub(super) confirm_after: Option<Duration>,
    pub(super) call_timeout: Duration,
}

/// What stands at the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Record {
    pub(super) owner: Owner,
    pub(super) ordinal: u8,
    pub(super) sequence: u64,
    /// 0 in memcached until it is written again.
    pub(super) fence: Fence,
    /// When it ends, on the server's clock: ms of Redis, seconds of memcached. `None`: never.
    pub(super) ends: Option<u64>,
    /// Whether its client had given up the call that wrote it.
    pub(super) late: bool,
    /// Whether it was handed to a waiter that has not claimed it: no lease yet.
    pub(super) handed: bool,
    /// Whether it says that somebody waits.
    pub(super) marked: bool,
}

/// A deliberate mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Seed {
    None,
    /// Redis: the fencing token is the clock alone.
    FenceIsClock,
    /// Redis: the fencing token is the counter alone.
    FenceIsCounter,
    /// memcached: the fencing token is the CAS number alone.
    FenceIsCas,
    /// The lease counts from when the answer came.
    LeaseFromReceipt,
    /// Grants and extends promise more than the server keeps, by more than the margin for clocks.
    NoDriftMargin,
    /// memcached: the time on the wire is the time that was asked for, without the margin.
    NoWireMargin,
    /// memcached: a grant of another life of the server is believed.
    LifeIgnored,
    /// Redis: a repeated claim does not raise the remaining time, and says that it did.
    RepeatDoesNotRaise,
    /// A later call's number does not stop an earlier call.
    SequenceIgnored,
    /// Redis: calls that come after their end are carried out.
    NotAfterIgnored,
    /// A lost claim is not abandoned.
    NoAbandon,
    /// memcached: a process forgets which claims it gave up.
    NotRemembered,
    /// After a release the lost claim's end is not waited for.
    NotOutlived,
    /// Whether to wait for it is asked only when the release was answered: a mistake that this model found.
    OutlivedTooLate,
    /// memcached: a release after the lost claim's end gives it up no more: a mistake that this model found.
    ForgottenAfterItsEnd,
    /// The store does not tell core that a claim was sent twice by the pool: a mistake that this model found.
    ResendUntold,
    /// Whoever releases frees the key.
    ReleaseByKey,
    /// Whoever extends extends the key.
    ExtendByKey,
    /// An extend writes the record without its time to live.
    ExtendIsImmortal,
    /// memcached: a young server grants.
    NotGrownUp,
    /// The guarded resource checks nothing.
    ResourceChecksNothing,
    /// Redis: a waiter that is handed the lock stays at the head of the queue, and its process counts as alive from then on.
    NotDoubted,
    /// Redis: whoever enters the queue does not mark the lock and its fence.
    QueueUnmarked,
    /// Redis: a look hands no free lock over.
    LookHandsNothingOver,
    /// Redis: nor does a release or a waiter that leaves.
    ReleaseHandsNothingOn,
    /// Redis: the queue's keys have no end.
    QueueIsImmortal,
    /// Redis: a waiter leaves the queue when its wait is over, granted or not.
    LeaveAfterGrant,
    /// Redis: a leave that failed is not repeated.
    LeaveNotRepeated,
    /// Redis: a winner's release leaves a late copy of its claim in the queue.
    CopyStaysQueued,
    /// Redis: a look that shows a new generation wakes nobody.
    GenerationIgnored,
    /// Redis: who is told that the lock was handed to it holds it from then on.
    MessageIsLease,
}

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Property {
    /// Fencing tokens are unique and strictly increase in grant order.
    TokensRise,
    /// A guarded resource that checks tokens never accepts a write of an earlier grant after one of a later grant.
    ResourceIsSafe,
    /// At most one lease is valid by its holder's own reckoning.
    OneHolder,
    /// A lease that its holder believes in, and a key that is kept for `min_hold`, is in the store.
    PromiseKept,
    /// With faults over and all clients dead, a newcomer is granted one ttl and granularity later.
    SomeoneCanAcquire,
    /// A release or an extend changes nothing of a stranger's.
    StrangersAreSafe,
    /// Nothing is ever kept for longer than one ttl from now on, or the time of a hand-over.
    OneTtlAtMost,
    /// A client whose claim failed, or that released, and whose calls to clean up were answered, left nothing: no server that
    /// refuses late calls holds anything for it ever again, another one only what arrived after it was given up.
    NothingLeft,
    /// The stronger form that only a store which refuses late calls keeps: a claim that failed holds nothing ever again.
    NothingLate,
    /// What a claim that came to its end left all the same is known to its process, so that its next claim takes the place.
    OrphansAreKnown,
    /// A waiter that is awake is granted the lock within some ticks of its being nobody else's: see `World::patience`.
    NobodyWaitsForEver,
    /// Once all clients are done, the lock and its queue are empty within bounded time.
    NothingStays,
}

impl Property {
    pub(super) const ALL: [Property; 11] = [
        Property::TokensRise,
        Property::ResourceIsSafe,
        Property::OneHolder,
        Property::PromiseKept,
        Property::SomeoneCanAcquire,
        Property::StrangersAreSafe,
        Property::OneTtlAtMost,
        Property::NothingLeft,
        Property::OrphansAreKnown,
        Property::NobodyWaitsForEver,
        Property::NothingStays,
    ];
}
