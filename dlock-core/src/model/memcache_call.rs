//! The adapter's side of a call to memcached, which is up to some commands long. Each step names the lines that it stands for.

use std::time::Duration;

use super::memcache::{Item, Link, MARGIN, Reply, Request};
use super::protocol::Next;
use super::types::{Answer, At, Call, GrantOf, Kept, Life, Owner, Seed, Verb};
use crate::{ErrorKind, Time};

/// grant.rs, `RACES`
const RACES: u8 = 4;
/// life.rs, `CAS_BITS`, fewer to have short numbers.
const CAS_BITS: u32 = 8;

/// Which command of a call was sent last.
#[derive(Clone, Copy, Debug, Hash, PartialEq)]
enum Step {
    Add,
    /// After an add that found something.
    Look,
    /// `hold_longer`
    Raise,
    TakeOver,
    /// The extend by the number of the latest grant.
    ByNumber,
    /// The extend by the number that was found.
    Found,
    LookAtOwn,
    DeleteByNumber,
    LookForDelete,
    DeleteFound,
    LookToConfirm,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Talk {
    step: Step,
    races: u8,
    /// What the command that was sent last promises.
    kept: Kept,
    /// When the latest look was asked for.
    looked: Time,
    /// What was seen then.
    fence: u64,
    sequence: u64,
    ordinal: u8,
    again: bool,
}

/// ttl.rs, `seconds`
fn seconds(ttl: Duration, seed: Seed) -> u64 {
    let whole = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    match seed {
        Seed::NoWireMargin => whole,
        _ => whole + MARGIN,
    }
}

/// ttl.rs, `at_least`
fn at_least(seconds: u64) -> Duration {
    Duration::from_secs(seconds.saturating_sub(MARGIN))
}

/// ttl.rs, `Kept::remaining`
fn remaining(kept: &Kept, seconds: u64, now: Time) -> Duration {
    let age = kept.sent.until(now);
    let promised = kept.ttl.saturating_sub(age);
    let passed = kept.seconds.saturating_sub(seconds);
    if age < Duration::from_secs(1) {
        if passed <= 1 {
            return promised;
        }
        let surely = Duration::from_secs(seconds.saturating_sub(1));
        return promised.min(surely.saturating_sub(age));
    }
    promised.min(at_least(seconds))
}

/// life.rs, `Life::fence`
fn fence_of_number(life: Life, cas: u64, seed: Seed) -> u64 {
    match seed {
        Seed::FenceIsCas => cas,
        _ => (life.start << CAS_BITS) + cas,
    }
}

/// grant.rs, `fence_of`
fn fence_of(item: &Item, link: &Link, seed: Seed) -> u64 {
    match item.fence {
        0 => fence_of_number(link.life, item.cas, seed),
        fence => fence,
    }
}

impl Talk {
    /// The first command of a call.
    pub(super) fn begin(
        call: &Call,
        link: &Link,
        local: Time,
        again: bool,
        seed: Seed,
    ) -> (Talk, Next<Request>) {
        let mut talk = Talk {
            step: Step::Add,
            races: 0,
            kept: kept(call, local, seed),
            looked: local,
            fence: 0,
            sequence: 0,
            ordinal: 0,
            again,
        };
        let at = call.grant.and_then(|grant| grant.at);
        let same_life = at.is_none_or(|at| at.life == link.life || seed == Seed::LifeIgnored);
        let next = match call.verb {
            // grant.rs, `acquire`
            Verb::Acquire => talk.add(call, local, seed),
            Verb::Extend | Verb::Confirm if !same_life => Next::Done(Answer::Lost),
            Verb::Release if !same_life => Next::Done(Answer::Released(false)),
            // holding.rs, `extend`
            Verb::Extend => {
                let in_order =
                    |at: &At| at.sequence < call.sequence || seed == Seed::SequenceIgnored;
                match at.filter(in_order) {
                    Some(at) => {
                        talk.step = Step::ByNumber;
                        let fence = call.grant.and_then(|grant| grant.fence).unwrap_or(0);
                        replace(call, at.cas, talk.kept.seconds, fence)
                    }
                    None => talk.look(Step::LookAtOwn, call.owner, local),
                }
            }
            // holding.rs, `release`
            Verb::Release => match at {
                Some(at) => {
                    talk.step = Step::DeleteByNumber;
                    Next::Ask(Request::Delete {
                        by: call.owner,
                        cas: at.cas,
                    })
                }
                None => talk.look(Step::LookForDelete, call.owner, local),
            },
            // holding.rs, `delete_owned`
            Verb::Abandon => talk.look(Step::LookForDelete, call.owner, local),
            // holding.rs, `confirm`
            Verb::Confirm => talk.look(Step::LookToConfirm, call.owner, local),
            Verb::Look | Verb::Leave => unreachable!("memcached has no queue"),
        };
        (talk, next)
    }

