//! A store that stops its own process now and then at the worst moment: after the wake-up of a
//! waiter, before its claim.

use std::process::{self, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Claim, Clock, Datastore, DatastoreError, Layer, Layered, OwnerToken, Signal,
    Time, Watch,
};
use dlock_history::{Harm, Recorder};

use crate::random::Random;

/// The percentage of wake-ups at which the process is stopped.
const OFTEN: u64 = 6;
/// Stops the process and continues it. A stopped process cannot continue itself.
const DOZE: &str = "kill -STOP $0; sleep $1; kill -CONT $0";

/// Decides when the process is stopped.
pub(crate) struct Doze {
    until: Time,
    recorder: OnceLock<Recorder>,
    turn: Mutex<Turn>,
}

/// The state of the present wait. A worker waits for one lock at a time.
struct Turn {
    random: Random,
    watching: Option<OwnerToken>,
    /// The claims since the watch began. The first one follows the watch at once, the others follow
    /// a wake-up.
    claims: u32,
}

pub(crate) struct Dozing {
    doze: Arc<Doze>,
}

impl Dozing {
    /// Wraps `store` so that the process is stopped now and then, but not after `until`.
    pub(crate) fn over(
        store: Box<dyn Datastore>,
        until: Time,
        random: Random,
    ) -> (Layered<Box<dyn Datastore>, Self>, Arc<Doze>) {
        let doze = Arc::new(Doze {
            until,
            recorder: OnceLock::new(),
            turn: Mutex::new(Turn {
                random,
                watching: None,
                claims: 0,
            }),
        });
        let dozing = Dozing {
            doze: Arc::clone(&doze),
        };
        (Layered::new(store, dozing), doze)
    }
}

impl Doze {
    /// Sets the recorder of the stops.
    pub(crate) fn record_to(&self, recorder: &Recorder) {
        // It is set only once.
        let _ = self.recorder.set(recorder.clone());
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watches(&self, claim: &Claim) {
        let mut turn = self.turn();
        (turn.watching, turn.claims) = (Some(claim.owner()), 0);
    }

    fn claims(&self, claim: &Claim) {
        let mut turn = self.turn();
        if turn.watching != Some(claim.owner()) {
            return;
        }
        turn.claims += 1;
        let since = Clock::BOOTTIME.now();
        if turn.claims < 2 || since >= self.until || !turn.random.percent(OFTEN) {
            return;
        }
        let lasts = turn.random.millis(100..2500).min(since.until(self.until));
        drop(turn);
        self.sleep(lasts);
        if let Some(recorder) = self.recorder.get() {
            recorder.fault("stop-at-wake-up", Harm::None, since);
        }
    }

    fn sleep(&self, lasts: Duration) {
        let slept = Command::new("sh")
            .args(["-c", DOZE])
            .args([
                process::id().to_string(),
                format!("{:.3}", lasts.as_secs_f64()),
            ])
            .stdin(Stdio::null())
            .status();
        assert!(slept.is_ok_and(|status| status.success()), "sh can be run");
    }
}

impl Layer for Dozing {
    fn acquire(
        &self,
        store: &dyn Datastore,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        self.doze.claims(claim);
        store.acquire(claim, ttl)
    }

    fn watch(
        &self,
        store: &dyn Datastore,
        claim: &Claim,
        signal: &Signal,
    ) -> Result<Option<Watch>, DatastoreError> {
        self.doze.watches(claim);
        store.watch(claim, signal)
    }
}
