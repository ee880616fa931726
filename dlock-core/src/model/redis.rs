//! Redis: the three scripts, and the connection that calls them. Each step names the lines that it stands for.

use std::time::Duration;

use super::protocol::{Around, Next, Protocol, strangers_record};
use super::types::{Answer, Call, GrantOf, Owner, Record, Seed, Verb};
use crate::{ErrorKind, Time};

/// One Redis server and one lock.
#[derive(Clone, Debug, Hash)]
pub(super) struct Redis {
    /// The lock key; `ends` is the wall clock's ms, as Redis itself has it.
    lock: Option<Record>,
    /// The fence key.
    fence: u64,
}

#[derive(Clone, Debug, Hash, PartialEq)]
pub(super) struct Request {
    verb: Verb,
    owner: Owner,
    ttl: u64,
    /// Server time from which on it must do nothing, in ns.
    not_after: i128,
    sequence: u64,
}

#[derive(Clone, Debug, Hash)]
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
    Stale {
        now: u64,
    },
    Extended {
        left: u64,
        now: u64,
    },
    Lost,
    Released(bool),
}

/// connection.rs, `Connection::offset`: what to add to our clock to get the server's, in ns.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Link {
    offset: i128,
}

/// connection.rs, `Connection::call`: whether the server called it stale once.
#[derive(Clone, Debug, Hash)]
pub(super) struct Talk {
    stale: bool,
}

impl Redis {
    fn live(&self, around: &Around) -> Option<Record> {
        // Redis frees a key on the first look at or after its end.
        self.lock
            .filter(|lock| lock.ends.is_none_or(|ends| around.wall < ends))
    }

    /// scripts/acquire.lua
    fn acquire(&mut self, request: &Request, around: &mut Around, late: bool) -> Reply {
        // `now >= tonumber(not_after)`
        let now = around.wall;
        if is_stale(request, around) {
            return Reply::Stale { now };
        }
        // `redis.call('GET', lock)`
        if let Some(lock) = &mut self.lock {
            let left = lock.ends.map_or(u64::MAX, |ends| ends - now);
            // `string.sub(record, 1, 32) ~= token`
            if lock.owner != request.owner {
                return Reply::Held { left, now };
            }
            // `left < tonumber(ttl)`: PEXPIRE
            if left < request.ttl && around.seed != Seed::RepeatDoesNotRaise {
                lock.ends = Some(now + request.ttl);
            }
            let left = left.max(request.ttl);
            let (fence, ordinal) = (lock.fence, lock.ordinal);
            return Reply::Granted {
                fence,
                left,
                now,
                ordinal,
            };
        }
        // `math.max(last + 1, now)`, with a clock that is somewhat finer than that of this model.
        let micros = now * 1000 + u64::from(around.grants);
        let fence = match around.seed {
            Seed::FenceIsClock => now * 1000,
            Seed::FenceIsCounter => self.fence + 1,
            _ => micros.max(self.fence + 1),
        };
        around.grants += 1;
        self.fence = fence;
        self.lock = Some(Record {
            owner: request.owner,
            ordinal: around.grants,
            sequence: 0,
            fence,
            ends: Some(now + request.ttl),
            late,
        });
        Reply::Granted {
            fence,
            left: request.ttl,
            now,
            ordinal: around.grants,
        }
    }

    /// scripts/extend.lua
    fn extend(&mut self, request: &Request, around: &Around) -> Result<Reply, String> {
        let Some(lock) = &mut self.lock else {
            return Ok(Reply::Lost);
        };
        if lock.owner != request.owner {
            if around.seed != Seed::ExtendByKey {
                return Ok(Reply::Lost);
            }
            return Err(strangers_record(request.owner, lock));
        }
        let now = around.wall;
        if is_stale(request, around) {
            return Ok(Reply::Stale { now });
        }
        // `tonumber(sequence) <= tonumber(seen)`
        if request.sequence <= lock.sequence && around.seed != Seed::SequenceIgnored {
            let left = lock.ends.map_or(u64::MAX, |ends| ends - now);
            return Ok(Reply::Extended { left, now });
        }
        lock.ends = (around.seed != Seed::ExtendIsImmortal).then_some(now + request.ttl);
        lock.sequence = request.sequence;
        let left = request.ttl;
        Ok(Reply::Extended { left, now })
    }

    /// scripts/release.lua
    fn release(&mut self, request: &Request, around: &Around) -> Result<Reply, String> {
        let Some(lock) = &self.lock else {
            return Ok(Reply::Released(false));
        };
        if lock.owner != request.owner {
            if around.seed != Seed::ReleaseByKey {
                return Ok(Reply::Released(false));
            }
            return Err(strangers_record(request.owner, lock));
        }
        self.lock = None;
        Ok(Reply::Released(true))
    }
}

