//! The thread that receives the messages sent to this process.

use std::sync::PoisonError;
use std::time::Duration;

use dlock_core::{Clock, DatastoreError};
use dlock_net::deadline_in;

use super::Shared;
use super::state::SubscriptionState;
use crate::connection::Subscription;

/// How often the thread checks whether it is still wanted.
const LISTEN: Duration = Duration::from_secs(1);
/// The most that opening the connection may take.
const OPEN_WITHIN: Duration = Duration::from_secs(2);
/// The pause before another try; each that failed doubles it, up to the second.
const TRY_AGAIN: Duration = Duration::from_millis(200);
const TRY_AGAIN_LATER: Duration = Duration::from_secs(5);

/// How listening to a subscription ended.
struct Ended {
    /// Whether anything was received.
    received: bool,
    /// The subscription, if it is not known to be broken.
    silent: Option<Subscription>,
}

pub(super) fn run(shared: &Shared, run: u64) {
    let mut try_again = TRY_AGAIN;
    // Closed when another one is open: between the two a release would find that this process
    // receives nothing, and pass over its waiters.
    let mut silent = None;
    while shared.state().runs(run) {
        match open(shared) {
            Ok(Some(subscription)) => {
                drop(silent.take());
                shared.state().subscribed(run, Clock::BOOTTIME.now());
                shared.subscription_changed();
                let ended = listen(shared, run, subscription);
                silent = ended.silent;
                set_subscription(shared, run, SubscriptionState::Lost);
                if ended.received {
                    try_again = TRY_AGAIN;
                }
                if silent.is_some() {
                    continue;
                }
            }
            // Heartbeats still serve the waiters that are here.
            Ok(None) => return set_subscription(shared, run, SubscriptionState::Refused),
            Err(_) => {
                // The server may have no room for another one.
                silent = None;
                set_subscription(shared, run, SubscriptionState::Lost);
            }
        }
        pause(shared, run, try_again);
        try_again = TRY_AGAIN_LATER.min(try_again * 2);
    }
}

fn open(shared: &Shared) -> Result<Option<Subscription>, DatastoreError> {
    let connection = shared.servers.open(deadline_in(OPEN_WITHIN))?;
    connection.subscribe(&shared.process)
}

/// Listens until the connection breaks or goes silent, or the run is over.
fn listen(shared: &Shared, run: u64, mut subscription: Subscription) -> Ended {
    let mut received = false;
    let silent = loop {
        let Ok(message) = subscription.next(LISTEN) else {
            break None;
        };
        let now = Clock::BOOTTIME.now();
        received |= message.is_some();
        let goes_on = shared.with_state(|state| {
            if let Some(message) = message
                && state.received(message, now)
            {
                shared.changed.notify_all();
            }
            state.runs(run) && !state.is_subscription_lost(now)
        });
        if !goes_on {
            break Some(subscription);
        }
    };
    Ended { received, silent }
}

fn set_subscription(shared: &Shared, run: u64, subscription: SubscriptionState) {
    let mut state = shared.state();
    if state.runs(run) {
        state.subscription = subscription;
    }
    drop(state);
    shared.subscription_changed();
}

fn pause(shared: &Shared, run: u64, time: Duration) {
    let state = shared.state();
    let _ = shared
        .changed
        .wait_timeout_while(state, time, |state| state.runs(run))
        .unwrap_or_else(PoisonError::into_inner);
}
