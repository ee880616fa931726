//! The world as a flow of core sees it: an [`Io`] that waits for the model at each call, watch and
//! sleep.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use dlock_core::engine::callback::Callbacks;
use dlock_core::engine::held_lease::HeldLease;
use dlock_core::engine::io::{Handle, Io};
use dlock_core::engine::renewal::Keeper;
use dlock_core::engine::ticket::Ticket;
use dlock_core::{
    AcquireOutcome, Characteristics, Claim, Clock, DatastoreError, Extension, Lease, LockEvent,
    Observer, OwnerToken, Phase, ProcessId, ReleaseOutcome, Signal, Time, Watch,
};

use super::convert::{DONE, RUNNING, attempt, extension, failure, of};
use super::flows::{Input, Output};
use super::types::{Answer, Verb};

/// Which key a call is about, and what it says of its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Whether it is the mark of a job, and not the lock.
    pub(super) mark: bool,
    /// Whether it describes the job as done.
    pub(super) done: bool,
    /// The owner token.
    pub(super) token: u8,
}

/// The name of the lock, and so its key.
pub(super) const NAME: &str = "k";

impl Place {
    fn of(claim: &Claim) -> Self {
        Place {
            mark: claim.key() != NAME,
            done: claim.holder() == DONE,
            token: TOKENS
                .into_iter()
                .find(|number| token(*number) == claim.owner())
                .unwrap_or(0),
        }
    }
}

/// Of one flow.
const TOKENS: std::ops::RangeInclusive<u8> = 1..=u8::MAX;

fn token(number: u8) -> OwnerToken {
    // Each call looks for its own among them, and to read one takes longer than all else in a call.
    static ALL: LazyLock<Vec<OwnerToken>> = LazyLock::new(|| {
        let read = |number| OwnerToken::from_hex(&format!("{number:032x}")).expect("32 digits");
        (0..=u8::MAX).map(read).collect()
    });
    ALL[usize::from(number)]
}

/// One thread of a process: what it waits for, and what it then gets.
#[derive(Default)]
struct Thread {
    output: Option<Output>,
    input: Option<Input>,
}

/// What all threads of a process share.
struct Shared {
    held: Option<Arc<HeldLease>>,
    /// Of the latest call.
    owner: Option<OwnerToken>,
    tokens: u8,
}

/// The world as one thread of a process sees it.
#[derive(Clone)]
pub(super) struct Port {
    pub(super) clock: Clock,
    pub(super) characteristics: Characteristics,
    pub(super) keeper: Arc<Keeper>,
    thread: Arc<Mutex<Thread>>,
    shared: Arc<Mutex<Shared>>,
}

impl Port {
    pub(super) fn new(clock: Clock) -> Self {
        Port {
            keeper: Arc::new(Keeper::without_threads(&clock)),
            clock,
            characteristics: Characteristics::default(),
            thread: Arc::default(),
            shared: Arc::new(Mutex::new(Shared {
                held: None,
                owner: None,
                tokens: 0,
            })),
        }
    }

    /// The same for another thread of the process.
    pub(super) fn for_another_thread(&self) -> Self {
        Port {
            thread: Arc::default(),
            ..self.clone()
        }
    }

    /// What the thread is given when it goes on.
    pub(super) fn give(&self, input: Input) {
        locked(&self.thread).input = Some(input);
    }

    /// What the thread waits for.
    pub(super) fn wanted(&self) -> Output {
        let output = locked(&self.thread).output.take();
        output.expect("what it waits for")
    }

    pub(super) fn held(&self) -> Option<Arc<HeldLease>> {
        locked(&self.shared).held.clone()
    }

    /// Lets the thread wait for an input.
    pub(super) fn suspend(&self, output: Output) -> impl Future<Output = Input> + Send {
        locked(&self.thread).output = Some(output);
        poll_fn(|_| match locked(&self.thread).input.take() {
            Some(input) => Poll::Ready(input),
            None => Poll::Pending,
        })
    }

