//! Redis: the server, and the connection that calls its scripts. Each step names the lines that it
//! stands for.

use std::time::Duration;

use super::call::{Begin, Wire};
use super::protocol::{Around, Protocol};
use super::redis_queue::{ALIVE, HANDOVER, Queue};
use super::redis_scripts::is_stale;
use super::types::{Answer, Call, Generation, GrantOf, Owner, Part, Record, Seed, Verb};
use dlock_core::{DatastoreError, ErrorKind, Time};
use dlock_net::Earlier;

/// store.rs
const UNTIL_WOKEN: Duration = Duration::from_secs(60);
/// protocol.rs
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One Redis server and one lock.
#[derive(Clone, Debug, Hash)]
pub(super) struct Redis {
    /// The lock key; `ends` is the wall clock's ms, as Redis itself has it.
    pub(super) lock: Option<Record>,
    /// The fence key, and whether it says that somebody waits.
    pub(super) fence: u64,
    pub(super) fence_marked: bool,
    pub(super) queue: Queue,
}

#[derive(Clone, Debug, Hash, PartialEq)]
pub(super) struct Request {
    pub(super) verb: Verb,
    pub(super) owner: Owner,
    pub(super) ttl: u64,
    /// Server time from which on it must do nothing, in ns.
    pub(super) not_after: i128,
    pub(super) sequence: u64,
    /// Whether it says in which process its owner waits: that of its client.
    pub(super) waits: bool,
    /// Whether its record names its client.
    pub(super) named: bool,
    /// Of a look: whether it names the waiter that came last.
    pub(super) last: bool,
    /// Whether it may have been granted before, unanswered.
    pub(super) again: bool,
    /// Whether it names the queue's keys.
    pub(super) all_keys: bool,
    /// Of what takes a grant back: the token of that grant.
    pub(super) fence: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reply {
    Granted {
        fence: u64,
        left: u64,
        now: u64,
        ordinal: u8,
    },
    Held {
        left: u64,
        now: u64,
    },
    Queued {
        left: u64,
        now: u64,
        generation: Generation,
        is_first: bool,
    },
    Looked {
        handed_to: Option<Owner>,
        generation: Generation,
        now: u64,
    },
    Stale {
        now: u64,
    },
    Marked,
    Extended {
        left: u64,
        now: u64,
    },
    Lost,
    Released(bool),
    /// The answer to WAIT behind what was granted, with its token, or extended.
    Unacknowledged(Option<u64>),
}

/// connection.rs, `Connection::offset`: what to add to our clock to get the server's, in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Link {
    offset: i128,
}

fn request(call: &Call, link: &Link) -> Request {
    Request {
        verb: call.verb,
        owner: call.owner,
        ttl: u64::try_from(call.ttl.as_millis()).expect("short"),
        // connection.rs, `Connection::not_after`
        not_after: i128::from(call.not_after.as_nanos()) + link.offset,
        sequence: call.sequence,
        waits: call.waits,
        named: call.named,
        last: call.last,
        again: call.again,
        all_keys: call.waits,
        fence: 0,
    }
}

/// connection.rs, `Connection::learn`
fn learn(link: &mut Link, server: u64, local: Time) {
    link.offset = i128::from(server) * 1_000_000 - i128::from(local.as_nanos());
}

/// Asks, and takes in what time it is there: connection.rs, `Connection::answer`
async fn hear(wire: &mut Wire<Redis>, request: Request) -> Result<Reply, DatastoreError> {
    let reply = wire.ask(request, true).await?;
    if let Reply::Granted { now, .. }
    | Reply::Held { now, .. }
    | Reply::Queued { now, .. }
    | Reply::Looked { now, .. }
    | Reply::Stale { now }
    | Reply::Extended { now, .. } = &reply
    {
        let local = wire.now();
        learn(&mut wire.link, *now, local);
    }
    Ok(reply)
}

