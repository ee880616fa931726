//! Stores do not disturb each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use dlock_core::{
    Attempt, Characteristics, Claim, Clock, Datastore, DatastoreError, ErrorKind, Extension,
    Inspect, Lease, LockGuard, Released, Signal, Store, Time, Watch,
};

use crate::case::{Case, Law, check, now};
use crate::subject::Handle;
use crate::{Subject, Verdict};

/// On each store.
const LEASES: usize = 100;
/// How many times in a row leases must be lost before it is not this machine's fault.
const TRIES: u32 = 3;

/// While one store does not answer, no lease on another is lost, whatever the callbacks of lost locks do.
pub fn a_stopped_store_does_not_disturb_another(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Renewal);
    let ttl = case.short() * 5;
    for attempt in 1..=TRIES {
        let lost = lost_beside_a_stopped_store(&case, ttl, attempt);
        if lost == 0 {
            break;
        }
        check!(
            case,
            attempt < TRIES,
            "one store did not answer, and on another {lost} of {LEASES} leases of {ttl:?} were lost, {TRIES} times in a row"
        );
    }
    Verdict::Kept
}

/// How many leases on the healthy store were lost while the other did not answer.
fn lost_beside_a_stopped_store(case: &Case<'_>, ttl: Duration, attempt: u32) -> usize {
    let is_stopped = Arc::new(AtomicBool::new(false));
    let stopped = Store::new(Stoppable {
        store: case.subject.first(),
        is_stopped: Arc::clone(&is_stopped),
    });
    let healthy = Store::new(case.subject.another());
    let held = |store: &Store, name: &str| -> Vec<LockGuard> {
        (0..LEASES)
            .map(|number| {
                let id = format!("{name}-{attempt}-{number}");
                case.acquired(
                    &case.lock(store, &id, |options| options.with_ttl(ttl)),
                    "nobody held the lock",
                )
            })
            .collect()
    };
    let unanswered = held(&stopped, "stopped");
    let answered = held(&healthy, "healthy");
    let told = Arc::new(AtomicU32::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    for (number, guard) in unanswered.iter().enumerate() {
        let (told, is_over) = (Arc::clone(&told), Arc::clone(&is_over));
        guard.on_lost(move || {
            told.fetch_add(1, Ordering::SeqCst);
            if number % 2 == 0 {
                // Without the message that `panic!` prints: it is meant.
                std::panic::resume_unwind(Box::new("a callback that panics"));
            }
            while !is_over.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(20));
            }
        });
    }
    is_stopped.store(true, Ordering::SeqCst);
    let end = now().saturating_add(ttl * 2);
    let give_up = end.saturating_add(Duration::from_secs(30));
    while now() < end || (unanswered_told(&told) < LEASES && now() < give_up) {
        thread::sleep(Duration::from_millis(20));
    }
    let lost = answered.iter().filter(|guard| !guard.is_valid()).count();
    let still = unanswered.iter().filter(|guard| guard.is_valid()).count();
    let times = unanswered_told(&told);
    is_over.store(true, Ordering::SeqCst);
    // Releases that would wait for an answer would take minutes.
    is_stopped.store(false, Ordering::SeqCst);
    check!(
        case,
        still == 0,
        "a store did not answer for twice their time to live, and {still} of {LEASES} leases are valid"
    );
    check!(
        case,
        times == LEASES,
        "{LEASES} leases were lost, and that was told {times} times"
    );
    lost
}

fn unanswered_told(told: &AtomicU32) -> usize {
    told.load(Ordering::SeqCst) as usize
}

/// A store that can be made to answer nothing until the end of each call.
struct Stoppable {
    store: Handle,
    is_stopped: Arc<AtomicBool>,
}

impl Stoppable {
    fn answers(&self, clock: &Clock, not_after: Time) -> Result<(), DatastoreError> {
        if self.is_stopped.load(Ordering::SeqCst) {
            clock.park(&Signal::new(), not_after);
            return Err(DatastoreError::maybe_executed(
                ErrorKind::Timeout,
                "stopped",
            ));
        }
        Ok(())
    }
}

#[deny(clippy::missing_trait_methods)]
impl Datastore for Stoppable {
    fn acquire(&self, claim: &Claim, ttl: Duration) -> Result<Attempt, DatastoreError> {
        self.answers(claim.clock(), claim.not_after())?;
        self.store.acquire(claim, ttl)
    }

    fn extend(&self, lease: &Lease, ttl: Duration) -> Result<Extension, DatastoreError> {
        self.answers(lease.clock(), lease.not_after())?;
        self.store.extend(lease, ttl)
    }

    fn release(&self, lease: &Lease) -> Result<Released, DatastoreError> {
        self.answers(lease.clock(), lease.not_after())?;
        self.store.release(lease)
    }

    fn characteristics(&self) -> Characteristics {
        self.store.characteristics()
    }

    fn abandon(&self, claim: &Claim) -> Result<(), DatastoreError> {
        self.answers(claim.clock(), claim.not_after())?;
        self.store.abandon(claim)
    }

    fn watch(&self, claim: &Claim, signal: &Signal) -> Result<Option<Watch>, DatastoreError> {
        self.answers(claim.clock(), claim.not_after())?;
        self.store.watch(claim, signal)
    }

    fn extend_many(&self, leases: &[(Lease, Duration)]) -> Vec<Result<Extension, DatastoreError>> {
        let Some((first, _)) = leases.first() else {
            return Vec::new();
        };
        if self.answers(first.clock(), first.not_after()).is_ok() {
            return self.store.extend_many(leases);
        }
        let stopped = || {
            Err(DatastoreError::maybe_executed(
                ErrorKind::Timeout,
                "stopped",
            ))
        };
        leases.iter().map(|_| stopped()).collect()
    }

    fn confirm(&self, lease: &Lease) -> Result<Extension, DatastoreError> {
        self.answers(lease.clock(), lease.not_after())?;
        self.store.confirm(lease)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        self.store.inspect()
    }
}
