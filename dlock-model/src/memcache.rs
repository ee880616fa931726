//! memcached: the four commands that locks need, as its protocol.txt has them.

use dlock_core::{DatastoreError, Time};
use dlock_memcache::operations::incarnation::{EPOCH, Incarnation};
use dlock_net::Earlier;

use super::call::{Begin, Wire};
use super::memcache_call;
use super::protocol::{Around, Protocol, strangers_record};
use super::types::{Answer, Call, Owner, Part, Record, Seed};

/// operations/ttl.rs, `MARGIN`
const MARGIN: u64 = 2;
/// handshake.rs, `MAY_GRANT_AFTER`
const MAY_GRANT_AFTER: u64 = 4;

/// One memcached process and one key.
#[derive(Clone, Debug, Hash)]
pub(super) struct Memcached {
    /// `ends` is the second at which it is gone.
    item: Option<Record>,
    cas: u64,
    /// The counter of CAS numbers, which ends with the process.
    last_cas: u64,
    incarnation: Incarnation,
    /// What its timer advances once a second.
    second: u64,
    /// The second at which the process started, as its timer counts.
    started: u64,
}

#[derive(Clone, Debug, Hash, PartialEq)]
pub(super) enum Request {
    /// `ms <key> ME T<seconds> c`
    Add { owner: Owner, seconds: u32 },
    /// `ms <key> C<cas> T<seconds> c`
    Replace {
        by: Owner,
        cas: u64,
        seconds: u32,
        /// As the value says it. 0 for unknown, in a claim: it takes the place of one of the same
        /// process that was given up.
        fence: u64,
        sequence: u64,
    },
    /// `md <key> C<cas>`
    Delete { by: Owner, cas: u64 },
    /// `mg <key> v t c`
    Get,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Item {
    pub(super) owner: Owner,
    pub(super) fence: u64,
    pub(super) sequence: u64,
    pub(super) cas: u64,
    /// `None`: for ever
    pub(super) seconds: Option<u32>,
    pub(super) ordinal: u8,
}

/// protocol.rs, `Connection`: what it knows of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Link {
    pub(super) incarnation: Incarnation,
    pub(super) may_grant: bool,
}

/// One whose process started in that second of the model: real servers start after 2020.
fn started_at(second: u64) -> Incarnation {
    Incarnation {
        pid: 1,
        start: EPOCH + 1000 + second,
    }
}

impl Memcached {
    fn live(&self) -> Option<Record> {
        self.item
            .filter(|item| item.ends.is_none_or(|ends| self.second < ends))
    }

    fn store(&mut self, item: Record, seconds: u32) -> Reply {
        self.last_cas += 1;
        self.cas = self.last_cas;
        self.item = Some(Record {
            ends: Some(self.second + u64::from(seconds)),
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

    const REFUSES_LATE_CALLS: bool = false;
    /// operations/ttl.rs, `GRANULARITY`, and what a server needs to grow up.
    const GRANULARITY: u64 = 3000 + 2000;
    const CONFIRM_AFTER: Option<u64> = Some(50);
    const WAKES: bool = false;
    const HANDOVER: u64 = 0;
    const ALIVE: u64 = 0;

    fn start(around: &Around) -> Self {
        // It is just old enough to grant.
        let started = around.now / 1000 - MAY_GRANT_AFTER;
        Memcached {
            item: None,
            cas: 0,
            last_cas: 0,
            incarnation: started_at(started),
            second: around.now / 1000,
            started,
        }
    }

    /// protocol.rs, `Connection::handshake`
    fn connect(&self, around: &Around, _: Time) -> Link {
        Link {
            incarnation: self.incarnation,
            may_grant: self.may_grant(around),
        }
    }

    fn may_grant(&self, _: &Around) -> bool {
        self.second - self.started >= MAY_GRANT_AFTER
    }

    async fn converse(
        wire: &mut Wire<Self>,
        begin: &Begin<Link>,
        earlier: Earlier,
    ) -> Result<Answer, DatastoreError> {
        memcache_call::converse(wire, begin, earlier).await
    }

    /// The conversation has done that.
    fn conclude(_: &Call, answer: Answer, _: bool, _: Seed) -> Answer {
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
                        named: false,
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
                ..
            } => {
                let takes_over = *fence == 0;
                let is_own = match takes_over {
                    true => item.owner.client == by.client,
                    false => item.owner == *by,
                };
                if !is_own {
                    return Err(strangers_record(*by, &item));
                }
                let ordinal = if takes_over {
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
                    named: false,
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
            Request::Get => Ok(Reply::Item(Item {
                owner: item.owner,
                fence: item.fence,
                sequence: item.sequence,
                cas: self.cas,
                seconds: (item.ends).map(|ends| u32::try_from(ends - self.second).expect("short")),
                ordinal: item.ordinal,
            })),
        }
    }

    fn unacknowledged(_: Self::Reply, _: Seed) -> Self::Reply {
        unreachable!("memcached has no replicas")
    }

    fn is_moot(&self, request: &Request, _: &Around) -> bool {
        match request {
            Request::Add { .. } => false,
            Request::Get => true,
            // No record gets a number that was given before; a new process gets none of these
            // requests.
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
        self.may_grant(around)
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
            incarnation: started_at(around.wall / 1000 - 2),
            second: around.now / 1000,
            started: around.now / 1000 - 2,
        };
    }

    fn flush(&mut self) {
        // It takes a number for itself.
        self.last_cas += 1;
        self.item = None;
    }

    fn haunt(&mut self, _: &mut Around, _: Owner, _: Part) {
        unreachable!("memcached keeps nothing that could come back")
    }

    fn bring_back(&mut self, _: &Self, _: Part) {
        unreachable!("memcached keeps nothing that could come back")
    }
}
