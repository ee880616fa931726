//! memcached: the four commands that locks need, as its protocol.txt has them.

use super::memcache_call::Talk;
use super::protocol::{Around, Next, Protocol, strangers_record};
use super::types::{Answer, Call, Life, Owner, Record, Seed, Verb};
use crate::{ErrorKind, Time};

/// ttl.rs, `MARGIN`
pub(super) const MARGIN: u64 = 2;
/// life.rs, `GROWN_UP`
const GROWN_UP: u64 = 4;

/// One memcached process and one key.
#[derive(Clone, Debug, Hash)]
pub(super) struct Memcached {
    /// `ends` is the second at which it is gone.
    item: Option<Record>,
    cas: u64,
    /// The counter of CAS numbers, which ends with the process.
    last_cas: u64,
    life: Life,
    /// What its timer advances once a second.
    second: u64,
    /// The second at which the process started, as its timer counts.
    started: u64,
}

#[derive(Clone, Debug, Hash, PartialEq)]
pub(super) enum Request {
    /// `ms <key> ME T<seconds> c`
    Add { owner: Owner, seconds: u64 },
    /// `ms <key> C<cas> T<seconds> c`
    Replace {
        by: Owner,
        cas: u64,
        seconds: u64,
        /// As the value says it, 0 for unknown.
        fence: u64,
        sequence: u64,
        /// Whether it takes the place of a claim of the same process that was given up.
        takes_over: bool,
    },
    /// `md <key> C<cas>`
    Delete { by: Owner, cas: u64 },
    /// `mg <key> v t c`
    Get { by: Owner },
}

#[derive(Clone, Debug, Hash)]
pub(super) enum Reply {
    /// `HD`, for a delete without number.
    Done {
        cas: u64,
        ordinal: u8,
    },
    /// `NF` or `EN`
    NotFound,
    /// `EX` or `NS`
    Other,
    Item(Item),
}

#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Item {
    pub(super) owner: Owner,
    pub(super) fence: u64,
    pub(super) sequence: u64,
    pub(super) cas: u64,
    /// `None`: for ever
    pub(super) seconds: Option<u64>,
    pub(super) ordinal: u8,
}

#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Link {
    pub(super) life: Life,
}

impl Memcached {
    fn live(&self) -> Option<Record> {
        self.item
            .filter(|item| item.ends.is_none_or(|ends| self.second < ends))
    }

    fn store(&mut self, item: Record, seconds: u64) -> Reply {
        self.last_cas += 1;
        self.cas = self.last_cas;
        self.item = Some(Record {
            ends: Some(self.second + seconds),
            ..item
        });
        Reply::Done {
            cas: self.cas,
            ordinal: item.ordinal,
        }
    }
}

impl Protocol for Memcached {
    type Request = Request;
    type Reply = Reply;
    type Link = Link;
    type Talk = Talk;

    const REFUSES_LATE_CALLS: bool = false;
    /// ttl.rs, `GRANULARITY`, and what a server needs to grow up.
    const GRANULARITY: u64 = 3000 + 2000;
    const CONFIRM_AFTER: Option<u64> = Some(50);
    const WAKES: bool = false;
    const HANDOVER: u64 = 0;
    const ALIVE: u64 = 0;

    fn start(around: &Around) -> Self {
        // It is just old enough to grant.
        let started = around.now / 1000 - GROWN_UP;
        Memcached {
            item: None,
            cas: 0,
            last_cas: 0,
            life: Life {
                pid: 1,
                start: started,
            },
            second: around.now / 1000,
            started,
        }
    }

    /// protocol.rs, `Connection::handshake`
    fn connect(&self, _: &Around, _: Time) -> Link {
        Link { life: self.life }
    }

    /// grant.rs, `wait_until_grown_up`
    fn is_ready(&self, around: &Around, verb: Verb) -> bool {
        let uptime = self.second - self.started;
        verb != Verb::Acquire || uptime >= GROWN_UP || around.seed == Seed::NotGrownUp
    }

    fn begin(
        call: &Call,
        link: &Link,
        local: Time,
        again: bool,
        seed: Seed,
    ) -> (Talk, Next<Request>) {
        Talk::begin(call, link, local, again, seed)
    }

    fn hear(
        talk: &mut Talk,
        call: &Call,
        reply: &Reply,
        link: &mut Link,
        local: Time,
        given_up: &[Owner],
        seed: Seed,
    ) -> Next<Request> {
        talk.hear(call, reply, link, local, given_up, seed)
    }

    /// protocol.rs, `Connection::get`: "An error means that nothing was done."
    fn is_write(talk: &Talk) -> bool {
        talk.is_write()
    }

