//! The flows of core, the same code as in production, as a function from a state and an input to a
//! state and an output: `replay`.

use std::future::Future;
use std::hash::{Hash, Hasher};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use dlock_core::engine::acquire::{self, Request, Won};
use dlock_core::engine::held_lease::HeldLease;
use dlock_core::engine::hold::Holding;
use dlock_core::engine::hold::{Caller, End};
use dlock_core::engine::io::Io as _;
use dlock_core::engine::renewal::worker;
use dlock_core::engine::run_once::{self, Guard, Mark};
use dlock_core::{
    AcquireError, Characteristics, Claim, FakeClock, Lease, LockOptions, OnceOutcome, Time, Wait,
};

use super::convert::{RUNNING, of, real, terms_of};
use super::port::{NAME, Place, Port};
use super::replay::{self, History, Replay};
use super::types::{Answer, GrantOf, PlanOf, Promise, Verb};

/// What a process receives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Input {
    /// The user wants the lock.
    Acquire(PlanOf, Promise),
    /// The call, for which a flow waits, was answered.
    Answered(Answer),
    /// The answer to a request for a wake-up: whether the store sends one.
    Watched(bool),
    /// The watch has ended.
    Left,
    /// The sleep is over.
    Woken,
    /// What was won is kept from now on.
    Keep(Hold),
    /// The user wants a job done once.
    RunOnce(PlanOf, Promise),
    /// The job has ended. Whether it succeeded.
    JobEnded(bool),
    /// The user lets go.
    LetGo,
    /// The timing thread looks at the lease, and the worker sends what was due.
    Due,
    /// The worker's call was answered.
    WorkerAnswered(Answer),
}

/// What was won, and how it is to be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Hold {
    pub(super) grant: GrantOf,
    pub(super) until: Time,
    pub(super) lost_request: Option<Time>,
    pub(super) promise: Promise,
    pub(super) refuses_late_calls: bool,
}

/// What a process wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// This call.
    Call {
        verb: Verb,
        /// With another owner token than the call before.
        fresh: bool,
        sequence: u64,
        not_after: Time,
        ttl: Duration,
        grant: Option<GrantOf>,
        place: Place,
    },
    Watch,
    Leave,
    Sleep {
        until: Time,
        wakeable: bool,
    },
    Won {
        grant: GrantOf,
        until: Time,
        lost_request: Option<Time>,
    },
    NotWon,
    /// Now the job runs.
    Job,
    AlreadyDone,
    Ended,
    /// Nothing now.
    Nothing,
}

/// One process: the history of its flows.
#[derive(Clone, Debug)]
pub(super) struct Process {
    history: History<Run>,
    /// The lease: until when it is valid, whether it is lost, and when it must be checked next.
    pub(super) until: Time,
    pub(super) lost: bool,
    pub(super) next_look: Time,
}

impl Hash for Process {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.history.hash(state);
    }
}

impl Process {
    /// A process without a flow.
    pub(super) fn new() -> Self {
        Process {
            history: History::default(),
            until: Time::ZERO,
            lost: true,
            next_look: Time::MAX,
        }
    }
}

pub(super) type Memory = replay::Memory<Run>;

/// Gives `process` an input at `now` on its clock.
pub(super) fn give(memory: &Memory, process: &mut Process, now: Time, input: Input) -> Output {
    let (output, lease) = process.history.give(memory, now, input);
    (process.until, process.lost, process.next_look) = lease;
    output
}

/// How a flow of the user ends.
enum Ending {
    Acquired(Result<Won, AcquireError>),
    AlreadyDone,
    Ended,
}

/// A process that runs.
pub(super) struct Run {
    fake: FakeClock,
    port: Port,
    flow: Option<Pin<Box<dyn Future<Output = Ending>>>>,
    holding: Option<Holding>,
    worker: Option<Worker>,
}

/// The thread that renews: its loop, and whether that waits for work.
struct Worker {
    port: Port,
    thread: Pin<Box<dyn Future<Output = ()>>>,
    is_idle: bool,
}

impl Replay for Run {
    type Input = Input;
    /// The output, and the lease: until when it is valid, whether it is lost, when to check it.
    type Output = (Output, (Time, bool, Time));

    fn new() -> Self {
        let fake = FakeClock::new();
        Run {
            port: Port::new(fake.clock()),
            fake,
            flow: None,
            holding: None,
            worker: None,
        }
    }

    fn give(&mut self, now: Time, input: &Input) -> Self::Output {
        let clock = self.fake.clock();
        self.fake.advance(clock.now().until(now));
        let output = self.received(input);
        let held = self.port.held();
        let held = held.as_deref();
        let lease = (
            held.map_or(Time::ZERO, HeldLease::until),
            held.is_none_or(|held| !held.was_valid(Time::ZERO)),
            self.port.keeper.next_look(),
        );
        (output, lease)
    }
}

impl Run {
    fn received(&mut self, input: &Input) -> Output {
        match input {
            Input::Acquire(plan, promise) => {
                self.characterize(promise, false);
                self.flow = Some(Box::pin(acquire_as(self.port.clone(), *plan, *promise)));
            }
            Input::Keep(hold) => {
                self.characterize(&hold.promise, hold.refuses_late_calls);
                self.holding = Some(self.keep(hold));
                self.worker = Some(Worker::new(self.port.for_another_thread()));
                return Output::Nothing;
            }
            Input::LetGo => {
                let port = self.port.clone();
                let mut holding = self.holding.take().expect("something is held");
                self.flow = Some(Box::pin(async move {
                    let _ = holding.end(&port, End::AsOptionsSay, Caller::Waits).await;
                    Ending::Ended
                }));
            }
            Input::RunOnce(plan, promise) => {
                self.characterize(promise, false);
                self.flow = Some(Box::pin(run_once_as(self.port.clone(), *plan, *promise)));
            }
            Input::JobEnded(_)
            | Input::Answered(_)
            | Input::Watched(_)
            | Input::Left
            | Input::Woken => self.port.give(input.clone()),
            Input::Due => {
                self.port.keeper.look();
                let worker = self.worker.as_mut().expect("something is kept");
                // A busy worker finds the due work when its present call ends.
                if !worker.is_idle {
                    return Output::Nothing;
                }
                worker.port.give(Input::Woken);
                return worker.go_on();
            }
            Input::WorkerAnswered(_) => {
                let worker = self.worker.as_mut().expect("something is kept");
                worker.port.give(input.clone());
                return worker.go_on();
            }
        }
        self.poll()
    }

