//! Tries a lock: acquires it, lets a second claimant wait for it, hands it over, releases it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{
    AcquireError, Datastore, DatastoreError, ErrorKind, Finding, Lock, LockGuard, LockOptions,
    ReleaseError, Store,
};

use crate::exit_code;
use crate::exit_reason::ExitReason;
use crate::message::{escaped, with_causes};

/// The lock that is tried. Two that try at a time wait for each other.
const NAME: &str = "dlock-doctor";
/// How long this lock stays taken if this process is killed.
const TTL: Duration = Duration::from_secs(10);
/// How long the lock is waited for: a server that was just started may take some seconds.
const WITHIN: Duration = Duration::from_secs(5);
/// How long the second claimant has to enter the queue of the store.
const ENTERS_WITHIN: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What became of it.
pub(super) struct Probed {
    pub(super) findings: Vec<Finding>,
    /// How long the store took to answer a question; `None` if it did not.
    pub(super) answers_in: Option<Duration>,
}

/// Tries a lock under the prefix of the keys.
///
/// # Errors
///
/// If the prefix is none.
pub(super) fn probe(
    datastore: &Arc<dyn Datastore>,
    prefix: Option<&str>,
) -> Result<Probed, ExitReason> {
    let mut options = LockOptions::builder().ttl(TTL).label("dlock doctor");
    if let Some(prefix) = prefix {
        options = options.key_prefix(prefix);
    }
    let store = Store::new(Arc::clone(datastore));
    let lock = Lock::with_options(store, NAME, options).map_err(|error| {
        let message = format!("cannot try a lock: {}", escaped(&error.to_string()));
        ExitReason::new(exit_code::USAGE, message)
    })?;
    let findings = match lock.acquire_within(WITHIN) {
        Ok(guard) => hand_over(&lock, guard).err(),
        // Somebody else tries: it works.
        Err(AcquireError::Held(_)) => None,
        Err(error) => Some(not_done("acquired", &error)),
    };
    Ok(Probed {
        findings: findings.into_iter().collect(),
        answers_in: answers_in(&lock),
    })
}

/// Has a second claimant wait for the lock, and releases it.
fn hand_over(lock: &Lock, guard: LockGuard) -> Result<(), Finding> {
    thread::scope(|scope| {
        let waiter = thread::Builder::new().spawn_scoped(scope, || lock.acquire_within(WITHIN));
        let waiter = waiter.map_err(|error| {
            Finding::warning(
                format!("no thread could be started: {error}"),
                "whether a lock is handed to a waiter was not tried",
                "raise the limit of processes of this user",
            )
        })?;
        let end = Instant::now() + ENTERS_WITHIN;
        while Instant::now() < end && !waiter.is_finished() && !has_waiter(lock) {
            thread::sleep(LOOK_EVERY);
        }
        let released = guard.release();
        // Its panic would be this command's own mistake.
        let next = waiter.join().map_err(|_| panicked())?;
        released.map_err(|error| not_released(&error))?;
        match next {
            Ok(next) => next.release().map_err(|error| not_released(&error)),
            Err(AcquireError::Held(_)) => Ok(()),
            Err(error) => Err(not_done("waited for", &error)),
        }
    })
}

/// Whether the second claimant is in the queue; `true` if the store does not count.
fn has_waiter(lock: &Lock) -> bool {
    let inspect = lock.datastore().inspect();
    inspect.is_none_or(|inspect| inspect.waiting(lock.key()).map_or(true, |count| count > 0))
}

/// How long one question takes, over a connection that is open.
fn answers_in(lock: &Lock) -> Option<Duration> {
    let inspect = lock.datastore().inspect()?;
    inspect.holder(lock.key()).ok()?;
    let begun = Instant::now();
    inspect.holder(lock.key()).ok()?;
    Some(begun.elapsed())
}

fn panicked() -> Finding {
    Finding::warning(
        "waiting for a lock failed in an unexpected way",
        "whether a lock is handed to a waiter is not known",
        "report it as a bug of dlock",
    )
}

fn not_released(error: &ReleaseError) -> Finding {
    Finding::danger(
        format!("a lock could not be released: {}", with_causes(error)),
        "it stays taken until its lease ends",
        match error {
            ReleaseError::NotReleased(error) | ReleaseError::Unknown(error) => remedy(error),
            _ => AS_IT_SAYS,
        },
    )
}

fn not_done(what: &str, error: &AcquireError) -> Finding {
    Finding::danger(
        format!("a lock could not be {what}: {}", with_causes(error)),
        "no job that needs a lock in this store runs",
        match error {
            AcquireError::Datastore(error) => remedy(error),
            _ => AS_IT_SAYS,
        },
    )
}

const AS_IT_SAYS: &str = "as the message says; the page on troubleshooting has more";

fn remedy(error: &DatastoreError) -> &'static str {
    match error.kind() {
        ErrorKind::Unreachable | ErrorKind::Timeout => {
            "check the address, the network, the firewall, and whether the server runs"
        }
        ErrorKind::Refused => {
            "the store's own words say what it lacks: a right, memory, space on its disk, or the \
             role of a primary; the page on troubleshooting has each of them"
        }
        _ => AS_IT_SAYS,
    }
}
