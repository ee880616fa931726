//! Acquires whose futures are dropped.

use std::time::Duration;

use dlock_core::Wait;

use super::queue::SOON;
use crate::case::{Law, broken};
use crate::client::PATIENCE;
use crate::dropping::{AsyncCase, DropAt, Polled, at_each_await};
use crate::{Subject, Verdict};

/// Longer than any case waits.
const LONG: Duration = Duration::from_secs(120);
/// More polls than a waiter needs between its wake-up and its grant.
const POLLS_IN_TURN: usize = 6;

/// An acquire that is dropped at any await holds nothing, and the next one of the same lock works
/// at once.
pub fn an_acquire_leaves_nothing(subject: &Subject) -> Verdict {
    let all = AsyncCase::new(subject, Law::Dropped);
    let store = all.store(true);
    let mut number = 0;
    for wait in [Wait::none(), Wait::within(LONG)] {
        at_each_await(0, |at| {
            let mut goes_on = false;
            for is_tried_at_once in [true, false] {
                number += 1;
                let lock = all.lock(&store, &format!("acquire-{number}"));
                let acquire = all.executor.calls.acquire(&lock.bare, &wait);
                let polled = all.executor.drops(at, PATIENCE, acquire);
                goes_on = polled.goes_on();
                match polled {
                    Polled::Ended(Ok(guard)) => drop(all.executor.release(guard)),
                    Polled::Ended(Err(error)) => {
                        let AsyncCase { case, .. } = &all;
                        broken!(case, "nobody held the lock, but an acquire failed: {error}")
                    }
                    Polled::Dropped | Polled::AtRest => {}
                }
                let since = format!("the only acquire of a lock was {at}");
                if is_tried_at_once {
                    all.works_at_once(&lock, &since);
                } else {
                    all.is_free(&lock, &since);
                }
            }
            goes_on
        });
    }
    Verdict::Kept
}

/// A waiting acquire that is dropped, before its turn or in it, gives up its place, and the next
/// waiter or claimant gets the key.
pub fn a_waiter_leaves_its_place(subject: &Subject) -> Verdict {
    let all = AsyncCase::new(subject, Law::Dropped);
    let (store, other) = (all.store(true), all.store(false));
    before_its_turn(&all, &store);
    for polls in 0..POLLS_IN_TURN {
        in_its_turn(&all, [&store, &other], polls);
    }
    Verdict::Kept
}

fn before_its_turn(all: &AsyncCase<'_>, store: &dlock_core::aio::Store) {
    let case = &all.case;
    let mut number = 0;
    at_each_await(1, |at| {
        number += 1;
        let lock = all.lock(store, &format!("before-{number}"));
        let holder = case.client(lock.bare.key());
        let lease = holder.take(case.long(), "nobody had claimed the key").lease;
        let waits = all.executor.calls.acquire(&lock.bare, &Wait::within(LONG));
        let polled = all.executor.drops(at, all.rest(), waits);
        if let Polled::Ended(_) = polled {
            broken!(case, "somebody held the lock, but a wait for it had ended");
        }
        let goes_on = polled.goes_on();
        all.executor.wait_for(store.settled());
        holder.frees(&lease, "the lease had half an hour left");
        all.is_free(&lock, &format!("the only waiter was {at}"));
        goes_on
    });
}

/// Drops a waiter when it was woken and polled `polls` times.
fn in_its_turn(all: &AsyncCase<'_>, stores: [&dlock_core::aio::Store; 2], polls: usize) {
    let case = &all.case;
    let id = format!("in-turn-{polls}");
    let [lock, next] = stores.map(|store| all.lock(store, &id));
    let holder = case.client(lock.bare.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let mut waits = all.executor.calls.acquire(&lock.bare, &Wait::within(LONG));
    if let Some(ended) = all.executor.until_rest(&mut waits, all.rest()) {
        broken!(
            case,
            "somebody held the lock, but a wait for it ended with {ended:?}"
        );
    }
    holder.frees(&lease, "the lease had half an hour left");
    let at = DropAt::when_woken(polls, polls % 2 == 1);
    drop(all.executor.drops(at, all.rest(), waits));
    match next.lock.acquire_within(SOON) {
        Ok(guard) => case.released(guard),
        Err(error) => broken!(
            case,
            "the first waiter was dropped in its turn after {polls} polls, but the next one did \
             not get the lock: {error}"
        ),
    }
    all.is_free(&lock, "all who waited are done");
}
