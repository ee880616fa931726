//! The renewal worker.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Weak;
use std::time::Duration;

use super::{Inner, Job};
use crate::callback::Callback;
use crate::held_lease::{After, HeldLease};
use crate::store::Shared;
use crate::{DatastoreError, ErrorKind, Extension, Lease, LockEvent, Time};

pub(super) fn run(inner: &Inner, store: &Weak<Shared>) {
    loop {
        if inner.state().stopped {
            return;
        }
        let Some(store) = store.upgrade() else { return };
        let Some(batch) = next_batch(inner, store.characteristics().batch.max(1)) else {
            // Not across the sleep: the store ends with its last handle, which must not be this one.
            drop(store);
            inner.clock.stand_by(&inner.work, Time::MAX);
            continue;
        };
        let mut callbacks = Vec::new();
        let jobs = match batch {
            Batch::Extends(jobs) => {
                extend(&store, &jobs, &mut callbacks);
                jobs
            }
            Batch::Confirm(job) => {
                confirm(&store, &job, &mut callbacks);
                vec![job]
            }
        };
        inner.call(callbacks);
        let mut state = inner.state();
        for Job { ticket, lease, .. } in &jobs {
            inner.look_at(&mut state, *ticket, lease.next_look());
        }
    }
}

enum Batch {
    Extends(Vec<Job>),
    Confirm(Job),
}

/// The oldest extends, as many as the store takes at once, or the oldest confirmation. In turn, so that neither kind starves the other.
fn next_batch(inner: &Inner, most: usize) -> Option<Batch> {
    let mut state = inner.state();
    let confirm = !state.confirms.is_empty() && (state.confirm_next || state.extends.is_empty());
    state.confirm_next = !confirm;
    if confirm {
        return state.confirms.pop_front().map(Batch::Confirm);
    }
    let most = most.min(state.extends.len());
    let extends: Vec<Job> = state.extends.drain(..most).collect();
    (!extends.is_empty()).then_some(Batch::Extends(extends))
}

fn extend(store: &Shared, jobs: &[Job], callbacks: &mut Vec<Callback>) {
    let mut sent_jobs = Vec::with_capacity(jobs.len());
    let mut calls: Vec<(Lease, Duration)> = Vec::with_capacity(jobs.len());
    for job in jobs {
        if let Some(call) = job.lease.send() {
            calls.push(call);
            sent_jobs.push(job);
        }
    }
    let Some(sent) = sent_jobs.first().map(|job| job.lease.clock().now()) else {
        return;
    };
    let answers = guarded(|| store.datastore().extend_many(&calls)).unwrap_or_default();
    let mut answers = answers.into_iter();
    for (job, (_, ttl)) in sent_jobs.into_iter().zip(&calls) {
        let answer = answers.next().unwrap_or_else(no_answer);
        let after = job.lease.extended(sent, *ttl, &answer, callbacks);
        tell(store, &job.lease, &answer, &after);
        if after == After::Orphaned {
            release_orphan(store, &job.lease);
        }
    }
}

fn confirm(store: &Shared, job: &Job, callbacks: &mut Vec<Callback>) {
    let Some(lease) = job.lease.send_confirm() else {
        return;
    };
    let sent = job.lease.clock().now();
    let answer = guarded(|| store.datastore().confirm(&lease)).unwrap_or_else(no_answer);
    let _: After = job.lease.confirmed(sent, &answer, callbacks);
}

/// A lease that the store extended after it was declared lost: nobody believes in it, so nobody else should wait for it.
fn release_orphan(store: &Shared, lease: &HeldLease) {
    if let Some(lease) = lease.for_orphan() {
        // If that fails too, the lease ends by itself.
        let _ = guarded(|| store.datastore().release(&lease));
    }
}

fn tell(
    store: &Shared,
    lease: &HeldLease,
    answer: &Result<Extension, DatastoreError>,
    after: &After,
) {
    if !store.is_observed() {
        return;
    }
    let key = &**lease.key();
    let _ = guarded(|| match (answer, after) {
        (Ok(_), After::Valid(remaining)) => {
            store.tell(&LockEvent::Renewed {
                key,
                remaining: *remaining,
            });
        }
        (Err(error), After::Valid(_)) => store.tell(&LockEvent::RenewalFailed { key, error }),
        _ => {}
    });
}

/// Runs code that is not ours. If it panics, the other leases of the store must still be renewed.
fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

fn no_answer() -> Result<Extension, DatastoreError> {
    Err(DatastoreError::maybe_executed(
        ErrorKind::Protocol,
        "the store panicked or gave no answer",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::Keeper;
    use crate::{Lock, MemoryDatastore, Store};
    use std::sync::Arc;

    /// The order of so many jobs that wait, in which each `c` is a confirmation and each number a batch of at most two extends.
    fn order(extends: usize, confirms: usize) -> String {
        let store = Store::new(MemoryDatastore::new());
        let _guard = Lock::new(&store, "job").try_acquire().unwrap();
        let kept = &store.keeper().0.state().kept;
        let (ticket, kept) = kept.iter().next().unwrap();
        let lease = kept.lease.upgrade().unwrap();
        let jobs = |count| {
            (0..count).map(|_| Job {
                ticket: *ticket,
                lease: Arc::clone(&lease),
            })
        };

        let keeper = Keeper::new(store.clock());
        keeper.0.state().extends.extend(jobs(extends));
        keeper.0.state().confirms.extend(jobs(confirms));
        let batches = std::iter::from_fn(|| next_batch(&keeper.0, 2));
        batches
            .map(|batch| match batch {
                Batch::Extends(jobs) => jobs.len().to_string(),
                Batch::Confirm(_) => "c".to_owned(),
            })
            .collect()
    }

    #[test]
    fn extends_and_confirmations_take_turns_until_none_is_left() {
        assert_eq!(order(5, 0), "221");
        assert_eq!(order(0, 3), "ccc");
        assert_eq!(order(5, 2), "2c2c1");
        assert_eq!(order(3, 4), "2c1ccc");
    }
}
