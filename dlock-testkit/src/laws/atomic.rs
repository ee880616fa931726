//! Law 1: of any number of concurrent claims on a free key exactly one is granted.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use dlock_core::{AcquireOutcome, DatastoreError, Time};

use crate::case::{Case, Law, broken, check, now};
use crate::client::{Client, described};
use crate::form::Handle;
use crate::threads::together;
use crate::{Subject, Verdict};

/// The number of claimants in a race.
const RACERS: usize = 12;
/// The number of races of many claimants, each for a new key.
const RACES: usize = 60;
/// The most races of two claimants. On few cores two threads are closer in time than many, so these
/// are run while there is time.
const DUELS: usize = 3000;
/// The most races of two claimants for an expired key.
const TAKEOVER_DUELS: usize = 500;
/// The fewest races of one kind, however long they take.
const LEAST: usize = 10;
/// The time for further races.
const TIME: Duration = Duration::from_secs(3);

/// Of many claims at the same moment on a free key exactly one is granted.
pub fn one_of_many_claims_wins(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Atomic);
    for_free_keys(&case, &[subject.first()]);
    Verdict::Kept
}

/// Of many claims through different handles at the same moment exactly one is granted.
pub fn one_of_many_handles_wins(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Atomic);
    for_free_keys(&case, &[subject.first(), subject.another()]);
    Verdict::Kept
}

fn for_free_keys(case: &Case<'_>, handles: &[Handle]) {
    let mut race = Race {
        case,
        handles,
        keys: (0..RACES).map(|_| case.key()).collect(),
        for_what: "concurrent claims on a free key were granted",
    };
    race.of_many();
    race.keys = (0..DUELS).map(|_| case.key()).collect();
    race.of_two();
}

/// Of many claims on a key whose lease ends, or has ended, exactly one is granted.
pub fn one_takes_over_an_expired_lease(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Atomic);
    for _ in 0..4 {
        at_the_end_of_a_lease(&case);
    }
    let mut keys: Vec<String> = (0..RACES + TAKEOVER_DUELS).map(|_| case.key()).collect();
    let leases = keys.iter().map(|key| {
        let since = "nobody had claimed the key";
        case.client(key).take(case.short(), since).free_from(&case)
    });
    if let Some(free) = leases.max() {
        case.sleep_until(free);
    }
    let duels = keys.split_off(RACES);
    let mut race = Race {
        case: &case,
        handles: &[subject.first(), subject.another()],
        keys,
        for_what: "claimants took over one expired lease",
    };
    race.of_many();
    race.keys = duels;
    race.of_two();
    Verdict::Kept
}

/// Many claimants claim again and again while a lease ends.
fn at_the_end_of_a_lease(case: &Case<'_>) {
    let key = case.key();
    let holding = case
        .client(&key)
        .take(case.short(), "nobody had claimed the key");
    let (grants, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    // Begin just before the end, so that the claims coincide with it.
    case.sleep_until(
        holding
            .barred_until()
            .saturating_sub(Duration::from_millis(10)),
    );
    let give_up = holding
        .free_from(case)
        .saturating_add(Duration::from_secs(60));
    together(RACERS, |_| {
        let client = case.client(&key);
        while !over.load(Ordering::SeqCst) && now() < give_up {
            if let Ok(AcquireOutcome::Granted(_)) = client.try_once(case.long()).value {
                grants.fetch_add(1, Ordering::SeqCst);
                // The others make their last claim, which may have found the old lease gone.
                over.store(true, Ordering::SeqCst);
            } else {
                thread::yield_now();
            }
        }
    });
    let grants = grants.into_inner();
    check!(
        case,
        grants == 1,
        "{grants} of {RACERS} claimants took over one expired lease"
    );
}

/// Races: claimants that start together, for one key after the other.
struct Race<'r> {
    case: &'r Case<'r>,
    handles: &'r [Handle],
    keys: Vec<String>,
    for_what: &'static str,
}

impl Race<'_> {
    fn of_many(&self) {
        self.run(RACERS, &Crowd::default());
    }

    fn of_two(&self) {
        self.run(2, &Meeting::default());
    }

    fn run(&self, racers: usize, start: &dyn Start) {
        let case = self.case;
        // The round before which all races end.
        let end = AtomicUsize::new(usize::MAX);
        let answers = together(racers, |racer| {
            let handle = &self.handles[racer % self.handles.len()];
            let clients: Vec<Client<'_>> = self
                .keys
                .iter()
                .map(|key| case.client_on(handle, key))
                .collect();
            let mut answers = Vec::with_capacity(clients.len());
            let _comes_no_more = OnPanic(start);
            let give_up = now().saturating_add(TIME);
            for (round, client) in clients.iter().enumerate() {
                if racer == 0 && round >= LEAST && now() > give_up {
                    // Before the start, so that all threads read it afterwards.
                    end.fetch_min(round, Ordering::SeqCst);
                }
                if !start.wait() || round >= end.load(Ordering::SeqCst) {
                    break;
                }
                answers.push(client.try_once(case.long()).value);
            }
            answers
        });
        self.judge(racers, &answers);
    }

    fn judge(&self, racers: usize, answers: &[Vec<Result<AcquireOutcome, DatastoreError>>]) {
        let (case, for_what) = (self.case, self.for_what);
        let rounds = answers[0].len();
        let mut whole = 0;
        for round in 0..rounds {
            let of_round: Vec<_> = answers.iter().map(|racer| &racer[round]).collect();
            let (granted, failed) = counted(case, &of_round);
            check!(case, granted <= 1, "{granted} of {racers} {for_what}");
            if failed == 0 {
                check!(case, granted == 1, "none of {racers} {for_what}");
                whole += 1;
            }
        }
        check!(
            case,
            whole * 2 > rounds,
            "not shown: claims failed in all but {whole} of {rounds} races"
        );
    }
}

