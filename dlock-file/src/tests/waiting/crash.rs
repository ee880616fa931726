//! A process dies at any step by which waiters queue and are woken. After that the next waiter gets
//! the key, and nothing stays behind.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use dlock_core::{Datastore, Inspect, OwnerToken, ReleaseOutcome};

use super::super::{Scratch, TTL, acquire, claim};
use super::{KEY, Waiter, ends_early, nothing_is_left, queue_length};
use crate::FileDatastore;
use crate::failpoint::Failpoint;
use crate::failpoint::testing::with_plan;

/// Not a test by itself: a process that dies at a step.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn victim() {
    let folder = env::var_os("DLOCK_TEST_FOLDER").expect("run by another test");
    let operation = env::var("DLOCK_TEST_OPERATION").unwrap();
    let at = env::var("DLOCK_TEST_STEP").unwrap();
    let store = FileDatastore::open(folder).unwrap();
    let plan = move |step| match format!("{step:?}") == at {
        true => std::process::abort(),
        false => Ok(()),
    };
    let waiter = (operation == "leave").then(|| Waiter::queued(&store));
    with_plan(plan, || match operation.as_str() {
        "wait" => drop(Waiter::queued(&store)),
        "leave" => drop(waiter),
        "try" => drop(store.acquire(&claim(KEY), TTL)),
        "break" => {
            let held = store.holder(KEY).unwrap().unwrap();
            drop(store.break_lease(KEY, held.fence().unwrap()));
        }
        owner => {
            let owner = OwnerToken::from_hex(owner).unwrap();
            drop(store.abandon(&claim(KEY).owned_by(owner)));
        }
    });
}

/// Runs a process that does the operation and dies at the step. Returns whether it came to it.
pub(super) fn died_in(scratch: &Scratch, operation: &str, step: Failpoint) -> bool {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "tests::waiting::crash::victim", "--ignored"]);
    child.env("DLOCK_TEST_FOLDER", scratch.folder().path());
    child.env("DLOCK_TEST_OPERATION", operation);
    child.env("DLOCK_TEST_STEP", format!("{step:?}"));
    let output = child.output().unwrap();
    let killed = output.status.signal().is_some();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(killed || output.status.success(), "{text}");
    killed
}

#[test]
fn a_waiter_that_dies_at_any_step_does_not_keep_the_key_from_the_next() {
    for step in [
        Failpoint::PipeMade,
        Failpoint::PipeOpened,
        Failpoint::ShardLocked,
        Failpoint::Queuing,
        Failpoint::LineWritten,
        Failpoint::Queued,
    ] {
        let case = format!("{step:?}");
        let scratch = Scratch::new();
        let store = scratch.open();
        let ours = acquire(&store, KEY, TTL);
        assert!(died_in(&scratch, "wait", step), "{case}");
        let next = Waiter::queued(&store);
        assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
        next.is_woken();
        let lease = next.is_granted(&store);
        assert_eq!(store.release(&lease).unwrap(), ReleaseOutcome::Released);
        drop(next);
        nothing_is_left(&scratch, &case);
    }
}

#[test]
fn a_waiter_that_dies_as_it_leaves_does_not_keep_the_key_from_the_next() {
    for step in [
        Failpoint::ShardLocked,
        Failpoint::CrossingOut,
        Failpoint::CrossedOut,
        Failpoint::QueueEmptied,
    ] {
        for others in [0, 2] {
            let case = format!("{step:?} {others}");
            let scratch = Scratch::new();
            let store = scratch.open();
            let ours = acquire(&store, KEY, TTL);
            let waiters: Vec<_> = (0..others).map(|_| Waiter::queued(&store)).collect();
            // The last one out empties the queue; otherwise a line is crossed out.
            let is_last = step == Failpoint::QueueEmptied;
            let always = step == Failpoint::ShardLocked;
            let died = died_in(&scratch, "leave", step);
            assert_eq!(died, always || is_last == (others == 0), "{case}");
            assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
            for waiter in waiters {
                waiter.is_woken();
                let lease = waiter.is_granted(&store);
                assert_eq!(store.release(&lease).unwrap(), ReleaseOutcome::Released);
            }
            nothing_is_left(&scratch, &case);
        }
    }
}

#[test]
fn a_process_that_dies_at_any_step_of_a_hand_over_leaves_the_key_to_the_first() {
    for operation in ["release", "break", "try"] {
        for step in [
            Failpoint::ShardLocked,
            Failpoint::SpareWritten,
            Failpoint::Replacing,
            Failpoint::Replaced,
            Failpoint::CrossingOut,
            Failpoint::CrossedOut,
            Failpoint::QueueEmptied,
            Failpoint::Notifying,
        ] {
            for others in [1, 3] {
                let case = format!("{operation} {step:?} {others}");
                let scratch = Scratch::new();
                let store = scratch.open();
                let ours = acquire(&store, KEY, TTL);
                let waiters: Vec<_> = (0..others).map(|_| Waiter::queued(&store)).collect();
                if operation == "try" {
                    ends_early(&store, &ours);
                }
                let owner = ours.owner().to_string();
                let operation = match operation {
                    "release" => owner.as_str(),
                    other => other,
                };
                let died = died_in(&scratch, operation, step);
                // The last line is not crossed out: the queue is emptied.
                let is_last = step == Failpoint::QueueEmptied;
                let crosses = [Failpoint::CrossingOut, Failpoint::CrossedOut].contains(&step);
                let skipped = if others == 1 { crosses } else { is_last };
                assert_eq!(died, !skipped, "{case}");
                // Before the record was replaced, the holder has it still.
                let _ = store.release(&ours).unwrap();
                for waiter in waiters {
                    let lease = waiter.is_granted(&store);
                    assert_eq!(store.release(&lease).unwrap(), ReleaseOutcome::Released);
                }
                nothing_is_left(&scratch, &case);
            }
        }
    }
}

#[test]
fn a_process_that_dies_as_it_shortens_a_queue_loses_nobody() {
    for step in [
        Failpoint::CrossedOut,
        Failpoint::QueueReplaced,
        Failpoint::Notifying,
    ] {
        let case = format!("{step:?}");
        let scratch = Scratch::new();
        let store = scratch.open();
        let ours = acquire(&store, KEY, TTL);
        let mut waiters: Vec<_> = (0..20).map(|_| Waiter::queued(&store)).collect();
        let full = queue_length(&scratch);
        let line = full / 20;
        // Lines are crossed out until the next one makes more dead lines than living ones.
        let room = 1 + u64::max(10, 1024 / line);
        for _ in 1..room {
            drop(waiters.remove(1));
        }
        assert_eq!(queue_length(&scratch), full);
        let died = died_in(&scratch, &ours.owner().to_string(), step);
        assert_eq!(died, step != Failpoint::CrossedOut, "{case}");
        if step == Failpoint::Notifying {
            assert!(queue_length(&scratch) <= full / 2, "{case}");
        }
        let _ = store.release(&ours).unwrap();
        for waiter in waiters {
            let lease = waiter.is_granted(&store);
            assert_eq!(store.release(&lease).unwrap(), ReleaseOutcome::Released);
        }
        nothing_is_left(&scratch, &case);
    }
}
