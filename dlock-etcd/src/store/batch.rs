//! Many extends at a time: each takes three requests, and the disks of the cluster carry out those
//! of several connections together.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use dlock_core::{Datastore, DatastoreError, ErrorKind, Extension, Lease};

use super::EtcdDatastore;

/// How many are under way at a time.
pub(crate) const BATCH: usize = 8;

type Answer = Result<Extension, DatastoreError>;

impl EtcdDatastore {
    /// Extends the leases on this thread and on a few that end with the call.
    pub(super) fn extend_side_by_side(&self, leases: &[(Lease, Duration)]) -> Vec<Answer> {
        let answers: Vec<_> = leases.iter().map(|_| Mutex::new(None)).collect();
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some((lease, ttl)) = leases.get(at) else {
                    return;
                };
                let answer = self.extend(lease, *ttl);
                *answers[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
            }
        };
        thread::scope(|scope| {
            for _ in 1..BATCH.min(leases.len()) {
                let thread = thread::Builder::new().name("dlock-extend".to_owned());
                // Without it the others have more to do.
                if thread.spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        let answers = answers.into_iter().map(Mutex::into_inner);
        answers
            .map(|answer| answer.unwrap_or_else(PoisonError::into_inner))
            .map(|answer| answer.unwrap_or_else(not_asked))
            .collect()
    }
}

fn not_asked() -> Answer {
    Err(DatastoreError::not_executed(
        ErrorKind::Protocol,
        "the lease was not extended",
    ))
}
