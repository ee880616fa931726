//! The order of waiters, for stores that declare wake-ups.

use std::time::Duration;

use dlock_core::{AcquireOutcome, Signal, Time, Wait};

use super::process::is_shared;
use crate::case::{Case, Law, Sample, broken, check, now};
use crate::child_process::ChildProcess;
use crate::form::Store;
use crate::waiter::Waiter;
use crate::{Subject, Verdict};

/// The time of a hand-over on an overloaded machine, including one missed hand-over before it.
pub(super) const SOON: Duration = Duration::from_secs(10);
/// Longer than the time of the longest queue.
const LONG: Duration = Duration::from_secs(120);
/// A waiter that does not claim for this long may have missed its turn. It is less than the time
/// that any store gives a waiter.
pub(super) const MISSED_TURN: Duration = Duration::from_millis(300);
/// The same, plus the calls of a hand-over on a distant store.
pub(super) fn missed_turn(case: &Case<'_>) -> Duration {
    MISSED_TURN + case.latency() * 4
}

const PROCESSES: usize = 3;
const ROUNDS: usize = 4;

/// Returns whether waiters queue in this store. If it declares no wake-ups, a watch must say so
/// too.
pub(super) fn is_queueing(case: &Case<'_>) -> Result<(), Verdict> {
    if case.traits.wakes {
        return Ok(());
    }
    let waiter = case.client(&case.key()).waiting();
    let watch = waiter.store().watch(&waiter.claim(), &Signal::new());
    check!(
        case,
        !matches!(watch, Ok(Some(_))),
        "the store declares no wake-ups, but a watch was answered with one"
    );
    Err(Verdict::NotApplicable("the store declares no wake-ups"))
}

/// Waiters are served one after the other in the order of their arrival, however many they are.
pub fn waiters_are_served_in_turn(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Waiting);
    if let Err(verdict) = is_queueing(&case) {
        return verdict;
    }
    let handles = [subject.first(), subject.another()];
    let holder = Store::new(subject.another());
    for count in [1, 10, 100] {
        case.sampled("a queue in which nobody missed its turn", || {
            let lock = case.lock(&holder, "in-turn", |options| options);
            let guard = case.acquired(&lock, "nobody held the lock");
            let waiters: Vec<_> = (0..count)
                .map(|number| {
                    let wait = Wait::within(LONG);
                    Waiter::start(&case, &handles[number % 2], "in-turn", wait)
                })
                .collect();
            case.released(guard);
            let released = now();
            let turns: Vec<_> = waiters
                .into_iter()
                .map(|waiter| match waiter.end() {
                    Ok(served) => served,
                    Err(error) => {
                        broken!(case, "one of {count} waiters did not get its turn: {error}")
                    }
                })
                .collect();
            in_turn(&case, released, &turns)
        });
    }
    Verdict::Kept
}

/// Waiters of several processes are served in the order of their arrival.
pub fn processes_are_served_in_turn(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Waiting);
    if let Err(verdict) = is_queueing(&case).and_then(|()| is_shared(&case)) {
        return verdict;
    }
    let holder = Store::new(subject.first());
    let mut others: Vec<ChildProcess<'_>> =
        (0..PROCESSES).map(|_| ChildProcess::start(&case)).collect();
    case.sampled("a queue in which nobody missed its turn", || {
        let lock = case.lock(&holder, "in-turn", |options| options);
        let guard = case.acquired(&lock, "nobody held the lock");
        for _ in 0..ROUNDS {
            for other in &mut others {
                other.waits("in-turn", LONG);
            }
        }
        case.released(guard);
        let released = now();
        let mut turns = vec![Time::ZERO; PROCESSES * ROUNDS];
        for (process, other) in others.iter_mut().enumerate() {
            for (round, served) in other.served().into_iter().enumerate() {
                turns[round * PROCESSES + process] = served;
            }
        }
        in_turn(&case, released, &turns)
    });
    Verdict::Kept
}

/// Judges the times at which the waiters of a released lock were served. They are in the order of
/// their arrival.
fn in_turn(case: &Case<'_>, released: Time, turns: &[Time]) -> Sample {
    let count = turns.len();
    let late = out_of_turn(turns);
    if late <= count / 10 {
        return Sample::Judged;
    }
    let mut sorted = turns.to_vec();
    sorted.push(released);
    sorted.sort();
    let longest = sorted.windows(2).map(|pair| pair[0].until(pair[1])).max();
    if longest > Some(missed_turn(case)) {
        return Sample::TooSlow;
    }
    // A waiter whose process or store stalled while others came has lost its place.
    Sample::Doubtful(format!(
        "{late} of {count} waiters were not served in the order of their coming"
    ))
}