/// store.rs: what it makes of the answers
fn answer(call: &Call, reply: &Reply, seed: Seed) -> Answer {
    let promised = |left: u64| {
        let more = if seed == Seed::NoDriftMargin {
            left / 20
        } else {
            0
        };
        Duration::from_millis(left + more)
    };
    match reply {
        Reply::Stale { .. } => Answer::Failed {
            kind: ErrorKind::Stale,
            maybe: false,
        },
        Reply::Marked => unreachable!("not if all keys are named"),
        Reply::Granted {
            fence,
            left,
            ordinal,
            ..
        } => Answer::Granted(GrantOf {
            fence: Some(*fence),
            ttl: promised(*left),
            at: None,
            ordinal: *ordinal,
            copy_may_follow: false,
        }),
        Reply::Held { left, .. } => Answer::Held {
            expires_in: Duration::from_millis(*left),
        },
        Reply::Queued {
            left,
            generation,
            is_first,
            ..
        } => {
            let expires_in = Duration::from_millis(*left);
            // store.rs, `acquire`: the first asks again when it knows of no lease any more.
            let retry_in = match is_first {
                true => expires_in.max(LOOK_EVERY),
                false => UNTIL_WOKEN,
            };
            Answer::Queued {
                expires_in,
                retry_in: retry_in.min(UNTIL_WOKEN),
                generation: *generation,
            }
        }
        Reply::Looked {
            handed_to,
            generation,
            ..
        } => Answer::Looked {
            handed_to: *handed_to,
            generation: *generation,
        },
        // store.rs, `extension`: this lease's grant, now for what is left.
        Reply::Extended { left, .. } => Answer::Extended(GrantOf {
            ttl: promised(*left),
            ..call.grant.expect("a lease has one")
        }),
        Reply::Lost => Answer::Lost,
        // store.rs, `extension`: the server has the new end, and a new one may not.
        Reply::Unacknowledged(_) => Answer::Failed {
            kind: ErrorKind::Refused,
            maybe: true,
        },
        Reply::Released(_) if call.verb == Verb::Abandon => Answer::Abandoned,
        Reply::Released(_) if matches!(call.verb, Verb::Leave | Verb::GiveBack) => Answer::Left,
        Reply::Released(ours) => Answer::Released(*ours),
    }
}

/// store.rs, `acquire`; store/too_few.rs: the claim fails, and is in doubt if nobody knows whether
/// its grant was taken back. There it is a call of its own, which is repeated if its connection
/// breaks.
async fn take_back(wire: &mut Wire<Redis>, claim: &Request, fence: u64, before: Earlier) -> Answer {
    let request = Request {
        verb: Verb::TakeBack,
        fence,
        all_keys: true,
        ..claim.clone()
    };
    let is_undone = wire.seed == Seed::NotTakenBack || hear(wire, request).await.is_ok();
    Answer::Failed {
        kind: ErrorKind::Refused,
        maybe: !is_undone || before.may_have_run(),
    }
}

impl Protocol for Redis {
    type Request = Request;
    type Reply = Reply;
    type Link = Link;

    const REFUSES_LATE_CALLS: bool = true;
    const GRANULARITY: u64 = 20;
    const CONFIRM_AFTER: Option<u64> = None;
    const WAKES: bool = true;
    const HANDOVER: u64 = HANDOVER;
    const ALIVE: u64 = ALIVE;

    fn start(_: &Around) -> Self {
        Redis {
            lock: None,
            fence: 0,
            fence_marked: false,
            queue: Queue::default(),
        }
    }

    /// connection.rs, `Connection::greet`
    fn connect(&self, around: &Around, local: Time) -> Link {
        let mut link = Link { offset: 0 };
        learn(&mut link, around.wall, local);
        link
    }

    fn may_grant(&self, _: &Around) -> bool {
        true
    }

    /// store.rs, `call_within`; connection.rs, `Connection::call`
    async fn converse(
        wire: &mut Wire<Self>,
        begin: &Begin<Link>,
        earlier: Earlier,
    ) -> Result<Answer, DatastoreError> {
        let call = &begin.call;
        let mut sent = request(call, &wire.link);
        sent.again |= earlier.may_have_run() && call.verb == Verb::Acquire;
        let mut stale = false;
        let reply = loop {
            match hear(wire, sent.clone()).await? {
                Reply::Stale { .. } if !stale => {
                    stale = true;
                    sent.not_after = request(call, &wire.link).not_after;
                }
                Reply::Marked if !sent.all_keys => sent.all_keys = true,
                reply => break reply,
            }
        };
        if let Reply::Unacknowledged(Some(fence)) = reply {
            return Ok(take_back(wire, &sent, fence, earlier).await);
        }
        Ok(answer(call, &reply, wire.seed))
    }