    /// What follows from an answer.
    pub(super) fn hear(
        &mut self,
        call: &Call,
        reply: &Reply,
        link: &mut Link,
        local: Time,
        given_up: &[Owner],
        seed: Seed,
    ) -> Next<Request> {
        let talk = self;
        match (talk.step, reply) {
            // grant.rs, `granted`
            (Step::Add | Step::TakeOver, Reply::Done { cas, ordinal }) => {
                let fence = fence_of_number(link.life, *cas, seed);
                Next::Done(Answer::Granted(talk.grant(link, *cas, fence, *ordinal, 0)))
            }
            (Step::Add, _) => talk.look(Step::Look, call.owner, local),
            // "It ended just now", and what changed between two commands.
            (Step::Look, Reply::NotFound) | (Step::Raise | Step::TakeOver, _)
                if !matches!(reply, Reply::Done { .. }) =>
            {
                match talk.race() {
                    Ok(()) => talk.add(call, local, seed),
                    Err(over) => over,
                }
            }
            (Step::Look, Reply::Item(item)) if item.owner == call.owner => {
                // grant.rs, `hold_longer`
                let fence = fence_of(item, link, seed);
                talk.note(item, fence);
                let reported = item.seconds.unwrap_or(0);
                let left = at_least(reported);
                if left >= call.ttl {
                    talk.kept = Kept {
                        seconds: reported,
                        ttl: left,
                        sent: talk.looked,
                    };
                    let sequence = item.sequence;
                    let grant = talk.grant(link, item.cas, fence, item.ordinal, sequence);
                    return Next::Done(Answer::Granted(grant));
                }
                talk.step = Step::Raise;
                talk.kept = kept(call, local, seed);
                Next::Ask(Request::Replace {
                    by: call.owner,
                    cas: item.cas,
                    seconds: talk.kept.seconds,
                    fence,
                    sequence: item.sequence,
                    takes_over: false,
                })
            }
            (Step::Look, Reply::Item(item)) if given_up.contains(&item.owner) => {
                talk.step = Step::TakeOver;
                Next::Ask(Request::Replace {
                    by: call.owner,
                    cas: item.cas,
                    seconds: talk.kept.seconds,
                    fence: 0,
                    sequence: 0,
                    takes_over: true,
                })
            }
            (Step::Look, Reply::Item(item)) => Next::Done(Answer::Held {
                expires_in: Duration::from_secs(item.seconds.unwrap_or(1)),
            }),
            (Step::Raise, Reply::Done { cas, ordinal }) => {
                let (fence, sequence) = (talk.fence, talk.sequence);
                let grant = talk.grant(link, *cas, fence, *ordinal, sequence);
                Next::Done(Answer::Granted(grant))
            }
            // holding.rs, `extend`
            (Step::ByNumber, Reply::Done { cas, ordinal }) => {
                let fence = call.grant.and_then(|grant| grant.fence).unwrap_or(0);
                let grant = talk.grant(link, *cas, fence, *ordinal, call.sequence);
                Next::Done(Answer::Extended(grant))
            }
            (Step::Found, Reply::Done { cas, ordinal }) => {
                let grant = talk.grant(link, *cas, talk.fence, *ordinal, call.sequence);
                Next::Done(Answer::Extended(grant))
            }
            (Step::ByNumber | Step::LookAtOwn, Reply::NotFound) => Next::Done(Answer::Lost),
            (Step::ByNumber, _) => talk.look(Step::LookAtOwn, call.owner, local),
            (Step::Found, _) => match talk.race() {
                Ok(()) => talk.look(Step::LookAtOwn, call.owner, local),
                Err(over) => over,
            },
            (Step::LookAtOwn, Reply::Item(item)) => {
                if item.owner != call.owner {
                    return Next::Done(Answer::Lost);
                }
                let fence = fence_of(item, link, seed);
                talk.note(item, fence);
                if item.sequence >= call.sequence && seed != Seed::SequenceIgnored {
                    let same = talk.again && item.sequence == call.sequence;
                    let promised = same.then_some(talk.kept);
                    return Next::Done(talk.as_it_is(link, item, promised));
                }
                talk.step = Step::Found;
                replace(call, item.cas, talk.kept.seconds, fence)
            }
            // holding.rs, `release` and `delete_owned`
            (Step::DeleteByNumber | Step::DeleteFound, Reply::Done { .. }) => {
                Next::Done(freed(call, true))
            }
            (Step::DeleteByNumber | Step::DeleteFound | Step::LookForDelete, Reply::NotFound) => {
                Next::Done(freed(call, false))
            }
            (Step::DeleteByNumber, _) => talk.look(Step::LookForDelete, call.owner, local),
            (Step::DeleteFound, _) => match talk.race() {
                Ok(()) => talk.look(Step::LookForDelete, call.owner, local),
                Err(over) => over,
            },
            (Step::LookForDelete, Reply::Item(item)) => {
                if item.owner != call.owner && seed != Seed::ReleaseByKey {
                    return Next::Done(freed(call, false));
                }
                talk.step = Step::DeleteFound;
                Next::Ask(Request::Delete {
                    by: call.owner,
                    cas: item.cas,
                })
            }
            // holding.rs, `confirm`
            (Step::LookToConfirm, Reply::Item(item)) if item.owner == call.owner => {
                talk.note(item, fence_of(item, link, seed));
                let at = call.grant.and_then(|grant| grant.at);
                let promised = at.filter(|at| at.cas == item.cas).map(|at| at.kept);
                Next::Done(talk.as_it_is(link, item, promised))
            }
            (Step::LookToConfirm, _) => Next::Done(Answer::Lost),
            (step, reply) => unreachable!("{reply:?} to {step:?}"),
        }
    }

