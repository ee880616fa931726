//! Locks exclude: threads and processes take turns.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use dlock_core::{ReleaseError, Store};

use super::process::is_shared;
use crate::case::{Case, Law, broken, check};
use crate::other::Other;
use crate::threads::together;
use crate::{Subject, Verdict};

const THREADS: usize = 100;
const PROCESSES: usize = 3;
/// Each process's.
const TURNS: usize = 15;

/// A hundred threads take a lock in turn, and no update of what it guards is lost.
pub fn a_hundred_threads_take_turns(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Exclusion);
    let stores = [Store::new(subject.first()), Store::new(subject.another())];
    let [inside, most, counter] = [const { AtomicU32::new(0) }; 3];
    let releases = together(THREADS, |index| {
        // A release that a store under load does not answer ends the turn of all for this long.
        let ttl = case.live(Duration::from_secs(60));
        let lock = case.lock(&stores[index % 2], "turns", |options| options.with_ttl(ttl));
        let guard = match lock.acquire_within(Duration::from_secs(300)) {
            Ok(guard) => guard,
            Err(error) => broken!(
                case,
                "one of {THREADS} threads did not get its turn within five minutes: {error:?}"
            ),
        };
        let holders = inside.fetch_add(1, Ordering::SeqCst) + 1;
        most.fetch_max(holders, Ordering::SeqCst);
        // Read, pause, write: two at once lose an update.
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

/// Processes take a lock in turn, and never two hold it at once.
pub fn processes_take_turns(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Exclusion);
    if let Err(verdict) = is_shared(&case) {
        return verdict;
    }
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => broken!(case, "not shown: there is no temporary folder: {error}"),
    };
    let marker = folder.path().join("inside");
    let mut others: Vec<Other<'_>> = (0..PROCESSES).map(|_| Other::start(&case)).collect();
    for other in &mut others {
        other.tell(&format!("turns turns {TURNS} {}", marker.display()));
    }
    let mut ended = String::new();
    for other in &mut others {
        let answer = other.answer();
        if answer != "done" {
            ended = answer;
        }
    }
    check!(
        case,
        ended.is_empty(),
        "{PROCESSES} processes took a lock in turn, and one ended with: {ended}"
    );
    check!(
        case,
        fs::exists(&marker).is_ok_and(|exists| !exists),
        "a process left its mark behind"
    );
    Verdict::Kept
}
