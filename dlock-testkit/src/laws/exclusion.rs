//! Locks exclude: threads and processes take turns.

use std::env;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use dlock_core::ReleaseError;

use super::process::is_shared;
use crate::case::{Case, Law, broken, check};
use crate::child_process::ChildProcess;
use crate::form::Store;
use crate::threads::together;
use crate::{Subject, Verdict};

const THREADS: usize = 100;
const PROCESSES: usize = 3;
/// The turns of each process.
const TURNS: usize = 15;

/// A hundred threads take turns with a lock, and no update of the guarded data is lost.
pub fn a_hundred_threads_take_turns(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Exclusion);
    let stores = [Store::new(subject.first()), Store::new(subject.another())];
    let [inside, most, counter] = [const { AtomicU32::new(0) }; 3];
    let releases = together(THREADS, |index| {
        // If an overloaded store does not answer a release, everyone waits for this long.
        let ttl = case.live(Duration::from_secs(60));
        let lock = case.lock(&stores[index % 2], "turns", |options| options.ttl(ttl));
        let guard = match lock.acquire_within(Duration::from_secs(300)) {
            Ok(guard) => guard,
            Err(error) => broken!(
                case,
                "one of {THREADS} threads did not get its turn within five minutes: {error:?}"
            ),
        };
        let holders = inside.fetch_add(1, Ordering::SeqCst) + 1;
        most.fetch_max(holders, Ordering::SeqCst);
        // Read, pause, write: two threads at once would lose an update.
        let seen = counter.load(Ordering::SeqCst);
        thread::yield_now();
        counter.store(seen + 1, Ordering::SeqCst);
        inside.fetch_sub(1, Ordering::SeqCst);
        guard.release()
    });
    let most = most.into_inner();
    check!(case, most <= 1, "a lock had {most} holders at once");
    let lost = releases
        .iter()
        .filter(|release| matches!(release, Err(ReleaseError::Lost)))
        .count();
    check!(
        case,
        lost == 0,
        "{lost} of {THREADS} locks were lost at once"
    );
    let counted = counter.into_inner();
    check!(
        case,
        counted as usize == THREADS,
        "{THREADS} threads added one each under a lock, and the sum is {counted}"
    );
    Verdict::Kept
}

/// Processes take turns with a lock, and never two of them hold it at once.
pub fn processes_take_turns(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Exclusion);
    if let Err(verdict) = is_shared(&case) {
        return verdict;
    }
    // The prefix is random: no other file has this name.
    let marker = env::temp_dir().join(subject.prefix().replace(':', "-"));
    let mut others: Vec<ChildProcess<'_>> =
        (0..PROCESSES).map(|_| ChildProcess::start(&case)).collect();
    for other in &mut others {
        other.send(&format!("turns turns {TURNS} {}", marker.display()));
    }
    let mut ended = String::new();
    for other in &mut others {
        let answer = other.answer();
        if answer != "done" {
            ended = answer;
        }
    }
    let is_left = fs::remove_file(&marker).is_ok();
    check!(
        case,
        ended.is_empty(),
        "{PROCESSES} processes took a lock in turn, and one ended with: {ended}"
    );
    check!(case, !is_left, "a process left its mark behind");
    Verdict::Kept
}