/// The least number of waiters to leave out so that the others were served in order.
fn out_of_turn(turns: &[Time]) -> usize {
    // The length of the longest increasing sequence that ends with each.
    let mut longest: Vec<usize> = Vec::with_capacity(turns.len());
    for (place, turn) in turns.iter().enumerate() {
        let before = (0..place).filter(|earlier| turns[*earlier] < *turn);
        longest.push(1 + before.map(|earlier| longest[earlier]).max().unwrap_or(0));
    }
    turns.len() - longest.into_iter().max().unwrap_or(0)
}

/// A newcomer that only tries does not get the key before a waiter, whether the key was released or
/// its lease has ended.
pub fn a_newcomer_does_not_overtake(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Waiting);
    if let Err(verdict) = is_queueing(&case) {
        return verdict;
    }
    let newcomers = subject.another();
    for is_released in [true, false] {
        case.sampled("a key between its holder and its waiter", || {
            let holder = case.client(&case.key());
            let ttl = if is_released {
                case.long()
            } else {
                case.short()
            };
            let holding = holder.take(ttl, "nobody had claimed the key");
            let signal = Signal::new();
            let waiter = case.client(holder.key()).waiting();
            let watch = waiter.watch(&signal);
            if let AcquireOutcome::Granted(_) = waiter.ask(case.long()).value {
                check!(
                    case,
                    !is_released,
                    "a waiter was granted a key that somebody held"
                );
                return Sample::TooSlow;
            }
            let free = match is_released {
                true => {
                    holder.frees(&holding.lease, "the lease had half an hour left");
                    now()
                }
                false => {
                    case.sleep_until(holding.free_from(&case));
                    holding.free_from(&case)
                }
            };
            let newcomer = case.client_on(&newcomers, holder.key());
            let answer = newcomer.ask(case.long());
            if let AcquireOutcome::Granted(_) = answer.value {
                if free.until(answer.received) > missed_turn(&case) {
                    return Sample::TooSlow;
                }
                // A waiter that stalled before that has lost its place.
                let what =
                    "a newcomer that only tried was granted the key before one who waited for it";
                return Sample::Doubtful(what.to_owned());
            }
            let holding = waiter.take(case.long(), "it was the first of those who waited");
            drop(watch);
            waiter.frees(&holding.lease, "the lease had half an hour left");
            newcomer.take(case.long(), "nobody waited any more");
            Sample::Judged
        });
    }
    Verdict::Kept
}

/// When a lease is shortened, the next waiter gets the key at the new end, not at the old one.
pub fn a_shortened_lease_lets_the_next_in(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Waiting);
    if let Err(verdict) = is_queueing(&case) {
        return verdict;
    }
    let id = "shortened";
    let lock = case.lock(&Store::new(subject.first()), id, |options| options);
    let holder = case.client(lock.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let waiter = Waiter::start(
        &case,
        &subject.another(),
        id,
        Wait::within(SOON + case.short() + case.tail(case.short())),
    );
    let shortened = holder.prolong(&lease, case.short(), "the lease had half an hour left");
    let served = match waiter.end() {
        Ok(served) => served,
        Err(error) => broken!(
            case,
            "the holder's lease was shortened and ended, but the next one did not get its turn: {error}"
        ),
    };
    let early = served.until(shortened.barred_until());
    check!(
        case,
        early.is_zero(),
        "a waiter got the lock {early:?} before the end of the holder's shortened lease"
    );
    let late = shortened.free_from(&case).until(served);
    check!(
        case,
        late < SOON,
        "a waiter got the lock {late:?} after the end of the holder's shortened lease"
    );
    Verdict::Kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_out_of_turn_is_counted_once_however_far() {
        for (turns, late) in [
            (&[1, 2, 3, 4][..], 0),
            (&[4, 1, 2, 3], 1),
            (&[2, 3, 4, 1], 1),
            (&[2, 1, 4, 3], 2),
            (&[4, 3, 2, 1], 3),
            (&[], 0),
        ] {
            let turns: Vec<_> = turns.iter().map(|turn| Time::from_nanos(*turn)).collect();
            assert_eq!(out_of_turn(&turns), late, "{turns:?}");
        }
    }
}
