//! The thread that learns what is deleted.

use std::sync::PoisonError;
use std::time::Duration;

use dlock_core::{Clock, DatastoreError, Time};
use dlock_net::deadline_in;

use super::Shared;
use crate::connection::Watching;
use crate::operations::watching::{Report, progress};

/// How often the server is asked for a sign of life, if nothing else comes.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long it may take for that, and to open the connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The pause before another try; each that failed doubles it, up to the second.
const TRY_AGAIN: Duration = Duration::from_millis(100);
const TRY_AGAIN_LATER: Duration = Duration::from_secs(5);

pub(super) fn run(shared: &Shared, run: u64) {
    let mut try_again = TRY_AGAIN;
    while shared.state().runs(run) {
        let has_heard = open(shared, run).is_ok_and(|connection| listen(shared, run, connection));
        if has_heard {
            try_again = TRY_AGAIN;
        }
        // Until there is another connection they ask now and then.
        shared.with_state(|state| {
            if state.runs(run) {
                state.watches_lost();
            }
        });
        pause(shared, run, try_again);
        try_again = TRY_AGAIN_LATER.min(try_again * 2);
    }
    // It may have been woken in place of the watcher of a later run.
    shared.alert.raise();
}

fn open(shared: &Shared, run: u64) -> Result<Watching, DatastoreError> {
    let connection = shared.pool.open(deadline_in(ANSWER_WITHIN))?;
    let mut watching = connection.into_watching();
    let mut requests = shared.state().all_requests(run);
    // So that the answer begins, whether anything is watched or not.
    requests.push(progress());
    watching.send(&requests, deadline_in(ANSWER_WITHIN))?;
    Ok(watching)
}

/// Listens until the connection breaks or the run is over. Returns whether anything was received.
fn listen(shared: &Shared, run: u64, mut watching: Watching) -> bool {
    let mut has_heard = false;
    // When the server must have answered, or has to be asked.
    let mut silent_until = deadline_in(ANSWER_WITHIN);
    let mut is_asked = true;
    loop {
        let Ok(reports) = watching.receive(&shared.alert, silent_until, deadline_in(ANSWER_WITHIN))
        else {
            return has_heard;
        };
        let mut requests = Vec::new();
        let now = Clock::BOOTTIME.now();
        if !reports.is_empty() {
            (has_heard, is_asked) = (true, false);
            silent_until = now.saturating_add(PING_EVERY);
        } else if now >= silent_until {
            if is_asked {
                return has_heard;
            }
            requests.push(progress());
            (is_asked, silent_until) = (true, now.saturating_add(ANSWER_WITHIN));
        }
        let goes_on = shared.with_state(|state| {
            for report in reports {
                take(state, report, now);
            }
            requests.extend(state.take_requests(run));
            state.runs(run)
        });
        if !goes_on {
            return has_heard;
        }
        if !requests.is_empty()
            && watching
                .send(&requests, deadline_in(ANSWER_WITHIN))
                .is_err()
        {
            return has_heard;
        }
    }
}

fn take(state: &mut super::State, report: Report, now: Time) {
    match report {
        Report::Created { id, revision } => state.created(id, revision, now),
        Report::Deleted { id, revision } => state.deleted(id, revision, now),
        Report::Compacted { id } => state.compacted(id, now),
        Report::Alive => {}
    }
}

fn pause(shared: &Shared, run: u64, time: Duration) {
    let state = shared.state();
    let _ = shared
        .changed
        .wait_timeout_while(state, time, |state| state.runs(run))
        .unwrap_or_else(PoisonError::into_inner);
}
