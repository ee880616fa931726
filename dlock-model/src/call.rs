//! One call of a store from its first try to its answer, as a function from a state and an input to
//! a state and an output: dlock-net's `repeat_once` around the store's conversation with the
//! server, the same code as in production.

use std::future::{Future, poll_fn};
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use dlock_core::{Clock, DatastoreError, ErrorKind, FakeClock, Time};
use dlock_net::repeat::{Reconnect, Silence, repeat_once};

use super::client::Slot;
use super::protocol::Protocol;
use super::replay::{self, History, Replay};
use super::types::{Answer, Call, Owner, Seed, Verb};

/// What a call begins with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Begin<L> {
    pub(super) call: Call,
    pub(super) slot: Slot,
    /// Which claims the process gave up.
    pub(super) given_up: Vec<Owner>,
    /// Whether a grant is looked at before it is reported.
    pub(super) verify: bool,
    /// What the connection knows that was used before.
    pub(super) link: Option<L>,
    pub(super) seed: Seed,
}

/// What a call receives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Notice<L, R> {
    Begin(Begin<L>),
    Connected(L),
    /// The server is old enough to grant.
    MayGrant,
    Woken,
    Replied(R),
    /// The connection broke.
    Cut,
    TimedOut,
}

/// What a call wants.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wants<Q, L> {
    Nothing,
    Connection,
    ToBeGranted,
    Sleep(Time),
    Reply(Q),
    Answer {
        answer: Answer,
        /// Whether an earlier try may have been carried out.
        in_doubt: bool,
        /// What the connection knows that is still open.
        link: Option<L>,
    },
}

type NoticeOf<P> = Notice<<P as Protocol>::Link, <P as Protocol>::Reply>;
type WantsOf<P> = Wants<<P as Protocol>::Request, <P as Protocol>::Link>;

/// One call under way.
#[derive(Clone, Debug)]
pub(super) struct Talk<P: Protocol> {
    history: History<Run<P>>,
    pub(super) wants: WantsOf<P>,
    /// When what it does now times out.
    pub(super) until: Time,
}

pub(super) type Memory<P> = replay::Memory<Run<P>>;

impl<P: Protocol> Talk<P> {
    pub(super) fn new() -> Self {
        Talk {
            history: History::default(),
            wants: Wants::Nothing,
            until: Time::MAX,
        }
    }

    /// It gets this notice at `now` on its clock.
    pub(super) fn notify(&mut self, memory: &Memory<P>, now: Time, notice: NoticeOf<P>) {
        (self.wants, self.until) = self.history.give(memory, now, notice);
    }

    pub(super) fn is_connected(&self) -> bool {
        !matches!(self.wants, Wants::Nothing | Wants::Connection)
    }

    /// Whether a request is under way.
    pub(super) fn has_asked(&self) -> bool {
        matches!(self.wants, Wants::Reply(_))
    }
}

impl<P: Protocol> Hash for Talk<P> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.history.hash(state);
    }
}

/// Where a call and the model meet.
struct Desk<P: Protocol> {
    clock: Clock,
    papers: Arc<Mutex<Papers<P>>>,
}

struct Papers<P: Protocol> {
    wants: Option<WantsOf<P>>,
    notice: Option<NoticeOf<P>>,
    until: Time,
}

impl<P: Protocol> Clone for Desk<P> {
    fn clone(&self) -> Self {
        Desk {
            clock: self.clock.clone(),
            papers: Arc::clone(&self.papers),
        }
    }
}

impl<P: Protocol> Desk<P> {
    fn papers(&self) -> MutexGuard<'_, Papers<P>> {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, by `until` at most, until it gets a notice.
    fn suspend(&self, wants: WantsOf<P>, until: Time) -> impl Future<Output = NoticeOf<P>> + Send {
        let mut papers = self.papers();
        (papers.wants, papers.until) = (Some(wants), until);
        drop(papers);
        poll_fn(|_| match self.papers().notice.take() {
            Some(notice) => Poll::Ready(notice),
            None => Poll::Pending,
        })
    }
}

/// One connection, as a conversation sees it.
pub(super) struct Wire<P: Protocol> {
    desk: Desk<P>,
    /// What it knows.
    pub(super) link: P::Link,
    deadline: Time,
    is_dead: bool,
    pub(super) seed: Seed,
}

impl<P: Protocol> Wire<P> {
    pub(super) fn clock(&self) -> &Clock {
        &self.desk.clock
    }

    pub(super) fn now(&self) -> Time {
        self.desk.clock.now()
    }

    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }

    /// Sends a request that `writes`, or only asks, and waits for the reply.
    pub(super) async fn ask(
        &mut self,
        request: P::Request,
        writes: bool,
    ) -> Result<P::Reply, DatastoreError> {
        // dlock-net, `Wire::send`: nothing leaves after the end of the call.
        if self.now() >= self.deadline {
            return Err(DatastoreError::not_executed(ErrorKind::Timeout, "too late"));
        }
        let notice = self.desk.suspend(Wants::Reply(request), self.deadline);
        match notice.await {
            Notice::Replied(reply) => Ok(reply),
            other => Err(self.broke(&other, writes)),
        }
    }

    /// Waits until the server is old enough to grant.
    pub(super) async fn wait_until_it_may_grant(&mut self) -> Result<(), DatastoreError> {
        let notice = self.desk.suspend(Wants::ToBeGranted, self.deadline);
        match notice.await {
            Notice::MayGrant => Ok(()),
            other => Err(self.broke(&other, false)),
        }
    }

    pub(super) async fn sleep(&mut self, until: Time) {
        match self.desk.suspend(Wants::Sleep(until), Time::MAX).await {
            Notice::Woken => {}
            other => unreachable!("a sleep got {other:?}"),
        }
    }

    /// What came instead of a reply.
    fn broke(&mut self, notice: &NoticeOf<P>, writes: bool) -> DatastoreError {
        self.is_dead = true;
        let kind = match notice {
            Notice::Cut => ErrorKind::Unreachable,
            Notice::TimedOut => ErrorKind::Timeout,
            other => unreachable!("a request got {other:?}"),
        };
        if writes {
            DatastoreError::maybe_executed(kind, "broken")
        } else {
            DatastoreError::not_executed(kind, "broken")
        }
    }
}