    fn characterize(&mut self, promise: &Promise, refuses_late_calls: bool) {
        let plain = Characteristics::default().with_call_timeout(promise.call_timeout);
        self.port.characteristics = match refuses_late_calls {
            true => plain.with_late_calls_refused(),
            false => plain,
        };
    }

    fn keep(&self, hold: &Hold) -> Holding {
        let claim = Claim::new(NAME, &self.port.clock, Duration::ZERO).expect("random numbers");
        let won = Won {
            process: self.port.process(),
            lease: Lease::new(claim, real(&hold.grant)),
            granted: self.port.clock.now(),
            valid_until: hold.until,
            lost_request: hold.lost_request,
        };
        let mut holding = Holding::new(won, terms_of(&hold.promise));
        let kept = poll_once(pin!(holding.keep(&self.port, None)));
        assert!(matches!(kept, Poll::Ready(Ok(()))));
        holding
    }

    fn poll(&mut self) -> Output {
        let flow = self.flow.as_mut().expect("a flow that waits");
        let output = match poll_once(flow.as_mut()) {
            Poll::Pending => return self.port.wanted(),
            Poll::Ready(Ending::Acquired(Ok(won))) => Output::Won {
                grant: of(won.lease.grant()),
                until: won.valid_until,
                lost_request: won.lost_request,
            },
            Poll::Ready(Ending::Acquired(Err(_))) => Output::NotWon,
            Poll::Ready(Ending::AlreadyDone) => Output::AlreadyDone,
            Poll::Ready(Ending::Ended) => Output::Ended,
        };
        self.flow = None;
        output
    }
}

impl Worker {
    fn new(port: Port) -> Self {
        let own = port.clone();
        let thread = async move {
            let store = || Some(own.clone());
            let own = &own;
            let wait = || async move {
                let _: Input = own.suspend(Output::Nothing).await;
            };
            worker::run(&own.keeper, store, wait).await;
        };
        let mut worker = Worker {
            port,
            thread: Box::pin(thread),
            is_idle: false,
        };
        let first = worker.go_on();
        assert_eq!(first, Output::Nothing, "it has nothing to do yet");
        worker
    }

    /// Until it makes a call or waits for work.
    fn go_on(&mut self) -> Output {
        let polled = poll_once(self.thread.as_mut());
        assert!(polled.is_pending(), "nobody stops it");
        let output = self.port.wanted();
        self.is_idle = output == Output::Nothing;
        output
    }
}

async fn acquire_as(port: Port, plan: PlanOf, promise: Promise) -> Ending {
    Ending::Acquired(acquired(&port, &plan, &promise).await)
}

async fn acquired(port: &Port, plan: &PlanOf, promise: &Promise) -> Result<Won, AcquireError> {
    let request = Request {
        process: port.process(),
        key: &NAME.into(),
        ttl: terms_of(promise).first_ttl(),
        holder: RUNNING.into(),
        retry: options_of(plan, promise).retry(),
        until_done: false,
    };
    acquire::acquire(port, &request, &wait_of(plan), plan.deadline).await
}

fn options_of(plan: &PlanOf, promise: &Promise) -> LockOptions {
    let options = LockOptions::builder()
        .ttl(promise.ttl)
        .retry(plan.pause, plan.pause);
    options.build().expect("times that options may have")
}

fn wait_of(plan: &PlanOf) -> Wait {
    match plan.waits {
        true => Wait::forever(),
        false => Wait::none(),
    }
}

async fn run_once_as(port: Port, plan: PlanOf, promise: Promise) -> Ending {
    let Ok(won) = acquired(&port, &plan, &promise).await else {
        return Ending::Ended;
    };
    let mut lock = Holding::new(won, terms_of(&promise));
    lock.keep(&port, None).await.expect("it is kept");
    let options = options_of(&plan, &promise);
    let mark = Mark::new(NAME, "job", &options, &port.characteristics);
    let (wait, keep) = (wait_of(&plan), super::jobs::KEEP);
    let job = async |_: &Kept| match port.suspend(Output::Job).await {
        Input::JobEnded(true) => Ok(()),
        Input::JobEnded(false) => Err(()),
        other => unreachable!("a job got {other:?}"),
    };
    let lock = Kept(lock);
    match run_once::run(&port, &mark, lock, (&wait, plan.deadline), keep, job).await {
        Ok(Ok(OnceOutcome::AlreadyDone { .. })) => Ending::AlreadyDone,
        _ => Ending::Ended,
    }
}

/// A guard that is not dropped.
struct Kept(Holding);

impl Guard<Port> for Kept {
    fn around(_: &Port, holding: Holding) -> Self {
        Kept(holding)
    }

    fn holding(&mut self) -> &mut Holding {
        &mut self.0
    }
}

fn poll_once<F: Future + ?Sized>(flow: Pin<&mut F>) -> Poll<F::Output> {
    flow.poll(&mut Context::from_waker(Waker::noop()))
}