    async fn ask(&self, verb: Verb, claim: &Claim, lease: Option<&Lease>, ttl: Duration) -> Answer {
        let owner = locked(&self.shared).owner.replace(claim.owner());
        let output = Output::Call {
            verb,
            fresh: owner.is_some_and(|before| before != claim.owner()),
            sequence: lease.map_or(0, Lease::sequence),
            not_after: claim.not_after(),
            ttl,
            grant: lease.map(|lease| of(lease.grant())),
            place: Place::of(claim),
        };
        match self.suspend(output).await {
            Input::Answered(answer) | Input::WorkerAnswered(answer) => answer,
            other => unreachable!("a call got {other:?}"),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Io for Port {
    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn characteristics(&self) -> &Characteristics {
        &self.characteristics
    }

    fn process(&self) -> ProcessId {
        ProcessId::current()
    }

    fn owner_token(&self) -> Result<OwnerToken, DatastoreError> {
        let mut shared = locked(&self.shared);
        shared.tokens += 1;
        Ok(token(shared.tokens))
    }

    fn holder_text(&self, _: ProcessId, _: Option<&str>, phase: Phase) -> String {
        let text = match phase {
            Phase::Running | Phase::Kept => RUNNING,
            Phase::Done => DONE,
        };
        text.to_owned()
    }

    fn observer(&self) -> Option<&Arc<dyn Observer>> {
        None
    }

    fn report(&self, _: &LockEvent<'_>) {}

    async fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        attempt(&self.ask(Verb::Acquire, claim, None, ttl).await)
    }

    async fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        let claim = lease.claim();
        extension(&self.ask(Verb::Extend, claim, Some(lease), ttl).await)
    }

    async fn release(&self, lease: &Lease) -> Result<ReleaseOutcome, DatastoreError> {
        let (claim, ttl) = (lease.claim(), Duration::ZERO);
        match self.ask(Verb::Release, claim, Some(lease), ttl).await {
            Answer::Released(ours) => Ok(ReleaseOutcome::from(ours)),
            other => Err(failure(&other)),
        }
    }

    async fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        match self.ask(Verb::Abandon, claim, None, Duration::ZERO).await {
            Answer::Abandoned => Ok(()),
            other => Err(failure(&other)),
        }
    }

    async fn watch(&self, _: &Claim, _: &Signal) -> Result<Option<Watch>, DatastoreError> {
        match self.suspend(Output::Watch).await {
            Input::Watched(yes) => Ok(yes.then(|| Watch::new(|| ()))),
            other => unreachable!("a watch got {other:?}"),
        }
    }

    async fn leave(&self, _: &Arc<str>, watch: Watch) {
        let _: Input = self.suspend(Output::Leave).await;
        drop(watch);
    }

    async fn sleep(&self, wake: Option<&Signal>, until: Time) {
        if self.clock.now() < until {
            let wakeable = wake.is_some();
            let _: Input = self.suspend(Output::Sleep { until, wakeable }).await;
        }
    }

    fn keep(&self, held: &Arc<HeldLease>) -> io::Result<Ticket> {
        locked(&self.shared).held = Some(Arc::clone(held));
        let starts_no_thread = |_: Keeper| Ok(());
        self.keeper.keep(held, false, starts_no_thread)
    }

    fn forget(&self, _: ProcessId, ticket: Ticket) {
        self.keeper.forget(ticket);
    }

    /// As if it failed: what is left ends by itself.
    fn clean_up(&self, _: &Arc<HeldLease>, _: Lease) {}

    fn call(&self, _: Callbacks) {}

    /// A process has one lease.
    async fn extend_many(
        &self,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let mut answers = Vec::with_capacity(leases.len());
        for (lease, ttl) in leases {
            answers.push(self.extend(lease, *ttl).await);
        }
        answers
    }

    async fn confirm_many(&self, leases: &[Lease]) -> Vec<Result<Extension, DatastoreError>> {
        let mut answers = Vec::with_capacity(leases.len());
        for lease in leases {
            let (claim, ttl) = (lease.claim(), Duration::ZERO);
            let answer = self.ask(Verb::Confirm, claim, Some(lease), ttl).await;
            answers.push(extension(&answer));
        }
        answers
    }

    fn handle(&self) -> Handle {
        Arc::new(())
    }
}