    /// Whether the command that was sent last may have done something.
    pub(super) fn is_write(&self) -> bool {
        !matches!(
            self.step,
            Step::Look | Step::LookAtOwn | Step::LookForDelete | Step::LookToConfirm
        )
    }

    fn look(&mut self, step: Step, by: Owner, local: Time) -> Next<Request> {
        (self.step, self.looked) = (step, local);
        Next::Ask(Request::Get { by })
    }

    /// The next of some tries; `contended` if there were too many.
    fn race(&mut self) -> Result<(), Next<Request>> {
        self.races += 1;
        if self.races < RACES {
            return Ok(());
        }
        Err(Next::Done(Answer::Failed {
            kind: ErrorKind::Refused,
            maybe: false,
        }))
    }

    fn add(&mut self, call: &Call, local: Time, seed: Seed) -> Next<Request> {
        self.step = Step::Add;
        self.kept = kept(call, local, seed);
        Next::Ask(Request::Add {
            owner: call.owner,
            seconds: self.kept.seconds,
        })
    }

    fn grant(&self, link: &Link, cas: u64, fence: u64, ordinal: u8, sequence: u64) -> GrantOf {
        let at = At {
            life: link.life,
            cas,
            sequence,
            kept: self.kept,
        };
        GrantOf {
            fence: Some(fence),
            ttl: self.kept.ttl,
            at: Some(at),
            ordinal,
        }
    }

    fn note(&mut self, item: &Item, fence: u64) {
        (self.fence, self.sequence, self.ordinal) = (fence, item.sequence, item.ordinal);
    }

    /// holding.rs, `as_it_is`
    fn as_it_is(&mut self, link: &Link, item: &Item, promised: Option<Kept>) -> Answer {
        let seconds = item.seconds.unwrap_or(u64::from(u32::MAX));
        let ttl = match promised {
            Some(promised) => remaining(&promised, seconds, self.looked),
            None => at_least(seconds),
        };
        self.kept = Kept {
            seconds,
            ttl,
            sent: self.looked,
        };
        Answer::Extended(self.grant(link, item.cas, self.fence, item.ordinal, item.sequence))
    }
}

fn kept(call: &Call, local: Time, seed: Seed) -> Kept {
    Kept {
        seconds: seconds(call.ttl, seed),
        ttl: call.ttl,
        sent: local,
    }
}

fn replace(call: &Call, cas: u64, seconds: u64, fence: u64) -> Next<Request> {
    Next::Ask(Request::Replace {
        by: call.owner,
        cas,
        seconds,
        fence,
        sequence: call.sequence,
        takes_over: false,
    })
}

fn freed(call: &Call, ours: bool) -> Answer {
    match call.verb {
        Verb::Abandon => Answer::Abandoned,
        _ => Answer::Released(ours),
    }
}
