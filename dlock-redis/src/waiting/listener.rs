//! The thread that hears what this process is told.

use std::sync::PoisonError;
use std::time::Duration;

use dlock_core::{Clock, DatastoreError};
use dlock_net::deadline_in;

use super::Shared;
use super::state::Hearing;
use crate::connection::Subscription;

/// How often it looks whether it is still wanted.
const LISTEN: Duration = Duration::from_secs(1);
/// The most that opening the connection may take.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// The pause before another try; each that failed doubles it, up to the second.
const TRY_AGAIN: Duration = Duration::from_millis(200);
const TRY_AGAIN_LATER: Duration = Duration::from_secs(5);

pub(super) fn run(shared: &Shared, run: u64) {
    let mut try_again = TRY_AGAIN;
    while shared.state().runs(run) {
        match open(shared) {
            Ok(Some(subscription)) => {
                shared.state().subscribed(run, Clock::BOOTTIME.now());
                shared.changed.notify_all();
                if listen(shared, run, subscription) {
                    try_again = TRY_AGAIN;
                }
                told(shared, run, Hearing::No);
            }
            // The looks go on for those who wait already.
            Ok(None) => return told(shared, run, Hearing::Refused),
            Err(_) => told(shared, run, Hearing::No),
        }
        pause(shared, run, try_again);
        try_again = TRY_AGAIN_LATER.min(try_again * 2);
    }
}

fn open(shared: &Shared) -> Result<Option<Subscription>, DatastoreError> {
    let connection = shared.pool.open(deadline_in(OPEN_WITHIN))?;
    connection.subscribe(&shared.process)
}

/// Until the connection breaks or nobody wants it; whether anything was heard.
fn listen(shared: &Shared, run: u64, mut subscription: Subscription) -> bool {
    let mut heard = false;
    while let Ok(message) = subscription.next(LISTEN) {
        let now = Clock::BOOTTIME.now();
        heard |= message.is_some();
        let mut state = shared.state();
        if let Some(message) = message
            && state.hear(message, now)
        {
            shared.changed.notify_all();
        }
        if !state.runs(run) || state.is_deaf(now) {
            break;
        }
    }
    heard
}

fn told(shared: &Shared, run: u64, hearing: Hearing) {
    let mut state = shared.state();
    if state.runs(run) {
        state.hearing = hearing;
    }
    drop(state);
    shared.changed.notify_all();
}

fn pause(shared: &Shared, run: u64, time: Duration) {
    let state = shared.state();
    let _ = shared
        .changed
        .wait_timeout_while(state, time, |state| state.runs(run))
        .unwrap_or_else(PoisonError::into_inner);
}