/// Where the racers wait for each other before each race.
trait Start: Sync {
    /// Waits until all have come. Returns `false` if one of them comes no more.
    fn wait(&self) -> bool;

    /// Sends the others home.
    fn end(&self);
}

/// Ends the races if a call of the store panics: the others would wait for its thread for ever.
struct OnPanic<'s>(&'s dyn Start);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
    }
}

/// A start of [`RACERS`] threads.
#[derive(Default)]
struct Crowd {
    state: Mutex<CrowdState>,
    changed: Condvar,
}

#[derive(Default)]
struct CrowdState {
    /// How many have come, in all races.
    come: usize,
    is_over: bool,
}

impl Start for Crowd {
    fn wait(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let all = (state.come / RACERS + 1) * RACERS;
        state.come += 1;
        if state.come == all {
            self.changed.notify_all();
        }
        let waits = |state: &mut CrowdState| state.come < all && !state.is_over;
        let state = self.changed.wait_while(state, waits);
        !state.unwrap_or_else(PoisonError::into_inner).is_over
    }

    fn end(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_over = true;
        self.changed.notify_all();
    }
}

/// A start of two threads, which wait for each other without sleeping, so that they leave at the
/// same moment.
#[derive(Default)]
struct Meeting {
    /// How often one of them has come.
    come: AtomicUsize,
    is_over: AtomicBool,
}

impl Start for Meeting {
    fn wait(&self) -> bool {
        let before = self.come.fetch_add(1, Ordering::SeqCst);
        let both = (before / 2 + 1) * 2;
        let mut turns = 0_u32;
        while self.come.load(Ordering::SeqCst) < both {
            turns += 1;
            if turns.is_multiple_of(1 << 14) {
                if self.is_over.load(Ordering::SeqCst) {
                    return false;
                }
                // The other thread may be waiting for this core.
                thread::yield_now();
            }
            spin_loop();
        }
        true
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }
}

/// Returns how many were granted, and how many failed with a transient error.
fn counted(case: &Case<'_>, answers: &[&Result<AcquireOutcome, DatastoreError>]) -> (usize, usize) {
    let mut counts = (0, 0);
    for answer in answers {
        match answer {
            Ok(AcquireOutcome::Granted(_)) => counts.0 += 1,
            Ok(AcquireOutcome::Held(_)) => {}
            Err(error) if error.is_transient() => counts.1 += 1,
            Err(error) => broken!(case, "a claim among others failed: {}", described(error)),
        }
    }
    counts
}

/// Many claimants take turns with a key, and never two of them hold it at once.
pub fn holders_never_overlap(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Atomic);
    let handles = [subject.first(), subject.another()];
    let key = case.key();
    let [inside, most, turns] = [const { AtomicU32::new(0) }; 3];
    let started = now();
    together(8, |index| {
        while !enough_turns(turns.load(Ordering::SeqCst) as usize, started) {
            let client = case.client_on(&handles[index % 2], &key);
            let AcquireOutcome::Granted(grant) = client.ask(case.long()).value else {
                thread::sleep(Duration::from_micros(100));
                continue;
            };
            let holders = inside.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(holders, Ordering::SeqCst);
            thread::yield_now();
            inside.fetch_sub(1, Ordering::SeqCst);
            turns.fetch_add(1, Ordering::SeqCst);
            // A claimant that shared the key may find it gone. That is judged below.
            client.release(&dlock_core::Lease::new(client.claim(), grant));
        }
    });
    let most = most.into_inner();
    check!(case, most <= 1, "a key had {most} holders at once");
    let turns = turns.into_inner();
    check!(
        case,
        turns >= 20,
        "not shown: 8 claimants had only {turns} turns in two minutes"
    );
    Verdict::Kept
}

/// Returns whether claimants that have taken turns since `started` have had enough of them: many,
/// or fewer on a slow machine.
pub(super) fn enough_turns(turns: usize, started: Time) -> bool {
    let took = started.until(now());
    turns >= 200 || turns >= 20 && took > Duration::from_secs(10) || took > Duration::from_secs(120)
}

#[cfg(test)]
mod tests {
    use dlock_core::{Claim, Datastore, Layer, Layered, MemoryDatastore};

    use super::*;

    /// Panics in its call of this number.
    struct PanicsOnce {
        calls: AtomicUsize,
        at: usize,
    }

    impl Layer for PanicsOnce {
        fn acquire(
            &self,
            store: &dyn Datastore,
            claim: &Claim,
            ttl: Duration,
        ) -> Result<AcquireOutcome, DatastoreError> {
            let number = self.calls.fetch_add(1, Ordering::SeqCst);
            assert!(number != self.at, "the store panics");
            store.acquire(claim, ttl)
        }
    }

    #[test]
    fn races_end_when_a_call_of_the_store_panics() {
        // The first is a claim of many, the other one of two.
        for at in [5, RACES * RACERS + 5] {
            let calls = AtomicUsize::new(0);
            let panics = PanicsOnce { calls, at };
            let subject = Subject::from(Layered::new(MemoryDatastore::new(), panics));
            let case = || one_of_many_claims_wins(&subject);
            let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(case));
            let message = failed.unwrap_err().downcast::<&str>().unwrap();
            assert_eq!(*message, "the store panics");
        }
    }
}
