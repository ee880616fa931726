//! A store whose user falls asleep just when its turn has come: its process is stopped after the wake-up, before the claim.

use std::process::{self, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dlock_core::{
    Attempt, Characteristics, Claim, Clock, Datastore, DatastoreError, Extension, Inspect, Lease,
    OwnerToken, Released, Signal, Time, Watch,
};
use dlock_testkit::history::{Harm, Recorder};

use crate::random::Random;

/// So many times of a hundred that it could.
const OFTEN: u64 = 6;
/// Stops the process and lets it go on. Whoever is stopped cannot do that itself.
const DOZE: &str = "kill -STOP $0; sleep $1; kill -CONT $0";

/// When a process falls asleep.
pub(crate) struct Doze {
    until: Time,
    recorder: OnceLock<Recorder>,
    turn: Mutex<Turn>,
}

/// The worker waits for one lock at a time.
struct Turn {
    random: Random,
    watching: Option<OwnerToken>,
    /// The claims since it watches: the first comes right after, the others after a wake-up.
    claims: u32,
}

pub(crate) struct Dozing {
    store: Box<dyn Datastore>,
    doze: Arc<Doze>,
}

impl Dozing {
    /// Puts `store` under a user who falls asleep now and then, but not after `until`.
    pub(crate) fn over(
        store: Box<dyn Datastore>,
        until: Time,
        random: Random,
    ) -> (Self, Arc<Doze>) {
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
            store,
            doze: Arc::clone(&doze),
        };
        (dozing, doze)
    }
}

impl Doze {
    /// Where it is written down.
    pub(crate) fn told_to(&self, recorder: &Recorder) {
        // There is one.
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

#[deny(clippy::missing_trait_methods)]
impl Datastore for Dozing {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError> {
        self.doze.claims(claim);
        self.store.acquire(claim, ttl)
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.store.extend(lease, ttl)
    }

    fn release(&self, lease: &Lease) -> Result<Released, DatastoreError> {
        self.store.release(lease)
    }

    fn characteristics(&self) -> Characteristics {
        self.store.characteristics()
    }

    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.store.abandon(claim)
    }

    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.doze.watches(claim);
        self.store.watch(claim, signal)
    }

    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        self.store.extend_many(leases)
    }

    fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        self.store.confirm(lease)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        self.store.inspect()
    }
}