    /// store.rs: what a second copy was answered does not say what becomes of the first.
    fn conclude(call: &Call, answer: Answer, in_doubt: bool, seed: Seed) -> Answer {
        if !in_doubt {
            return answer;
        }
        let hides = match &answer {
            Answer::Granted(grant) if seed != Seed::ResendUntold => {
                return Answer::Granted(GrantOf {
                    copy_may_follow: true,
                    ..*grant
                });
            }
            Answer::Held { .. } | Answer::Queued { .. } => true,
            Answer::Released(ours) => !ours && call.verb == Verb::Release,
            _ => false,
        };
        if hides {
            let (kind, maybe) = (ErrorKind::Unreachable, true);
            return Answer::Failed { kind, maybe };
        }
        answer
    }

    fn execute(
        &mut self,
        request: &Request,
        around: &mut Around,
        late: bool,
    ) -> Result<Reply, String> {
        self.notice_time(around);
        match request.verb {
            Verb::Acquire => Ok(self.acquire(request, around, late)),
            Verb::Extend => self.extend(request, around),
            Verb::Release | Verb::Abandon | Verb::Leave | Verb::GiveBack => {
                self.release(request, around)
            }
            Verb::Look => Ok(self.look(request, around)),
            Verb::TakeBack => Ok(self.take_back(request, around)),
            Verb::Confirm => unreachable!("Redis needs none"),
        }
    }

    /// operations/reply.rs, `Answer::acknowledged`
    fn unacknowledged(reply: Reply, seed: Seed) -> Reply {
        match reply {
            Reply::Granted { .. } if seed == Seed::ClaimNotAcknowledged => reply,
            Reply::Extended { .. } if seed == Seed::ExtendNotAcknowledged => reply,
            Reply::Granted { fence, .. } => Reply::Unacknowledged(Some(fence)),
            Reply::Extended { .. } => Reply::Unacknowledged(None),
            reply => reply,
        }
    }

    fn is_moot(&self, request: &Request, around: &Around) -> bool {
        // Unless the clock is set back; an exploration of that must not ask.
        matches!(request.verb, Verb::Acquire | Verb::Extend) && is_stale(request, around)
    }

    fn record(&self, around: &Around) -> Option<Record> {
        self.live(around)
    }

    fn queue(&self, around: &Around) -> Vec<Owner> {
        let mut queue = self.queue.clone();
        queue.expire(around.wall);
        queue.waiters
    }

    fn is_empty(&self, around: &Around) -> bool {
        let mut queue = self.queue.clone();
        queue.expire(around.wall);
        queue.is_empty() && self.live(around).is_none()
    }

    fn left(&self, around: &Around) -> Option<u64> {
        match self.live(around) {
            Some(lock) => lock.ends.map(|ends| ends - around.wall),
            None => Some(0),
        }
    }

    fn longest(ttl: u64) -> u64 {
        ttl
    }

    fn would_grant(&mut self, around: &mut Around) -> bool {
        let request = Request {
            verb: Verb::Acquire,
            owner: Owner {
                client: 25,
                number: 0,
            },
            ttl: 1000,
            not_after: i128::MAX,
            sequence: 0,
            waits: false,
            named: false,
            last: false,
            again: false,
            all_keys: true,
            fence: 0,
        };
        matches!(
            self.execute(&request, around, false),
            Ok(Reply::Granted { .. })
        )
    }

    fn is_behind(&self, _: &Around) -> bool {
        false
    }

    fn notice_time(&mut self, around: &Around) {
        // What is over is gone: less to tell apart.
        self.lock = self.live(around);
        self.queue.expire(around.wall);
    }

    fn restart(&mut self, _: &Around, keeps_data: bool) {
        if !keeps_data {
            self.flush();
        }
    }

    fn flush(&mut self) {
        (self.lock, self.fence, self.fence_marked) = (None, 0, false);
        self.queue.flush();
    }

    fn haunt(&mut self, around: &mut Around, owner: Owner, part: Part) {
        match part {
            Part::Queue => self.queue.waiters.insert(0, owner),
            _ => {
                let ends = around.wall + 10_000;
                self.lock = self.lock.map(|lock| Record {
                    owner,
                    ends: Some(ends),
                    named: true,
                    ..lock
                });
            }
        }
    }

    fn bring_back(&mut self, old: &Self, part: Part) {
        let is = |one| part == one || part == Part::All;
        if is(Part::Lock) {
            self.lock = old.lock;
        }
        if is(Part::Fence) {
            (self.fence, self.fence_marked) = (old.fence, old.fence_marked);
        }
        let (waiters, seen) = (is(Part::Queue), is(Part::Heartbeats));
        if waiters || seen {
            self.queue.bring_back(&old.queue, waiters, seen);
        }
    }
}