fn is_stale(request: &Request, around: &Around) -> bool {
    let now = i128::from(around.wall) * 1_000_000;
    now >= request.not_after && around.seed != Seed::NotAfterIgnored
}

fn request(call: &Call, link: &Link) -> Request {
    Request {
        verb: call.verb,
        owner: call.owner,
        ttl: u64::try_from(call.ttl.as_millis()).expect("short"),
        // connection.rs, `Connection::not_after`
        not_after: i128::from(call.not_after.as_nanos()) + link.offset,
        sequence: call.sequence,
    }
}

/// connection.rs, `Connection::learn`
fn learn(link: &mut Link, server: u64, local: Time) {
    link.offset = i128::from(server) * 1_000_000 - i128::from(local.as_nanos());
}

impl Protocol for Redis {
    type Request = Request;
    type Reply = Reply;
    type Link = Link;
    type Talk = Talk;

    const REFUSES_LATE_CALLS: bool = true;
    const GRANULARITY: u64 = 20;
    const CONFIRM_AFTER: Option<u64> = None;

    fn start(_: &Around) -> Self {
        Redis {
            lock: None,
            fence: 0,
        }
    }

    /// connection.rs, `Connection::greet`
    fn connect(&self, around: &Around, local: Time) -> Link {
        let mut link = Link { offset: 0 };
        learn(&mut link, around.wall, local);
        link
    }

    fn is_ready(&self, _: &Around, _: Verb) -> bool {
        true
    }

    fn begin(call: &Call, link: &Link, _: Time, _: bool, _: Seed) -> (Talk, Next<Request>) {
        (Talk { stale: false }, Next::Ask(request(call, link)))
    }

    /// connection.rs, `Connection::answer` and `Connection::call`; store.rs, what it makes of the answers
    fn hear(
        talk: &mut Talk,
        call: &Call,
        reply: &Reply,
        link: &mut Link,
        local: Time,
        _: &[Owner],
        seed: Seed,
    ) -> Next<Request> {
        if let Reply::Granted { now, .. }
        | Reply::Held { now, .. }
        | Reply::Stale { now }
        | Reply::Extended { now, .. } = reply
        {
            learn(link, *now, local);
        }
        let promised = |left: u64| {
            let more = if seed == Seed::NoDriftMargin {
                left / 20
            } else {
                0
            };
            Duration::from_millis(left + more)
        };
        Next::Done(match reply {
            Reply::Stale { .. } if !talk.stale => {
                talk.stale = true;
                return Next::Ask(request(call, link));
            }
            Reply::Stale { .. } => Answer::Failed {
                kind: ErrorKind::Stale,
                maybe: false,
            },
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
            }),
            Reply::Held { left, .. } => Answer::Held {
                expires_in: Duration::from_millis(*left),
            },
            // store.rs, `extension`: this lease's grant, now for what is left.
            Reply::Extended { left, .. } => Answer::Extended(GrantOf {
                ttl: promised(*left),
                ..call.grant.expect("a lease has one")
            }),
            Reply::Lost => Answer::Lost,
            Reply::Released(_) if call.verb == Verb::Abandon => Answer::Abandoned,
            Reply::Released(ours) => Answer::Released(*ours),
        })
    }

    fn is_write(_: &Talk) -> bool {
        true
    }

    /// store.rs: what a second copy was answered does not say what becomes of the first.
    fn conclude(call: &Call, answer: Answer, in_doubt: bool, seed: Seed) -> Answer {
        let hides = match &answer {
            Answer::Granted(_) => seed != Seed::ResendUntold,
            Answer::Held { .. } => true,
            Answer::Released(ours) => !ours && call.verb == Verb::Release,
            _ => false,
        };
        if in_doubt && hides {
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
        self.lock = self.live(around);
        match request.verb {
            Verb::Acquire => Ok(self.acquire(request, around, late)),
            Verb::Extend => self.extend(request, around),
            Verb::Release | Verb::Abandon => self.release(request, around),
            Verb::Confirm => unreachable!("Redis needs none"),
        }
    }

    fn is_moot(&self, request: &Request, around: &Around) -> bool {
        // Unless the clock is set back; whoever explores that must not ask.
        matches!(request.verb, Verb::Acquire | Verb::Extend) && is_stale(request, around)
    }

    fn record(&self, around: &Around) -> Option<Record> {
        self.live(around)
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
    }

    fn restart(&mut self, _: &Around, keeps_data: bool) {
        if !keeps_data {
            self.flush();
        }
    }

    fn flush(&mut self) {
        (self.lock, self.fence) = (None, 0);
    }
}
