//! Calls to an async store whose futures are dropped.

use std::sync::Arc;

use dlock_core::aio::Boxed;
use dlock_core::{Signal, Time};

use crate::case::{Case, Law, Sample, now};
use crate::client::{Client, PATIENCE};
use crate::dropping::{AsyncCase, DropAt, at_each_await};
use crate::form::Handle;
use crate::{Subject, Verdict};

/// A call whose future is dropped, at any await, spoils no later call: each gets its own answer.
pub fn mix_up_no_answers(subject: &Subject) -> Verdict {
    let all = AsyncCase::new(subject, Law::Dropped);
    let case = &all.case;
    let handle = subject.first();
    let held = case.client(&case.key());
    let lease = held.take(case.long(), "nobody had claimed the key").lease;
    at_each_await(1, |at| {
        // The answer to this claim is a grant, that to the next one a refusal.
        let free = case.client(&case.key());
        let end = now().saturating_add(case.short());
        let goes_on = drops(&all, at, claims(case, &handle, &free, end));
        let since = format!("somebody holds the key, and a claim of another key was {at}");
        case.client_on(&handle, held.key())
            .refused(case.long(), &since);
        // And the other way round.
        let claim = claims(case, &handle, &case.client(held.key()), end);
        drops(&all, at, claim);
        let since = format!("nobody had claimed the key, and a claim of a held one was {at}");
        let other = case.client_on(&handle, &case.key());
        let granted = other.take(case.long(), &since);
        // The answer to this release is `Released`, that to the next one `NotHeld`.
        let (release, store) = (other.next_call(&granted.lease), store_of(&handle));
        drops(
            &all,
            at,
            Box::pin(async move { drop(store.boxed_release(&release).await) }),
        );
        let never = case.client_on(&handle, &case.key());
        let unheld = dlock_core::Lease::new(never.claim(), lease.grant().clone());
        let since = format!("nobody holds the key, and a release of another key was {at}");
        never.frees_nothing(&unheld, &since);
        // What was dropped may have been carried out, and is not any more after its end.
        case.sleep_until(end);
        free.abandon();
        let since = format!("a claim was {at} and then abandoned");
        case.client(free.key()).take(case.long(), &since);
        other.release(&granted.lease);
        let since = format!("a release was {at} and then repeated");
        case.client(other.key()).take(case.long(), &since);
        watches(&all, at, &handle, &held);
        goes_on
    });
    held.frees(&lease, "the lease had half an hour left");
    case.client(held.key())
        .take(case.long(), "all who waited or claimed had been dropped");
    Verdict::Kept
}

/// A watch whose future is dropped keeps no place in the queue; what it asked for is given up with
/// its claim.
fn watches(all: &AsyncCase<'_>, at: DropAt, handle: &Handle, held: &Client<'_>) {
    let waiter = all.case.client(held.key()).waiting();
    let (store, claim) = (store_of(handle), waiter.claim());
    let watch = Box::pin(async move {
        drop(store.boxed_watch(&claim, &Signal::new()).await);
    });
    drops(all, at, watch);
    waiter.abandon();
}

/// An extend whose future is dropped leaves the key to its holder, with one of the two times.
pub fn extends_lose_no_lease(subject: &Subject) -> Verdict {
    let all = AsyncCase::new(subject, Law::Dropped);
    let case = &all.case;
    let handle = subject.first();
    at_each_await(1, |at| {
        let mut goes_on = false;
        case.sampled("a lease whose extend was dropped", || {
            let holder = case.client(&case.key());
            let ttl = case.short() * 2;
            let holding = holder.take(ttl, "nobody had claimed the key");
            let (call, long, store) = (
                holder.next_call(&holding.lease),
                case.long(),
                store_of(&handle),
            );
            let extend = Box::pin(async move { drop(store.boxed_extend(&call, long).await) });
            goes_on = drops(&all, at, extend);
            // A lease that was made much shorter is over by then.
            case.sleep_until(now().saturating_add(case.short() / 2));
            let since = format!("the holder's extend was {at}");
            let stranger = case.client(holder.key());
            if !stranger.refused_before_end(case.long(), &holding, &since) {
                return Sample::TooSlow;
            }
            let extended = holder.extend(&holding.lease, case.long());
            if holding.left().is_zero() {
                return Sample::TooSlow;
            }
            let extended = holder.prolonged(&holding.lease, extended, &since);
            holder.frees(&extended.lease, "the lease had half an hour left");
            stranger.take(case.long(), "its holder had released the key");
            Sample::Judged
        });
        goes_on
    });
    Verdict::Kept
}

/// A claim that is not carried out after `end`.
fn claims(case: &Case<'_>, handle: &Handle, client: &Client<'_>, end: Time) -> Boxed<'static, ()> {
    let (store, claim) = (store_of(handle), client.claim().with_not_after(end));
    let ttl = case.long();
    Box::pin(async move { drop(store.boxed_acquire(&claim, ttl).await) })
}

/// Drops a call, on the runtime: not every store may be polled elsewhere. Returns whether a later
/// drop shows more.
fn drops(all: &AsyncCase<'_>, at: DropAt, call: Boxed<'static, ()>) -> bool {
    all.executor.drops(at.in_task(), PATIENCE, call).goes_on()
}

fn store_of(handle: &Handle) -> Arc<dyn dlock_core::aio::DynAsyncDatastore> {
    let asynchronous = handle.asynchronous.as_ref();
    Arc::clone(&asynchronous.expect("the subject is async").store)
}
