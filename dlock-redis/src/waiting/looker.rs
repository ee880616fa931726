//! The thread that looks after the waiters' keys.

use std::sync::PoisonError;

use dlock_core::Clock;
use dlock_net::deadline_in;

use super::Shared;
use super::state::{Next, Work};
use crate::protocol::{Answer, Call, LOOK_EVERY};

pub(super) fn run(shared: &Shared, run: u64) {
    while let Some(work) = wait(shared, run) {
        carry_out(shared, &work);
    }
    shared.changed.notify_all();
}

/// Waits for something to do; `None` when it is over.
fn wait(shared: &Shared, run: u64) -> Option<Work> {
    let mut state = shared.state();
    loop {
        let now = Clock::BOOTTIME.now();
        match state.next(run, now) {
            Next::Work(work) => return Some(work),
            Next::End => return None,
            Next::Sleep(until) => {
                // The condition variable's clock stops while the machine sleeps; ours does not.
                let pause = now.until(until).min(LOOK_EVERY);
                (state, _) = shared
                    .changed
                    .wait_timeout(state, pause)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// All of it in one trip.
fn carry_out(shared: &Shared, work: &Work) {
    let process = shared.process.as_str();
    let looks = work.looks.iter().map(|key| Call::Look { key, process });
    let leaves = work.leaves.iter().map(|(key, owner)| Call::Release {
        key,
        owner: *owner,
        process: Some(process),
    });
    let calls: Vec<_> = looks.chain(leaves).collect();
    let answers = shared.pool.call(deadline_in(LOOK_EVERY), |connection| {
        connection.call_many(&calls)
    });
    let mut state = shared.state();
    let Ok(answers) = answers else {
        for key in &work.looks {
            state.look_failed(key);
        }
        for (key, owner) in &work.leaves {
            state.still_queued(key, *owner);
        }
        return;
    };
    let now = Clock::BOOTTIME.now();
    let mut answers = answers.into_iter();
    for (key, answer) in work.looks.iter().zip(&mut answers) {
        match answer {
            Ok(Answer::Looked(look)) => state.looked(key, &look, now),
            _ => state.look_failed(key),
        }
    }
    for ((key, owner), answer) in work.leaves.iter().zip(answers) {
        if answer.is_err_and(|error| error.is_transient()) {
            state.still_queued(key, *owner);
        }
    }
}
