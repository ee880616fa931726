//! What the loss of a lease ends in async code.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use dlock_core::Wait;

use super::dropped_release::Flag;
use crate::case::{Case, Law, Sample, broken, check, now};
use crate::dropping::AsyncCase;
use crate::{Subject, Verdict};

/// How long after its end a loss may be reported, on an overloaded machine.
const SOON: Duration = Duration::from_secs(10);
/// The number of tasks that await a loss.
const TASKS: usize = 3;

/// `lost` ends for everyone who awaits it when the lease is lost, and not before.
pub fn lost_ends_at_the_loss(subject: &Subject) -> Verdict {
    let all = AsyncCase::new(subject, Law::Async);
    let case = &all.case;
    let store = all.store(true);
    let ttl = case.short();
    let mut number = 0;
    case.sampled("a guard that was valid when its loss was awaited", || {
        number += 1;
        let lock = all.lock_for(&store, &format!("lost-{number}"), ttl);
        let guard = match all.executor.acquire(&lock.bare, &Wait::within(SOON)) {
            Ok(guard) => Arc::new(guard),
            Err(error) => broken!(
                case,
                "nobody held the lock, but it was not acquired: {error}"
            ),
        };
        let ended = {
            let _context = all.executor.runtime.enter();
            let mut lost = pin!(all.executor.calls.lost(&guard));
            lost.as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
        };
        let is_valid = guard.is_valid();
        check!(case, !ended || !is_valid, "`lost` ended for a valid lease");
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let (calls, guard) = (Arc::clone(&all.executor.calls), Arc::clone(&guard));
                all.executor.runtime.spawn(async move {
                    calls.lost(&guard).await;
                    guard.is_valid()
                })
            })
            .collect();
        for task in tasks {
            let valid_at_end = ends(&all, ttl, "the task that awaits `lost`", task);
            check!(
                case,
                valid_at_end.is_ok_and(|valid| !valid),
                "`lost` ended for a valid lease"
            );
        }
        let (calls, again) = (Arc::clone(&all.executor.calls), Arc::clone(&guard));
        let again = async move { calls.lost(&again).await };
        ends(&all, ttl, "`lost` of a lost guard", again);
        if is_valid {
            Sample::Judged
        } else {
            Sample::TooSlow
        }
    });
    Verdict::Kept
}

/// Waits for what must end soon after a lease of `ttl`.
fn ends<T>(all: &AsyncCase<'_>, ttl: Duration, what: &str, future: impl Future<Output = T>) -> T {
    let case = &all.case;
    let most = ttl + case.tail(ttl) + SOON;
    // Made inside of a runtime, whose time it takes.
    let ended = async { tokio::time::timeout(most, future).await };
    match all.executor.wait_for(ended) {
        Ok(value) => value,
        Err(_) => broken!(
            case,
            "a lease of {ttl:?} was lost, but {what} had not ended after {most:?}"
        ),
    }
}

/// `locked_or_cancel` runs the job to its end, or drops its future when the lease is lost.
pub fn locked_or_cancel_ends_the_job(subject: &Subject) -> Verdict {
    let all = AsyncCase::new(subject, Law::Async);
    let case = &all.case;
    let store = all.store(true);
    let calls = &all.executor.calls;
    let lock = all.lock(&store, "runs");
    let ran = Flag::default();
    let job = async {
        tokio::task::yield_now().await;
        ran.set();
        Ok(())
    };
    let outcome = all
        .executor
        .wait_for(calls.locked_or_cancel(&lock.bare, Box::pin(job)));
    check!(
        case,
        matches!(outcome, Ok(Some(()))) && ran.is_set(),
        "a job ran under a lock with half an hour left, and `locked_or_cancel` came to {outcome:?}"
    );
    all.is_free(&lock, "`locked_or_cancel` had ended");

    let mut number = 0;
    case.sampled("a job that began before its lease ended", || {
        number += 1;
        let ttl = case.short();
        let lock = all.lock_for(&store, &format!("cancelled-{number}"), ttl);
        let (began, ended) = (Flag::default(), Flag::default());
        let job = {
            let (began, ended) = (began.clone(), ended.clone());
            async move {
                let _ended = ended.on_drop();
                began.set();
                pending().await
            }
        };
        let sent = now();
        let cancelled = calls.locked_or_cancel(&lock.bare, Box::pin(job));
        let outcome = ends(&all, ttl, "`locked_or_cancel`", cancelled);
        check!(
            case,
            matches!(outcome, Ok(None)),
            "a job goes on for ever and its lease was lost, and `locked_or_cancel` came to \
             {outcome:?}"
        );
        lasted(case, sent, ttl);
        check!(
            case,
            ended.is_set() || !began.is_set(),
            "a lease was lost, but the future of its job was not dropped"
        );
        all.is_free(&lock, "the lease of the lock was lost");
        match began.is_set() {
            true => Sample::Judged,
            false => Sample::TooSlow,
        }
    });
    Verdict::Kept
}

fn lasted(case: &Case<'_>, sent: dlock_core::Time, ttl: Duration) {
    let took = sent.until(now());
    check!(
        case,
        took >= ttl / 2,
        "`locked_or_cancel` ended after {took:?}, with a lease of {ttl:?}"
    );
}
