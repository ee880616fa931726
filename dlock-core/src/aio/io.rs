//! The async face of the flows: what they ask of the world, as futures.

use std::borrow::Borrow;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::boxed::DynAsyncDatastore;
use super::future::Boxed;
use super::pending::Work;
use super::store::{Shared, Store};
use crate::ProcessId;
use crate::contract::characteristics::Characteristics;
use crate::contract::claim::{Claim, OwnerToken};
use crate::contract::datastore::{Leaving, Watch};
use crate::contract::error::{DatastoreError, ErrorKind};
use crate::contract::holder::{Holder, Phase};
use crate::contract::lease::Lease;
use crate::contract::outcome::{AcquireOutcome, Extension, ReleaseOutcome};
use crate::engine::callback::Callbacks;
use crate::engine::held_lease::HeldLease;
use crate::engine::io::{Handle, Io};
use crate::engine::renewal::{Alarm, worker};
use crate::engine::ticket::Ticket;
use crate::observer::{MeasuredCall, Observer, Operation};
use crate::time::clock::Clock;
use crate::time::instant::Time;
use crate::time::signal::Signal;
use crate::trace::CallSpan;

/// How long after its end a call that has not ended by itself is ended. Until then the store, which
/// knows whether the call was sent, is asked.
const OVERTIME: Duration = Duration::from_millis(200);

/// One call of a store by its name: with a claim or leases, and a time to live.
type CallOf<A, T> = for<'a> fn(&'a dyn DynAsyncDatastore, &'a A, Duration) -> Boxed<'a, T>;

/// A call that is under way.
enum Call<'a, T> {
    /// Polled by the caller.
    Here(Boxed<'a, T>),
    /// A task of the store's own runtime.
    There(Task<T>),
}

/// A task that ends with its handle.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Call<'_, T> {
    /// Ready with the answer, or with `None` if there will be none.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        match self {
            Call::Here(call) => call.as_mut().poll(context).map(Some),
            Call::There(task) => Pin::new(&mut task.0).poll(context).map(|end| match end {
                Ok(answer) => Some(answer),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    Err(_) => None,
                },
            }),
        }
    }
}

/// A call that is under way, and what ends it if the store does not.
struct Ongoing<'a, T> {
    store: &'a Store,
    call: Call<'a, T>,
    not_after: Time,
    alarm: Option<Alarm<'a>>,
}

impl<T> Ongoing<'_, T> {
    /// Ready with the answer, or with `None` if the store did not end the call.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        if let Poll::Ready(answer) = self.call.poll(context) {
            return Poll::Ready(answer);
        }
        if self.store.0.ends_its_calls {
            return Poll::Pending;
        }
        let (store, end) = (self.store, self.not_after.saturating_add(OVERTIME));
        let alarm = || store.background().keeper().alarm(end);
        let alarm = self.alarm.get_or_insert_with(alarm);
        alarm.poll(context).map(|()| None)
    }
}

