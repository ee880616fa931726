//! The thread that sends the heartbeats for the waiters' keys.

use std::sync::PoisonError;

use dlock_core::{Clock, DatastoreError};
use dlock_net::deadline_in;

use super::Shared;
use super::state::{Next, Reply, State, Work};
use crate::operations::{Answer, Call, HEARTBEAT_EVERY};

pub(super) fn run(shared: &Shared, run: u64) {
    while let Some(work) = wait(shared, run) {
        carry_out(shared, &work);
        // If this failed, it is tried again in the background: no caller waits for it.
        drop(work.leaving);
    }
    shared.subscription_changed();
}

/// Waits for work. Returns `None` when the run is over.
fn wait(shared: &Shared, run: u64) -> Option<Work> {
    let mut state = shared.state();
    loop {
        let now = Clock::BOOTTIME.now();
        match state.next(run, now) {
            Next::Work(work) => return Some(work),
            Next::End(over) => {
                drop(state);
                drop(over);
                return None;
            }
            Next::Sleep(until) => {
                // The condition variable's clock stops while the machine sleeps; ours does not.
                let pause = now.until(until).min(HEARTBEAT_EVERY);
                (state, _) = shared
                    .changed
                    .wait_timeout(state, pause)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// Sends all of the work, in one round trip to each server.
fn carry_out(shared: &Shared, work: &Work) {
    let process = shared.process.as_str();
    let heartbeats = work.heartbeats.iter().map(|due| Call::Heartbeat {
        key: &due.key,
        process,
        asks: due.asks,
        last: due.last,
    });
    let leave = |key, owner| Call::Leave {
        key,
        owner,
        process,
    };
    let leaves = work.leaves.iter().map(|(key, owner)| leave(key, *owner));
    let answers = work.answers.iter().map(|answer| match answer {
        Reply::Free(key, owner) => leave(key, *owner),
        Reply::GiveBack(key, owner) => Call::GiveBack {
            key,
            owner: *owner,
            process,
        },
    });
    // The answers come first, since other processes wait for them. A failed trip is not repeated: a
    // hand-over expires by itself, and a question is asked again.
    let calls: Vec<_> = answers.chain(heartbeats).chain(leaves).collect();
    let answers = shared
        .servers
        .call_many(deadline_in(HEARTBEAT_EVERY), &calls);
    shared.with_state(|state| note(state, work, answers));
}

/// Notes what the server answered to the work.
fn note(
    state: &mut State,
    work: &Work,
    answers: Result<Vec<Result<Answer, DatastoreError>>, DatastoreError>,
) {
    let Ok(answers) = answers else {
        for due in &work.heartbeats {
            state.heartbeat_failed(&due.key);
        }
        for (key, owner) in &work.leaves {
            state.still_queued(key, *owner);
        }
        return;
    };
    let now = Clock::BOOTTIME.now();
    let mut answers = answers.into_iter().skip(work.answers.len());
    for (due, answer) in work.heartbeats.iter().zip(&mut answers) {
        match answer {
            Ok(Answer::Heartbeat(reply)) => state.heartbeat_answered(due, &reply, now),
            _ => state.heartbeat_failed(&due.key),
        }
    }
    for ((key, owner), answer) in work.leaves.iter().zip(answers) {
        if answer.is_err_and(|error| error.is_transient()) {
            state.still_queued(key, *owner);
        }
    }
}
