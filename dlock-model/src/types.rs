//! What passes between core, the adapters and the servers of the model: plain data.

use std::time::Duration;

use dlock_core::{ErrorKind, Time};
use dlock_memcache::operations::revision::At;

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

/// A grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct GrantOf {
    pub(super) fence: Option<Fence>,
    pub(super) ttl: Duration,
    /// What memcached's grants carry.
    pub(super) at: Option<At>,
    /// The number of this grant of the key. No real store reports it; the properties need it.
    pub(super) ordinal: u8,
    /// Whether a copy of the claim may yet be carried out.
    pub(super) copy_may_follow: bool,
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
    /// A process gives back what was handed to a waiter that it does not know.
    GiveBack,
    /// A grant that the replica has not acknowledged is taken back.
    TakeBack,
}

/// The messages of the server to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Message {
    /// The lock was handed to this waiter.
    Claim(Owner),
    /// The record names this claim: has the process released it already?
    Asked(Owner),
    /// The process is to call: what is known of it is old.
    Call(Owner),
}

impl Message {
    pub(super) fn client(self) -> u8 {
        let (Message::Claim(owner) | Message::Asked(owner) | Message::Call(owner)) = self;
        owner.client
    }
}

/// What of the server's data comes back as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Lock,
    Fence,
    Queue,
    Heartbeats,
    /// Everything at once, over a new connection: a replica that lagged takes over.
    All,
}

impl Part {
    pub(super) const EACH: &[Part] = &[
        Part::Lock,
        Part::Fence,
        Part::Queue,
        Part::Heartbeats,
        Part::All,
    ];
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
    /// Whether the record is to name the process.
    pub(super) named: bool,
    /// Of a look: whether it names the waiter as the last that came.
    pub(super) last: bool,
    /// Whether an earlier claim of the same owner was not answered.
    pub(super) again: bool,
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
    /// The same, by the mark of a job that was done.
    HeldByDone {
        expires_in: Duration,
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
    /// Whether it names the owner's process.
    pub(super) named: bool,
}

/// A deliberate mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Seed {
    None,
    /// Redis: the fencing token is the clock alone.
    FenceIsClock,
    /// Redis: the fencing token is the counter alone.
    FenceIsCounter,
    /// Grants and extends promise more than the server keeps, by more than the margin for clocks.
    NoDriftMargin,
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
    /// memcached: a release after the lost claim's end gives it up no more: a mistake that this
    /// model found.
    ForgottenAfterItsEnd,
    /// The store does not report to core that the pool sent a claim twice: a mistake that this
    /// model found.
    ResendUntold,
    /// A release by anybody frees the key.
    ReleaseByKey,
    /// An extend by anybody extends the key.
    ExtendByKey,
    /// An extend writes the record without its time to live.
    ExtendIsImmortal,
    /// The guarded resource checks nothing.
    ResourceChecksNothing,
    /// Redis: a waiter that is handed the lock stays at the head of the queue, and its process
    /// counts as alive from then on.
    NotDoubted,
    /// Redis: a waiter that enters the queue does not mark the lock and its fence.
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
    /// Redis: a waiter that is notified of a hand-over holds the lock from then on.
    MessageIsLease,
    /// Redis: how many receive a message is not looked at.
    ReceiversIgnored,
    /// Redis: a process that receives no messages is dead, though it calls.
    UnsubscribedIsDead,
    /// Redis: behind a waiter that cannot be served, nobody is looked for.
    OnlyTheFirstLookedAt,
    /// Redis: what was handed to an unknown waiter is not given back.
    NotGivenBack,
    /// Redis: what is given back is freed though it was claimed.
    GivenBackClaimed,
    /// Redis: nobody is asked whether it has released what a record says it holds.
    NobodyAsked,
    /// Redis: who is asked frees whatever it does not wait for.
    UnknownIsReleased,
    /// Redis: a look does not say which waiter came last.
    LastNotNamed,
    /// Redis: a claim of what was handed over takes the token that the fence has.
    HandedTokenNotDrawn,
    /// Redis: so does a claim that was granted before, unanswered.
    RepeatedTokenNotDrawn,
    /// Redis: a grant counts though the replica has not acknowledged it.
    ClaimNotAcknowledged,
    /// Redis: so does an extend.
    ExtendNotAcknowledged,
    /// Redis: a grant that the replica has not acknowledged is not taken back.
    NotTakenBack,
    /// Redis: what takes a grant back frees what the same owner was granted since.
    TakesAnyGrantBack,
}

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Property {
    /// Fencing tokens are unique and strictly increase in grant order.
    TokensRise,
    /// A guarded resource that checks tokens never accepts a write of an earlier grant after one of
    /// a later grant.
    ResourceIsSafe,
    /// At most one lease is valid by its holder's own reckoning.
    OneHolder,
    /// A lease that its holder believes in, and a key that is kept for `min_hold`, is in the store.
    PromiseKept,
    /// What is kept for `min_hold` is free when that is over.
    KeptEndsInTime,
    /// A lease that is handed to the user is valid.
    GuardsBeginValid,
    /// A release of which the first call fails is tried once more, if there is time.
    OneLossIsBorne,
    /// With faults over and all clients dead, a newcomer is granted one ttl and granularity later.
    SomeoneCanAcquire,
    /// A release or an extend changes nothing of a stranger's.
    StrangersAreSafe,
    /// Nothing is ever kept for longer than one ttl from now on, or the time of a hand-over.
    OneTtlAtMost,
    /// A client whose claim failed, or that released, and whose calls to clean up were answered,
    /// left nothing: no server that refuses late calls holds anything for it ever again, another
    /// one only what arrived after it was given up.
    NothingLeft,
    /// The stronger form that only a store which refuses late calls keeps: a claim that failed
    /// holds nothing ever again.
    NothingLate,
    /// What a claim that came to its end left all the same is known to its process, so that its
    /// next claim takes the place.
    OrphansAreKnown,
    /// A waiter that is awake is granted the lock within some ticks of its being nobody else's: see
    /// `World::patience`.
    NobodyWaitsForEver,
    /// The lock is handed to no process that has died, unless a call of it arrived after its death.
    NothingForTheDead,
    /// A waiter whose process can be reached and is awake is not overtaken.
    NobodyOvertakes,
    /// What is marked as done was done.
    DoneIsDone,
    /// A job that is shorter than its lease is done once, unless calls are lost or processes die.
    DoneOnce,
    /// Once all clients are done, the lock and its queue are empty within bounded time.
    NothingStays,
}

impl Property {
    pub(super) const ALL: [Property; 14] = [
        Property::TokensRise,
        Property::ResourceIsSafe,
        Property::OneHolder,
        Property::PromiseKept,
        Property::KeptEndsInTime,
        Property::GuardsBeginValid,
        Property::OneLossIsBorne,
        Property::SomeoneCanAcquire,
        Property::StrangersAreSafe,
        Property::OneTtlAtMost,
        Property::NothingLeft,
        Property::OrphansAreKnown,
        Property::NobodyWaitsForEver,
        Property::NothingStays,
    ];
}