impl Store {
    /// Begins a call that ends at `not_after`.
    fn begin_call<'a, A, T>(
        &'a self,
        not_after: Time,
        args: &'a A,
        ttl: Duration,
        call: CallOf<A, T>,
    ) -> Ongoing<'a, T>
    where
        A: ToOwned<Owned: Send + Sync + 'static> + Sync + ?Sized + 'static,
        T: Send + 'static,
    {
        let runtime = match self.0.is_polled_by_caller {
            true => None,
            false => self.background().handle(),
        };
        let call = match runtime {
            Some(runtime) => {
                let (shared, args) = (Arc::clone(&self.0), args.to_owned());
                let task = async move { call(shared.datastore(), args.borrow(), ttl).await };
                Call::There(Task(runtime.spawn(task)))
            }
            None => Call::Here(call(self.0.datastore(), args, ttl)),
        };
        Ongoing {
            store: self,
            call,
            not_after,
            alarm: None,
        }
    }

    /// Makes a call and reports it.
    async fn ask<A, T>(
        &self,
        operation: Operation,
        not_after: Time,
        args: &A,
        ttl: Duration,
        call: CallOf<A, Result<T, DatastoreError>>,
    ) -> Result<T, DatastoreError>
    where
        A: ToOwned<Owned: Send + Sync + 'static> + Sync + ?Sized + 'static,
        T: Send + 'static,
    {
        let start = MeasuredCall::start(&self.0.observer, &self.0.clock);
        let span = CallSpan::new(operation, None);
        let mut ongoing = self.begin_call(not_after, args, ttl, call);
        let answer = poll_fn(|context| span.in_scope(|| ongoing.poll(context))).await;
        let answer = answer.unwrap_or_else(no_end);
        if let Some(measured) = self.measured(operation, start) {
            measured.end(1, answer.as_ref().err());
        }
        answer
    }

    /// Makes a call about many leases and reports it. There may be fewer answers than leases.
    async fn ask_many<L, T>(
        &self,
        operation: Operation,
        not_after: Time,
        leases: &[L],
        call: CallOf<[L], Vec<Result<T, DatastoreError>>>,
    ) -> Vec<Result<T, DatastoreError>>
    where
        L: Clone + Send + Sync + 'static,
        T: Send + 'static,
    {
        let start = MeasuredCall::start(&self.0.observer, &self.0.clock);
        let span = CallSpan::new(operation, Some((&self.0.name, leases.len())));
        let mut ongoing = self.begin_call(not_after, leases, Duration::ZERO, call);
        let answers = poll_fn(|context| span.in_scope(|| ongoing.poll(context))).await;
        let answers = answers.unwrap_or_else(|| vec![no_end()]);
        if let Some(measured) = self.measured(operation, start) {
            let error = answers.iter().find_map(|answer| answer.as_ref().err());
            measured.end(leases.len(), error);
        }
        answers
    }

    /// A call that began at `start`, for the observer if there is one.
    fn measured(&self, operation: Operation, start: Option<Time>) -> Option<MeasuredCall<'_>> {
        MeasuredCall::since(start?, &self.0.observer, &self.0.clock, operation)
    }

    /// Sleeps until `until`, or until `wake` is notified.
    async fn slept(&self, wake: Option<&Signal>, until: Time) {
        if self.0.clock.jumps() {
            // It moves the clock and does not wait.
            self.0
                .clock
                .sleep_until(wake.unwrap_or(&Signal::new()), until);
            return;
        }
        let mut alarm = pin!(self.background().keeper().alarm(until));
        poll_fn(|context| {
            let woken = |signal: &Signal| signal.is_notified_or_wakes(context.waker());
            if wake.is_some_and(woken) {
                return Poll::Ready(());
            }
            alarm.poll(context)
        })
        .await;
        if let Some(signal) = wake {
            signal.take();
        }
    }
}

/// The answer in the place of one that did not come.
fn no_end<T>() -> Result<T, DatastoreError> {
    Err(DatastoreError::maybe_executed(
        ErrorKind::Timeout,
        "the store did not end the call in time",
    ))
}

/// A store that is in use until a leftover of it was tried.
struct InUse {
    _store: Arc<Shared>,
    _work: Work,
}

impl Io for Store {
    #[inline]
    fn clock(&self) -> &Clock {
        &self.0.clock
    }

    #[inline]
    fn characteristics(&self) -> &Characteristics {
        &self.0.characteristics
    }

    fn process(&self) -> ProcessId {
        ProcessId::current()
    }

    fn owner_token(&self) -> Result<OwnerToken, DatastoreError> {
        OwnerToken::random()
    }

    fn holder_text(&self, process: ProcessId, label: Option<&str>, phase: Phase) -> String {
        Holder::text_of_this_process(process, label, phase)
    }

    fn observer(&self) -> Option<&Arc<dyn Observer>> {
        self.0.observer.as_ref()
    }

    fn acquire(
        &self,
        claim: &Claim,
        ttl: Duration,
    ) -> impl Future<Output = Result<AcquireOutcome, DatastoreError>> + Send {
        let call: CallOf<Claim, _> = |store, claim, ttl| store.boxed_acquire(claim, ttl);
        self.ask(Operation::Acquire, claim.not_after(), claim, ttl, call)
    }

