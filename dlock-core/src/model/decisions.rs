//! The decisions of core, the same code as in production, as a function from state and event to state and answer.
//!
//! [`Acquisition`] and [`HeldLease`] cannot be copied, but they depend on nothing except what they were told and when. So a copy is
//! a log of that, told to a new one. What was asked once is remembered: the same questions come back in many states of the world.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};
use std::process;
use std::rc::Rc;
use std::time::Duration;

use super::types::{Answer, Fence, GrantOf, PlanOf, Promise};
use crate::acquisition::{Acquisition, Action, Event, Plan};
use crate::callback::Callback;
use crate::held_lease::{After, Call, Due, HeldLease};
use crate::terms::Terms;
use crate::{
    Attempt, Backoff, Claim, DatastoreError, ErrorKind, Extension, FakeClock, FencingToken, Grant,
    Held, Lease, Revision, Time,
};

/// What core is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Told {
    Start(PlanOf),
    /// The claim sent at `sent` was answered.
    Claimed {
        sent: Time,
        answer: Answer,
    },
    /// The store was asked for a wake-up; whether it will.
    Watched(bool),
    Woken,
    Undone,
    /// How did it end?
    Ended,
    Hold {
        grant: GrantOf,
        until: Time,
        promise: Promise,
    },
    Due,
    Send,
    SendConfirm,
    Extended {
        sent: Time,
        asked: Duration,
        answer: Answer,
    },
    Confirmed {
        sent: Time,
        answer: Answer,
    },
    /// How long must the guard keep the key?
    AskHold,
    /// The guard is dropped.
    Take,
    /// The next call of the guard, which ends then.
    Number {
        not_after: Time,
    },
    Orphan,
}

/// What core says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Says {
    Claim {
        not_after: Time,
        fresh: bool,
    },
    Watch,
    Sleep {
        until: Time,
        wakeable: bool,
    },
    Abandon,
    Discard(GrantOf),
    Finish,
    Won {
        grant: GrantOf,
        until: Time,
        lost_request: Option<Time>,
    },
    NotWon,
    Nothing,
    Extend,
    Confirm,
    /// This call.
    Call {
        sequence: u64,
        not_after: Time,
        ttl: Duration,
        grant: GrantOf,
    },
    /// How long the guard must still keep the key.
    HoldLeft(Option<Duration>),
    Orphaned,
}

/// One machine of core: what it was told so far.
#[derive(Clone, Debug)]
pub(super) struct Mind {
    /// Stands for the machine's state.
    digest: u64,
    log: Rc<Vec<(Time, Told)>>,
    /// Of a lease: until when it is valid, when it must be looked at next.
    pub(super) until: Time,
    pub(super) lost: bool,
    pub(super) next_look: Time,
}

impl Hash for Mind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl Mind {
    pub(super) fn new() -> Self {
        Mind {
            digest: 0,
            log: Rc::default(),
            until: Time::ZERO,
            lost: true,
            next_look: Time::MAX,
        }
    }
}

/// What was asked before.
pub(super) type Memory = RefCell<HashMap<(u64, Time, Told), (Mind, Says)>>;

/// Tells `mind` something at `now` on its clock.
pub(super) fn tell(memory: &Memory, mind: &mut Mind, now: Time, told: Told) -> Says {
    let question = (mind.digest, now, told);
    if let Some((after, says)) = memory.borrow().get(&question) {
        *mind = after.clone();
        return says.clone();
    }
    let mut log = (*mind.log).clone();
    log.push((now, question.2.clone()));
    let mut core = Core::new();
    let mut says = Says::Nothing;
    for (at, told) in &log {
        says = core.tell(*at, told);
    }
    *mind = core.mind(Rc::new(log));
    memory
        .borrow_mut()
        .insert(question, (mind.clone(), says.clone()));
    says
}

/// The machines themselves.
struct Core {
    clock: FakeClock,
    acquisition: Option<Acquisition>,
    held: Option<HeldLease>,
    /// What the guard took out.
    taken: Option<Lease>,
    /// The latest grant that it was told of.
    latest: Option<GrantOf>,
}

impl Core {
    fn new() -> Self {
        Core {
            clock: FakeClock::new(),
            acquisition: None,
            held: None,
            taken: None,
            latest: None,
        }
    }