    /// store.rs: what a second copy was answered does not say what becomes of the first.
    fn conclude(call: &Call, answer: Answer, in_doubt: bool, seed: Seed) -> Answer {
        let hides = match &answer {
            Answer::Granted(_) | Answer::Held { .. } => seed != Seed::ResendUntold,
            Answer::Released(ours) => !ours && call.verb == Verb::Release,
            _ => false,
        };
        if in_doubt && hides {
            let (kind, maybe) = (ErrorKind::Refused, true);
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
        self.item = self.live();
        let Some(item) = self.item else {
            return Ok(match request {
                Request::Add { owner, seconds } => {
                    around.grants += 1;
                    let item = Record {
                        owner: *owner,
                        ordinal: around.grants,
                        sequence: 0,
                        fence: 0,
                        ends: None,
                        late,
                        handed: false,
                        marked: false,
                    };
                    self.store(item, *seconds)
                }
                _ => Reply::NotFound,
            });
        };
        match request {
            Request::Add { .. } => Ok(Reply::Other),
            Request::Replace { cas, .. } | Request::Delete { cas, .. } if *cas != self.cas => {
                Ok(Reply::Other)
            }
            Request::Replace {
                by,
                seconds,
                fence,
                sequence,
                takes_over,
                ..
            } => {
                let is_own = match takes_over {
                    true => item.owner.client == by.client,
                    false => item.owner == *by,
                };
                if !is_own {
                    return Err(strangers_record(*by, &item));
                }
                let ordinal = if *takes_over {
                    around.grants += 1;
                    around.grants
                } else {
                    item.ordinal
                };
                // An extend that finds what a late claim made does not make it timely.
                let is_extend = *sequence > item.sequence;
                let item = Record {
                    owner: *by,
                    ordinal,
                    sequence: *sequence,
                    fence: *fence,
                    ends: None,
                    late: late || (is_extend && item.late),
                    handed: false,
                    marked: false,
                };
                let reply = self.store(item, *seconds);
                if around.seed == Seed::ExtendIsImmortal && *sequence > 0 {
                    self.item = Some(Record { ends: None, ..item });
                }
                Ok(reply)
            }
            Request::Delete { by, .. } => {
                if item.owner != *by {
                    return Err(strangers_record(*by, &item));
                }
                self.item = None;
                Ok(Reply::Done { cas: 0, ordinal: 0 })
            }
            Request::Get { .. } => Ok(Reply::Item(Item {
                owner: item.owner,
                fence: item.fence,
                sequence: item.sequence,
                cas: self.cas,
                seconds: item.ends.map(|ends| ends - self.second),
                ordinal: item.ordinal,
            })),
        }
    }

    fn is_moot(&self, request: &Request, _: &Around) -> bool {
        match request {
            Request::Add { .. } => false,
            Request::Get { .. } => true,
            // No record gets a number that was given before; a new process gets none of these requests.
            Request::Replace { cas, .. } | Request::Delete { cas, .. } => {
                self.live().is_none() || *cas != self.cas
            }
        }
    }

    fn record(&self, _: &Around) -> Option<Record> {
        self.live()
    }

    fn queue(&self, _: &Around) -> Vec<Owner> {
        Vec::new()
    }

    fn is_empty(&self, _: &Around) -> bool {
        self.live().is_none()
    }

    fn left(&self, _: &Around) -> Option<u64> {
        match self.live() {
            Some(item) => item.ends.map(|ends| (ends - self.second) * 1000),
            None => Some(0),
        }
    }

    fn longest(ttl: u64) -> u64 {
        (ttl.div_ceil(1000) + MARGIN) * 1000
    }

    fn would_grant(&mut self, around: &mut Around) -> bool {
        let add = Request::Add {
            owner: Owner {
                client: 25,
                number: 0,
            },
            seconds: 3,
        };
        self.is_ready(around, Verb::Acquire)
            && matches!(self.execute(&add, around, false), Ok(Reply::Done { .. }))
    }

    fn is_behind(&self, around: &Around) -> bool {
        self.second < around.now / 1000
    }

    fn notice_time(&mut self, around: &Around) {
        self.second = around.now / 1000;
        self.item = self.live();
    }

    fn restart(&mut self, around: &Around, _: bool) {
        // A new process in a container has the same pid. It reports an uptime of 2 at once.
        *self = Memcached {
            item: None,
            cas: 0,
            last_cas: 0,
            life: Life {
                pid: 1,
                start: around.wall / 1000 - 2,
            },
            second: around.now / 1000,
            started: around.now / 1000 - 2,
        };
    }

    fn flush(&mut self) {
        // It takes a number for itself.
        self.last_cas += 1;
        self.item = None;
    }
}