    fn extend(
        &self,
        lease: &Lease,
        ttl: Duration,
    ) -> impl Future<Output = Result<Extension, DatastoreError>> + Send {
        let call: CallOf<Lease, _> = |store, lease, ttl| store.boxed_extend(lease, ttl);
        self.ask(Operation::Extend, lease.not_after(), lease, ttl, call)
    }

    fn release(
        &self,
        lease: &Lease,
    ) -> impl Future<Output = Result<ReleaseOutcome, DatastoreError>> + Send {
        let (call, ttl): (CallOf<Lease, _>, _) =
            (|store, lease, _| store.boxed_release(lease), Duration::ZERO);
        self.ask(Operation::Release, lease.not_after(), lease, ttl, call)
    }

    fn abandon(&self, claim: &Claim) -> impl Future<Output = Result<(), DatastoreError>> + Send {
        let (call, ttl): (CallOf<Claim, _>, _) =
            (|store, claim, _| store.boxed_abandon(claim), Duration::ZERO);
        // In a box, as the other futures of an acquisition that most do not need: each would be a
        // part of the future of all, which is moved when it is begun.
        Box::pin(self.ask(Operation::Abandon, claim.not_after(), claim, ttl, call))
    }

    fn watch(
        &self,
        claim: &Claim,
        signal: &Signal,
    ) -> impl Future<Output = Result<Option<Watch>, DatastoreError>> + Send {
        let args = (claim.clone(), signal.clone());
        let call: CallOf<(Claim, Signal), _> = |store, args, _| store.boxed_watch(&args.0, &args.1);
        Box::pin(async move {
            let not_after = args.0.not_after();
            self.ask(Operation::Watch, not_after, &args, Duration::ZERO, call)
                .await
        })
    }

    fn extend_many(
        &self,
        leases: &[(Lease, Duration)],
    ) -> impl Future<Output = Vec<Result<Extension, DatastoreError>>> + Send {
        let not_after = leases.iter().map(|(lease, _)| lease.not_after()).max();
        let call: CallOf<[(Lease, Duration)], _> =
            |store, leases, _| store.boxed_extend_many(leases);
        self.ask_many(
            Operation::ExtendMany,
            not_after.unwrap_or(Time::MAX),
            leases,
            call,
        )
    }

    fn confirm_many(
        &self,
        leases: &[Lease],
    ) -> impl Future<Output = Vec<Result<Extension, DatastoreError>>> + Send {
        let not_after = leases.iter().map(Lease::not_after).max();
        let call: CallOf<[Lease], _> = |store, leases, _| store.boxed_confirm_many(leases);
        self.ask_many(
            Operation::ConfirmMany,
            not_after.unwrap_or(Time::MAX),
            leases,
            call,
        )
    }

    fn handle(&self) -> Handle {
        Arc::new(InUse {
            _store: Arc::clone(&self.0),
            _work: self.background().pending().begin(None),
        })
    }

    async fn leave(&self, key: &Arc<str>, watch: Watch) {
        let leaving = self.background().pending().begin(Some(key));
        watch.end(Leaving::counted_by(leaving));
    }

    fn sleep(&self, wake: Option<&Signal>, until: Time) -> impl Future<Output = ()> + Send {
        Box::pin(self.slept(wake, until))
    }

    fn keep(&self, held: &Arc<HeldLease>) -> io::Result<Ticket> {
        let background = self.background_of(held.process());
        let observed = self.0.observer.is_some();
        let runtime = background.start(observed)?;
        background.keeper().keep(held, observed, |keeper| {
            let (shared, enlisted) = (Arc::downgrade(&self.0), keeper.enlist());
            runtime.spawn(async move {
                let _enlisted = enlisted;
                let store = || shared.upgrade().map(Store);
                let wait = || keeper.work_comes();
                worker::run(&keeper, store, wait).await;
            });
            Ok(())
        })
    }

    fn forget(&self, process: ProcessId, ticket: Ticket) {
        self.background_of(process).keeper().forget(ticket);
    }

    fn clean_up(&self, held: &Arc<HeldLease>, lease: Lease) {
        let keeper = self.background_of(held.process()).keeper();
        keeper.clean_up(self.handle(), held, lease);
    }

    fn call(&self, callbacks: Callbacks) {
        self.background().keeper().call(callbacks);
    }
}