    fn mind(&self, log: Rc<Vec<(Time, Told)>>) -> Mind {
        let mut digest = Digest::default();
        let written = write!(
            digest,
            "{:?}{:?}{:?}",
            self.acquisition, self.held, self.taken
        );
        assert!(written.is_ok());
        // Debug does not show what a store put into a revision.
        self.latest.hash(&mut digest.hasher);
        let held = self.held.as_ref();
        Mind {
            digest: digest.hasher.finish(),
            log,
            until: held.map_or(Time::ZERO, HeldLease::until),
            lost: held.is_none_or(|held| !held.was_valid(Time::ZERO)),
            next_look: held.map_or(Time::MAX, HeldLease::next_look),
        }
    }

    fn tell(&mut self, now: Time, told: &Told) -> Says {
        let clock = self.clock.clock();
        self.clock.advance(clock.now().until(now));
        if let Told::Claimed { answer, .. }
        | Told::Extended { answer, .. }
        | Told::Confirmed { answer, .. } = told
            && let Answer::Granted(grant) | Answer::Extended(grant) = answer
        {
            self.latest = Some(*grant);
        }
        let event = match told {
            Told::Start(plan) => {
                let (acquisition, action) = Acquisition::start(plan_of(plan), now);
                self.acquisition = Some(acquisition);
                return says(action);
            }
            Told::Claimed { sent, answer } => Event::Answered {
                sent: *sent,
                reply: attempt(answer),
            },
            Told::Watched(yes) => Event::Watched(*yes),
            Told::Woken => Event::Woken,
            Told::Undone => Event::Undone,
            Told::Ended => {
                let acquisition = self.acquisition.take().expect("it was started");
                return match acquisition.into_outcome() {
                    Ok(won) => Says::Won {
                        grant: of(&won.grant),
                        until: won.until,
                        lost_request: won.lost_request,
                    },
                    Err(_) => Says::NotWon,
                };
            }
            Told::Hold {
                grant,
                until,
                promise,
            } => {
                let claim = Claim::new("k", &clock, Duration::ZERO).expect("random numbers");
                let lease = Lease::new(claim.with_holder("").until(Time::MAX), real(grant));
                self.held = Some(HeldLease::new(
                    process::id(),
                    lease,
                    *until,
                    terms_of(promise),
                ));
                self.latest = Some(*grant);
                return Says::Nothing;
            }
            held => return self.tell_held(now, held),
        };
        let acquisition = self.acquisition.as_mut().expect("it was started");
        says(acquisition.on(now, event))
    }

    fn tell_held(&mut self, now: Time, told: &Told) -> Says {
        let held = self.held.as_ref().expect("there is a lease");
        let mut callbacks = Vec::new();
        match told {
            Told::Due => match held.due(now, &mut callbacks) {
                Due::Call(Call::Extend) => Says::Extend,
                Due::Call(Call::Confirm) => Says::Confirm,
                Due::Nothing | Due::Over => Says::Nothing,
            },
            Told::Send => match held.send() {
                Some((lease, ttl)) => call(&lease, ttl),
                None => Says::Nothing,
            },
            Told::SendConfirm => match held.send_confirm() {
                Some(lease) => call(&lease, Duration::ZERO),
                None => Says::Nothing,
            },
            Told::Extended {
                sent,
                asked,
                answer,
            } => match held.extended(*sent, *asked, &extension(answer), &mut callbacks) {
                After::Orphaned => Says::Orphaned,
                After::Valid(_) | After::Lost | After::Gone => Says::Nothing,
            },
            Told::Confirmed { sent, answer } => {
                let _: After = held.confirmed(*sent, &extension(answer), &mut callbacks);
                Says::Nothing
            }
            Told::AskHold => Says::HoldLeft(held.hold_left()),
            Told::Take => {
                self.taken = held.take();
                Says::HoldLeft(held.hold_left())
            }
            Told::Number { not_after } => {
                let lease = self.taken.as_ref().expect("the guard took it");
                call(&held.number(lease, *not_after), Duration::ZERO)
            }
            Told::Orphan => match held.for_orphan() {
                Some(lease) => call(&lease, Duration::ZERO),
                None => Says::Nothing,
            },
            _ => unreachable!("not about a lease"),
        }
    }
}

fn call(lease: &Lease, ttl: Duration) -> Says {
    Says::Call {
        sequence: lease.sequence(),
        not_after: lease.not_after(),
        ttl,
        grant: of(lease.grant()),
    }
}

