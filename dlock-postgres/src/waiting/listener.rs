//! The thread that makes the heartbeats and receives the notifications.

use std::sync::PoisonError;
use std::time::Duration;

use dlock_core::{Clock, DatastoreError, Time};
use dlock_net::{Link as _, deadline_in};

use super::state::State;
use super::{LOCKED_AGAIN, Shared};
use crate::connection::Connection;
use crate::error::{is_answer, is_of_locked_row, unexpected};
use crate::operations::{Answer, Call, HEARTBEAT_EVERY, Heartbeat};

/// How often the database is asked through a pooler, which delivers no notifications.
const POLL_EVERY: Duration = Duration::from_millis(100);
/// The most that opening the connection, or a heartbeat, may take.
const CALL_WITHIN: Duration = Duration::from_secs(2);
/// The pause before another try; each that failed doubles it, up to the second.
const TRY_AGAIN: Duration = Duration::from_millis(200);
const TRY_AGAIN_LATER: Duration = Duration::from_secs(5);

pub(super) fn run(shared: &Shared, run: u64) {
    let mut try_again = TRY_AGAIN;
    loop {
        let served = serve(shared, run);
        let mut was_served = false;
        shared.with_state(|state| was_served = state.disconnected());
        if was_served {
            try_again = TRY_AGAIN;
        }
        if served.is_ok() || !pause(shared, run, try_again) {
            break;
        }
        try_again = after_another(try_again);
    }
    // The leaver ends too.
    shared.changed.notify_all();
}

/// The pause after one more try that failed.
fn after_another(pause: Duration) -> Duration {
    TRY_AGAIN_LATER.min(pause * 2)
}

/// Serves the waiters over one connection until the run is over.
///
/// # Errors
///
/// If the connection cannot be opened or breaks.
fn serve(shared: &Shared, run: u64) -> Result<(), DatastoreError> {
    let mut connection = shared.pool.open(deadline_in(CALL_WITHIN))?;
    // A pooler may give each call another connection, and would leave the subscription to somebody
    // else's.
    let backend = heartbeat(&mut connection, shared, false)?.backend;
    let listens = connection.is_direct_to(backend);
    if listens {
        connection.set_deadline(deadline_in(CALL_WITHIN));
        connection.listen(&format!("dlock_{}", shared.process))?;
    }
    // What was notified before is lost, and who was queued may be no more.
    shared.with_state(State::connected);
    while shared.with_state(|state| state.goes_on(run, Clock::BOOTTIME.now())) {
        let sent = Clock::BOOTTIME.now();
        let beat = heartbeat(&mut connection, shared, listens)?;
        if listens && !connection.is_direct_to(beat.backend) {
            return Err(unexpected());
        }
        let now = Clock::BOOTTIME.now();
        let mut next = shared.with_state(|state| state.beaten(&beat, sent, now));
        let strangers = shared.state().take_strangers();
        for stranger in strangers {
            connection.set_deadline(deadline_in(CALL_WITHIN));
            match connection.call(&Call::Leave(stranger, Duration::ZERO)) {
                // The next heartbeat says it again.
                Err(error) if is_of_locked_row(&error) => {
                    next = next.min(deadline_in(LOCKED_AGAIN));
                }
                Err(error) if !is_answer(&error) => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        match listens {
            true => listen(&mut connection, shared, run, next)?,
            false => sleep(shared, run, next.min(deadline_in(POLL_EVERY))),
        }
        if !shared.state().has_waiters() {
            sleep_without_waiters(shared, run);
        }
    }
    Ok(())
}

fn heartbeat(
    connection: &mut Connection,
    shared: &Shared,
    listens: bool,
) -> Result<Heartbeat, DatastoreError> {
    connection.set_deadline(deadline_in(CALL_WITHIN));
    match connection.call(&Call::Heartbeat(&shared.process, listens))? {
        Answer::Heartbeat(beat) => Ok(beat),
        _ => Err(unexpected()),
    }
}

/// Receives notifications until it is time for the next heartbeat, or until one came for a waiter
/// that is not here: the heartbeat says who that is.
fn listen(
    connection: &mut Connection,
    shared: &Shared,
    run: u64,
    next: Time,
) -> Result<(), DatastoreError> {
    while Clock::BOOTTIME.now() < next && shared.state().runs(run) {
        let messages = connection.notified(next)?;
        if !shared.with_state(|state| state.received(&messages)) {
            break;
        }
    }
    Ok(())
}

fn sleep(shared: &Shared, run: u64, until: Time) {
    let mut state = shared.state();
    loop {
        // The condition variable's clock stops while the machine sleeps; ours does not.
        let left = Clock::BOOTTIME.now().until(until).min(HEARTBEAT_EVERY);
        if left.is_zero() || !state.runs(run) {
            return;
        }
        (state, _) = shared
            .changed
            .wait_timeout(state, left)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// Returns when there is a waiter, or when the run is over.
fn sleep_without_waiters(shared: &Shared, run: u64) {
    let mut state = shared.state();
    while !state.has_waiters() && state.goes_on(run, Clock::BOOTTIME.now()) {
        (state, _) = shared
            .changed
            .wait_timeout(state, HEARTBEAT_EVERY)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// Waits before another try. Returns whether the run goes on.
fn pause(shared: &Shared, run: u64, time: Duration) -> bool {
    sleep(shared, run, deadline_in(time));
    shared.state().goes_on(run, Clock::BOOTTIME.now())
}

#[cfg(test)]
mod tests;