impl<P: Protocol> dlock_net::Link for Wire<P> {
    fn set_deadline(&mut self, deadline: Time) {
        self.deadline = deadline;
    }

    fn is_usable(&mut self) -> bool {
        !self.is_dead
    }
}

/// The place of a process for one connection.
struct Place<P: Protocol> {
    desk: Desk<P>,
    open: Option<Wire<P>>,
    seed: Seed,
}

impl<P: Protocol> Place<P> {
    fn wire(&self, link: P::Link) -> Wire<P> {
        Wire {
            desk: self.desk.clone(),
            link,
            deadline: Time::ZERO,
            is_dead: false,
            seed: self.seed,
        }
    }
}

impl<P: Protocol> Reconnect for Place<P> {
    type Link = Wire<P>;

    fn now(&self) -> Time {
        self.desk.clock.now()
    }

    fn usable(&mut self) -> Option<&mut Wire<P>> {
        self.open = self.open.take().filter(|wire| !wire.is_dead);
        self.open.as_mut()
    }

    async fn reconnect(&mut self, deadline: Time) -> Result<&mut Wire<P>, DatastoreError> {
        match self.desk.suspend(Wants::Connection, deadline).await {
            Notice::Connected(link) => {
                let wire = self.wire(link);
                Ok(self.open.insert(wire))
            }
            Notice::TimedOut => Err(DatastoreError::not_executed(
                ErrorKind::Timeout,
                "unreachable",
            )),
            other => unreachable!("a new connection got {other:?}"),
        }
    }
}

/// A call that runs.
pub(super) struct Run<P: Protocol> {
    fake: FakeClock,
    desk: Desk<P>,
    call: Option<Pin<Box<dyn Future<Output = WantsOf<P>>>>>,
}

impl<P: Protocol> Replay for Run<P> {
    type Input = NoticeOf<P>;
    /// And when it times out.
    type Output = (WantsOf<P>, Time);

    fn new() -> Self {
        let fake = FakeClock::new();
        let papers = Papers {
            wants: None,
            notice: None,
            until: Time::MAX,
        };
        let desk = Desk {
            clock: fake.clock(),
            papers: Arc::new(Mutex::new(papers)),
        };
        Run {
            fake,
            desk,
            call: None,
        }
    }

    fn give(&mut self, now: Time, notice: &NoticeOf<P>) -> Self::Output {
        self.fake.advance(self.desk.clock.now().until(now));
        match notice {
            Notice::Begin(begin) => {
                let call = carry_out(self.desk.clone(), begin.clone());
                self.call = Some(Box::pin(call));
            }
            notice => self.desk.papers().notice = Some(notice.clone()),
        }
        let call = self.call.as_mut().expect("a call that was begun");
        let mut context = Context::from_waker(Waker::noop());
        match call.as_mut().poll(&mut context) {
            Poll::Ready(answer) => (answer, Time::MAX),
            Poll::Pending => {
                let mut papers = self.desk.papers();
                let wants = papers.wants.take().expect("what it waits for");
                (wants, papers.until)
            }
        }
    }
}

async fn carry_out<P: Protocol>(desk: Desk<P>, begin: Begin<P::Link>) -> WantsOf<P> {
    let mut place = Place {
        desk,
        open: None,
        seed: begin.seed,
    };
    place.open = begin.link.map(|link| place.wire(link));
    let answer = repeat_once(
        &mut place,
        begin.call.not_after,
        silence(&begin.call, begin.slot),
        async |wire: &mut Wire<P>, earlier| {
            let answer = P::converse(wire, &begin, earlier).await?;
            Ok((answer, earlier.may_have_run()))
        },
    );
    let (answer, in_doubt) = answer.await.unwrap_or_else(|error| (failed(&error), false));
    Wants::Answer {
        answer,
        in_doubt,
        link: place.usable().map(|wire| wire.link),
    }
}

/// Which of the pool's calls the stores make: those whose effect others wait for are urgent, those
/// of the renewal worker go over a connection of its own.
fn silence(call: &Call, slot: Slot) -> Silence {
    match (call.verb, slot) {
        (Verb::Acquire, _) | (Verb::Extend | Verb::Confirm, Slot::Keeper) => Silence::Fails,
        _ => Silence::RunsAgain,
    }
}

/// What core learns of an error.
pub(super) fn failed(error: &DatastoreError) -> Answer {
    Answer::Failed {
        kind: error.kind(),
        maybe: error.may_have_executed(),
    }
}
