//! Stores do not affect each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use dlock_core::{
    AcquireOutcome, Claim, Clock, Datastore, DatastoreError, ErrorKind, Extension, Layer, Lease,
    ReleaseOutcome, Signal, Time, Watch,
};

use crate::case::{Case, Law, check, now};
use crate::form::{LockGuard, Store};
use crate::threads::in_lanes;
use crate::{Subject, Verdict};

/// The most leases on each store.
const LEASES: usize = 100;
/// The time in which all leases are extended one after the other. There are fewer leases if calls
/// take long.
const ROUND: Duration = Duration::from_secs(2);
/// The number of callbacks that block: fewer than core's threads for callbacks.
const BLOCKED: usize = 4;
/// How many times in a row leases must be lost to count as a failure and not as the machine's
/// fault.
const TRIES: u32 = 3;

/// While one store does not answer, no lease on another store is lost, whatever the callbacks of
/// lost locks do.
pub fn a_stopped_store_does_not_disturb_another(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Renewal);
    let round = ROUND.as_nanos() / case.latency().as_nanos().max(1);
    let leases = usize::try_from(round).unwrap_or(LEASES).clamp(10, LEASES);
    // A renewal is due after a third of it, and must not have to wait for all other renewals.
    let one_by_one = case.latency() * 6 * u32::try_from(leases).unwrap_or(u32::MAX);
    let least = one_by_one.max(case.short() * 5);
    for attempt in 1..=TRIES {
        // On an overloaded machine calls take longer than when they were measured.
        let ttl = case.live(least * (1 << (attempt - 1)));
        let lost = lost_beside_a_stopped_store(&case, ttl, leases, attempt);
        if lost == 0 {
            break;
        }
        check!(
            case,
            attempt < TRIES,
            "one store did not answer, and on another {lost} of {leases} leases of {ttl:?} were lost, {TRIES} times in a row"
        );
    }
    Verdict::Kept
}

/// The number of leases on the healthy store that were lost while the other one did not answer.
fn lost_beside_a_stopped_store(
    case: &Case<'_>,
    ttl: Duration,
    leases: usize,
    attempt: u32,
) -> usize {
    let is_stopped = Arc::new(AtomicBool::new(false));
    let stoppable = Stoppable {
        is_stopped: Arc::clone(&is_stopped),
    };
    let stopped = Store::new(case.subject.first().behind(stoppable));
    let healthy = Store::new(case.subject.another());
    let held = |store: &Store, name: &str| -> Vec<LockGuard> {
        let numbers: Vec<usize> = (0..leases).collect();
        in_lanes(case.lanes(), &numbers, |_, number| {
            let id = format!("{name}-{attempt}-{number}");
            case.acquired(
                &case.lock(store, &id, |options| options.ttl(ttl)),
                "nobody held the lock",
            )
        })
    };
    let unanswered = held(&stopped, "stopped");
    let answered = held(&healthy, "healthy");
    let told = Arc::new(AtomicU32::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    for (number, guard) in unanswered.iter().enumerate() {
        let (told, is_over) = (Arc::clone(&told), Arc::clone(&is_over));
        guard.on_lost(move || {
            told.fetch_add(1, Ordering::SeqCst);
            if number >= BLOCKED {
                // Without a message, since this panic is intended.
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
    while now() < end || (unanswered_told(&told) < leases && now() < give_up) {
        thread::sleep(Duration::from_millis(20));
    }
    let lost = answered.iter().filter(|guard| !guard.is_valid()).count();
    let still = unanswered.iter().filter(|guard| guard.is_valid()).count();
    let times = unanswered_told(&told);
    is_over.store(true, Ordering::SeqCst);
    // Releases that wait for an answer would take minutes.
    is_stopped.store(false, Ordering::SeqCst);
    check!(
        case,
        still == 0,
        "a store did not answer for twice their time to live, and {still} of {leases} leases are valid"
    );
    check!(
        case,
        times == leases,
        "{leases} leases were lost, and that was reported {times} times"
    );
    lost
}

fn unanswered_told(told: &AtomicU32) -> usize {
    told.load(Ordering::SeqCst) as usize
}

/// Makes a store hang until the end of each call.
struct Stoppable {
    is_stopped: Arc<AtomicBool>,
}

impl Stoppable {
    fn answers(&self, clock: &Clock, not_after: Time) -> Result<(), DatastoreError> {
        if self.is_stopped.load(Ordering::SeqCst) {
            clock.sleep_until(&Signal::new(), not_after);
            return Err(stopped());
        }
        Ok(())
    }
}

fn stopped() -> DatastoreError {
    DatastoreError::maybe_executed(ErrorKind::Timeout, "stopped")
}

impl Layer for Stoppable {
    fn acquire(
        &self,
        store: &dyn Datastore,
        claim: &Claim,
        ttl: Duration,
    ) -> Result<AcquireOutcome, DatastoreError> {
        self.answers(claim.clock(), claim.not_after())?;
        store.acquire(claim, ttl)
    }

    fn extend(
        &self,
        store: &dyn Datastore,
        lease: &Lease,
        ttl: Duration,
    ) -> Result<Extension, DatastoreError> {
        self.answers(lease.clock(), lease.not_after())?;
        store.extend(lease, ttl)
    }

    fn release(
        &self,
        store: &dyn Datastore,
        lease: &Lease,
    ) -> Result<ReleaseOutcome, DatastoreError> {
        self.answers(lease.clock(), lease.not_after())?;
        store.release(lease)
    }

    fn abandon(&self, store: &dyn Datastore, claim: &Claim) -> Result<(), DatastoreError> {
        self.answers(claim.clock(), claim.not_after())?;
        store.abandon(claim)
    }

    fn watch(
        &self,
        store: &dyn Datastore,
        claim: &Claim,
        signal: &Signal,
    ) -> Result<Option<Watch>, DatastoreError> {
        self.answers(claim.clock(), claim.not_after())?;
        store.watch(claim, signal)
    }

    fn extend_many(
        &self,
        store: &dyn Datastore,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let Some((first, _)) = leases.first() else {
            return Vec::new();
        };
        if self.answers(first.clock(), first.not_after()).is_ok() {
            return store.extend_many(leases);
        }
        leases.iter().map(|_| Err(stopped())).collect()
    }

    fn confirm(&self, store: &dyn Datastore, lease: &Lease) -> Result<Extension, DatastoreError> {
        self.answers(lease.clock(), lease.not_after())?;
        store.confirm(lease)
    }

    fn confirm_many(
        &self,
        store: &dyn Datastore,
        leases: &[Lease],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let Some(first) = leases.first() else {
            return Vec::new();
        };
        if self.answers(first.clock(), first.not_after()).is_ok() {
            return store.confirm_many(leases);
        }
        leases.iter().map(|_| Err(stopped())).collect()
    }
}
