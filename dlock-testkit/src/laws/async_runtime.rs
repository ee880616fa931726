//! Locks on runtimes that are blocked, or that end; and beside blocking locks.

use std::future::pending;
use std::thread;
use std::time::Duration;

use dlock_core::aio::Lock;
use dlock_core::{AcquireOutcome, ReleaseError, Wait};
use tokio::runtime::{Builder, Runtime, RuntimeFlavor};

use super::dropped_release::Flag;
use crate::case::{Law, Sample, broken, check, now};
use crate::client::PATIENCE;
use crate::dropping::AsyncCase;
use crate::form::{Handle, Store};
use crate::{Subject, Verdict};

/// Longer than any case waits.
const LONG: Duration = Duration::from_secs(120);
/// The number of runtimes that end.
const ROUNDS: u32 = 8;

/// A runtime of the kind under test, which may be blocked and ended.
fn runtime_like(all: &AsyncCase<'_>) -> Runtime {
    let mut builder = match all.executor.runtime.runtime_flavor() {
        RuntimeFlavor::CurrentThread => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(1).enable_all().build();
    runtime.expect("a runtime can be started")
}

/// A task that blocks its thread for longer than the lease still holds the lock, or finds it lost.
pub fn a_blocked_executor_loses_no_lease_unnoticed(subject: &Subject) -> Verdict {
    let all = AsyncCase::new(subject, Law::Async);
    let case = &all.case;
    let store = all.store(true);
    let ttl = case.short() * 2;
    let runtime = runtime_like(&all);
    let mut number = 0;
    case.sampled("a lease that was renewed in time", || {
        number += 1;
        let lock = case.lock(
            &Store::Async(store.clone(), all.executor.clone()),
            &format!("blocked-{number}"),
            |options| options.ttl(ttl),
        );
        let crate::form::Lock::Async(bare, _) = &lock else {
            unreachable!("its store is async")
        };
        let stranger = case.client(bare.key());
        let acquire = all.executor.calls.acquire(bare, &Wait::within(LONG));
        runtime.block_on(async {
            let guard = match acquire.await {
                Ok(guard) => guard,
                Err(error) => broken!(case, "nobody held the lock, but it was not acquired: {error}"),
            };
            let lost = Flag::default();
            let told = lost.clone();
            guard.on_lost(move || told.set());
            if runtime.handle().runtime_flavor() != RuntimeFlavor::CurrentThread {
                // Another thread than this one drives it.
                let blocks = ttl * 3;
                runtime.spawn(async move { thread::sleep(blocks) });
            }
            // The thread that drives the runtime does nothing else meanwhile.
            let end = now().saturating_add(ttl * 3 + case.tail(ttl));
            while now() < end {
                thread::sleep(ttl / 10);
                let next = stranger.ask(case.traits.ttl_min).value;
                if !guard.is_valid() {
                    let give_up = now().saturating_add(PATIENCE);
                    while !lost.is_set() {
                        check!(case, now() < give_up, "a lease was lost, but nobody was notified");
                        thread::sleep(Duration::from_millis(5));
                    }
                    stranger.abandon();
                    return Sample::TooSlow;
                }
                check!(
                    case,
                    matches!(next, AcquireOutcome::Held(_)),
                    "a task blocked its thread, and its guard was valid, but somebody else was granted its key"
                );
            }
            match all.executor.calls.release(guard).await {
                Ok(()) => Sample::Judged,
                Err(ReleaseError::Lost) => Sample::TooSlow,
                Err(error) => broken!(case, "a renewed lock was not released: {error:?}"),
            }
        })
    });
    Verdict::Kept
}

/// When a runtime shuts down, its tasks that hold locks or wait for them leave nothing behind.
pub fn a_runtime_that_shuts_down_leaves_nothing(subject: &Subject) -> Verdict {
    let all = AsyncCase::new(subject, Law::Async);
    let case = &all.case;
    let store = all.store(true);
    for round in 0..ROUNDS {
        let [held, waited, locked] =
            ["held", "waited", "locked"].map(|id| all.lock(&store, &format!("{id}-{round}")));
        let holder = case.client(waited.bare.key());
        let lease = holder.take(case.long(), "nobody had claimed the key").lease;
        let runtime = runtime_like(&all);
        let holds = |lock: &Lock| {
            let acquire = all.executor.calls.acquire(lock, &Wait::within(LONG));
            let calls = std::sync::Arc::clone(&all.executor.calls);
            async move {
                let mut holding = Holding(acquire.await.ok(), calls);
                pending::<()>().await;
                holding.0 = None;
            }
        };
        runtime.spawn(holds(&held.bare));
        runtime.spawn(holds(&waited.bare));
        runtime.spawn({
            let lock = locked.bare.clone();
            async move { drop(lock.locked(async |_| pending::<()>().await).await) }
        });
        // From at once to when all are at rest.
        let while_driven = all.rest() * round / ROUNDS;
        runtime.block_on(async { tokio::time::sleep(while_driven).await });
        drop(runtime);
        all.executor.wait_for(store.settled());
        holder.frees(&lease, "the lease had half an hour left");
        let since = format!("the runtime ended after {while_driven:?}");
        for lock in [&held, &waited, &locked] {
            all.is_free(lock, &since);
        }
    }
    Verdict::Kept
}

/// A guard in a task, which the suite drops as its calls say.
struct Holding(
    Option<dlock_core::aio::LockGuard>,
    std::sync::Arc<dyn crate::__AsyncCalls>,
);

impl Drop for Holding {
    fn drop(&mut self) {
        if let Some(guard) = self.0.take() {
            self.1.drop_guard(guard);
        }
    }
}

/// Blocking and async locks of one store exclude each other, and wait for each other.
pub fn both_forms_exclude_each_other(subject: &Subject) -> Verdict {
    let all = AsyncCase::new(subject, Law::Async);
    let case = &all.case;
    let blocking = Store::new(Handle::blocking(subject.another().datastore));
    let blocking = case.lock(&blocking, "both", |options| options);
    let asynchronous = all.lock(&all.store(true), "both").lock;
    for (one, other) in [(&blocking, &asynchronous), (&asynchronous, &blocking)] {
        let guard = case.acquired(one, "nobody held the lock");
        let held = case.held(other, "a lock of the other form was held");
        check!(
            case,
            held.holder()
                .is_none_or(dlock_core::Holder::is_this_process),
            "a lock of the other form was held by this process, the refusal shows {held}"
        );
        let won = thread::scope(|scope| {
            let waiter = scope.spawn(|| other.acquire_within(LONG));
            thread::sleep(Duration::from_millis(100));
            case.released(guard);
            waiter.join()
        });
        match won {
            Ok(Ok(guard)) => case.released(guard),
            Ok(Err(error)) => broken!(
                case,
                "a lock of the other form was released, but its waiter did not get it: {error}"
            ),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    Verdict::Kept
}