fn says(action: Action) -> Says {
    match action {
        Action::Claim { not_after, fresh } => Says::Claim { not_after, fresh },
        Action::Watch => Says::Watch,
        Action::Sleep { until, wakeable } => Says::Sleep { until, wakeable },
        Action::Abandon => Says::Abandon,
        Action::Discard(grant) => Says::Discard(of(&grant)),
        Action::Finish => Says::Finish,
    }
}

fn plan_of(plan: &PlanOf) -> Plan {
    Plan {
        deadline: plan.deadline,
        waits: plan.waits,
        until_done: false,
        call_timeout: plan.call_timeout,
        retry: Backoff {
            initial: plan.pause,
            max: plan.pause,
        },
        seed: 1,
    }
}

fn terms_of(promise: &Promise) -> Terms {
    Terms {
        ttl: promise.ttl,
        renew: promise.renew,
        grace: promise.ttl / 6,
        min_hold: promise.min_hold,
        max_hold: promise.max_hold,
        ttl_min: promise.ttl_min,
        confirm_after: promise.confirm_after,
        call_timeout: promise.call_timeout,
    }
}

fn real(grant: &GrantOf) -> Grant {
    let real = Grant::new(grant.ttl).with_revision(Revision::new(*grant));
    match grant.fence {
        Some(fence) => real.with_fence(FencingToken::new(fence)),
        None => real,
    }
}

fn of(grant: &Grant) -> GrantOf {
    let put = grant.revision.get::<GrantOf>();
    GrantOf {
        fence: grant.fence.map(FencingToken::get) as Option<Fence>,
        ttl: grant.ttl,
        at: put.and_then(|put| put.at),
        ordinal: put.map_or(0, |put| put.ordinal),
    }
}

fn attempt(answer: &Answer) -> Result<Attempt, DatastoreError> {
    match answer {
        Answer::Granted(grant) => Ok(Attempt::Granted(real(grant))),
        Answer::Held { expires_in } => Ok(Attempt::Held(Held::new().with_expires_in(*expires_in))),
        Answer::Queued {
            expires_in,
            retry_in,
            ..
        } => Ok(Attempt::Held(
            Held::new()
                .with_expires_in(*expires_in)
                .with_retry_in(*retry_in),
        )),
        other => Err(failure(other)),
    }
}

fn extension(answer: &Answer) -> Result<Extension, DatastoreError> {
    match answer {
        Answer::Extended(grant) => Ok(Extension::Extended(real(grant))),
        Answer::Lost => Ok(Extension::Lost),
        other => Err(failure(other)),
    }
}

fn failure(answer: &Answer) -> DatastoreError {
    match answer {
        Answer::Failed { kind, maybe: true } => DatastoreError::maybe_executed(*kind, "failed"),
        Answer::Failed { kind, maybe: false } => DatastoreError::not_executed(*kind, "failed"),
        other => DatastoreError::maybe_executed(ErrorKind::Protocol, format!("{other:?}")),
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

/// Hashes text, but for owner tokens: they are random.
#[derive(Default)]
struct Digest {
    hasher: DefaultHasher,
    in_token: bool,
}

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.ends_with("OwnerToken(") {
            self.in_token = true;
            text.hash(&mut self.hasher);
        } else if text.starts_with('…') {
            self.in_token = false;
        } else if !self.in_token {
            self.hasher.write(text.as_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(memory: &Memory, ttl: u64) -> Mind {
        let start = FakeClock::new().clock().now();
        let ttl = Duration::from_secs(ttl);
        let promise = Promise {
            ttl,
            renew: true,
            min_hold: None,
            max_hold: None,
            ttl_min: Duration::from_secs(1),
            confirm_after: None,
            call_timeout: Duration::from_secs(1),
        };
        let grant = GrantOf {
            fence: Some(1),
            ttl,
            at: None,
            ordinal: 1,
        };
        let mut mind = Mind::new();
        let until = start.saturating_add(ttl);
        let _ = tell(
            memory,
            &mut mind,
            start,
            Told::Hold {
                grant,
                until,
                promise,
            },
        );
        mind
    }

    #[test]
    fn equal_machines_have_equal_digests_whatever_their_tokens_and_others_do_not() {
        let one = hold(&Memory::default(), 5);
        assert_eq!(one.digest, hold(&Memory::default(), 5).digest);
        assert_ne!(one.digest, hold(&Memory::default(), 6).digest);
    }
}
