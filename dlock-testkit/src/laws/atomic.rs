//! Law 1: of any number of concurrent claims on a free key exactly one is granted.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use dlock_core::{Attempt, DatastoreError, ErrorKind};

use crate::case::{Case, Law, broken, check, now};
use crate::client::{Client, described};
use crate::subject::Handle;
use crate::threads::together;
use crate::{Subject, Verdict};

/// Claimants of a race.
const RACERS: usize = 12;
/// Keys that are raced for, one after the other.
const ROUNDS: usize = 60;

/// Of many claims at the same moment on a free key exactly one is granted.
pub fn one_of_many_claims_wins(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Atomic);
    race(&case, &[subject.first()]);
    Verdict::Kept
}

/// Of many claims through different handles at the same moment exactly one is granted.
pub fn one_of_many_handles_wins(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Atomic);
    race(&case, &[subject.first(), subject.another()]);
    Verdict::Kept
}

fn race(case: &Case<'_>, handles: &[Handle]) {
    let keys: Vec<String> = (0..ROUNDS).map(|_| case.key()).collect();
    let start = Barrier::new(RACERS);
    let answers = together(RACERS, |racer| {
        let clients: Vec<Client<'_>> = keys
            .iter()
            .map(|key| case.client_on(&handles[racer % handles.len()], key))
            .collect();
        let mut answers = Vec::with_capacity(ROUNDS);
        for client in &clients {
            start.wait();
            answers.push(client.try_once(case.long()).value);
        }
        answers
    });
    let mut whole = 0;
    for round in 0..ROUNDS {
        let of_round: Vec<_> = answers.iter().map(|racer| &racer[round]).collect();
        let (granted, failed) = counted(case, &of_round);
        check!(
            case,
            granted <= 1,
            "{granted} of {RACERS} concurrent claims on a free key were granted"
        );
        if failed == 0 {
            check!(
                case,
                granted == 1,
                "none of {RACERS} concurrent claims on a free key was granted"
            );
            whole += 1;
        }
    }
    check!(
        case,
        whole * 2 > ROUNDS,
        "not shown: claims failed in all but {whole} of {ROUNDS} races"
    );
}

/// How many were granted, how many failed for the moment.
fn counted(case: &Case<'_>, answers: &[&Result<Attempt, DatastoreError>]) -> (usize, usize) {
    let mut counts = (0, 0);
    for answer in answers {
        match answer {
            Ok(Attempt::Granted(_)) => counts.0 += 1,
            Ok(Attempt::Held(_)) => {}
            Err(error) if error.is_transient() && error.kind() != ErrorKind::Stale => counts.1 += 1,
            Err(error) => broken!(case, "a claim among others failed: {}", described(error)),
        }
    }
    counts
}

/// Of many claims that wait for a lease to end exactly one is granted.
pub fn one_takes_over_an_expired_lease(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Atomic);
    for _ in 0..4 {
        let key = case.key();
        let holding = case
            .client(&key)
            .take(case.short(), "nobody had claimed the key");
        let (grants, over) = (AtomicU32::new(0), AtomicBool::new(false));
        // Just before the end, so that the claims meet there.
        case.sleep_until(
            holding
                .barred_until()
                .saturating_sub(Duration::from_millis(10)),
        );
        let give_up = holding
            .free_from(&case)
            .saturating_add(Duration::from_secs(60));
        together(RACERS, |_| {
            let client = case.client(&key);
            while !over.load(Ordering::SeqCst) && now() < give_up {
                if let Ok(Attempt::Granted(_)) = client.try_once(case.long()).value {
                    grants.fetch_add(1, Ordering::SeqCst);
                    // The others are in their last claim, which may have found the old lease gone.
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
    Verdict::Kept
}

/// Many claimants take turns with a key, and never two hold it at once.
pub fn holders_never_overlap(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Atomic);
    let handles = [subject.first(), subject.another()];
    let key = case.key();
    let [inside, most, turns] = [const { AtomicU32::new(0) }; 3];
    let give_up = now().saturating_add(Duration::from_secs(10));
    together(8, |index| {
        while turns.load(Ordering::SeqCst) < 200 && now() < give_up {
            let client = case.client_on(&handles[index % 2], &key);
            let Attempt::Granted(grant) = client.ask(case.long()).value else {
                thread::sleep(Duration::from_micros(100));
                continue;
            };
            let holders = inside.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(holders, Ordering::SeqCst);
            thread::yield_now();
            inside.fetch_sub(1, Ordering::SeqCst);
            turns.fetch_add(1, Ordering::SeqCst);
            // Who shared the key may find it gone: that is judged below.
            client.release(&dlock_core::Lease::new(client.claim(), grant));
        }
    });
    let most = most.into_inner();
    check!(case, most <= 1, "a key had {most} holders at once");
    let turns = turns.into_inner();
    check!(
        case,
        turns >= 20,
        "not shown: 8 claimants had only {turns} turns in 10 s"
    );
    Verdict::Kept
}
