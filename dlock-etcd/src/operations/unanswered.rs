//! Claims that were sent and not answered, and may yet be carried out.
//!
//! A claim takes the key by a transaction with a lease that was granted before. A late copy of that
//! transaction takes the key too, as long as there is the lease. So no two requests grant a lease
//! with the same number: once it was ended it never comes back, and a late request to end it ends
//! nothing else. A claim that is given up loses the leases with which it was sent.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use dlock_core::{DatastoreError, OwnerToken, ProcessId};

/// How many are remembered. Beyond that the oldest is forgotten. If that claim is given up and a
/// copy of it arrives late, the copy holds the key until its lease ends by itself.
const KEPT: usize = 10_000;

/// The unanswered claims of a store. A forked child has its own.
pub(crate) struct Unanswered {
    claims: Mutex<VecDeque<Entry>>,
    pid: ProcessId,
    child: OnceLock<Box<Unanswered>>,
}

/// A claim that takes or keeps the key with this lease.
#[derive(Clone, Copy)]
struct Entry {
    owner: OwnerToken,
    lease: i64,
}

/// A claim that is being sent. If this is dropped, the claim stays unanswered.
#[derive(Clone, Copy)]
pub(super) struct Sent<'a> {
    unanswered: &'a Unanswered,
    lease: i64,
}

impl Default for Unanswered {
    fn default() -> Self {
        Unanswered {
            claims: Mutex::default(),
            pid: ProcessId::current(),
            child: OnceLock::new(),
        }
    }
}

impl Unanswered {
    /// A claim of this owner with this lease is about to be sent.
    pub(super) fn add(&self, owner: OwnerToken, lease: i64) -> Sent<'_> {
        let mut claims = self.claims();
        if claims.len() == KEPT {
            claims.pop_front();
        }
        claims.push_back(Entry { owner, lease });
        drop(claims);
        Sent {
            unanswered: self,
            lease,
        }
    }

    /// The claim with this lease was carried out, or cannot be any more.
    pub(super) fn remove(&self, lease: i64) {
        let mut claims = self.claims();
        // Most are answered soon.
        if let Some(at) = claims.iter().rposition(|claim| claim.lease == lease) {
            claims.remove(at);
        }
    }

    /// The leases with which claims of this owner may yet be carried out.
    pub(super) fn leases_of(&self, owner: OwnerToken) -> Vec<i64> {
        let claims = self.claims();
        let of_owner = claims.iter().filter(|claim| claim.owner == owner);
        of_owner.map(|claim| claim.lease).collect()
    }

    fn claims(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        if self.pid != ProcessId::current() {
            // The inherited mutex may be locked for ever.
            return self.child.get_or_init(Box::default).claims();
        }
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sent<'_> {
    pub(super) fn lease(self) -> i64 {
        self.lease
    }

    pub(super) fn answered(self) {
        self.unanswered.remove(self.lease);
    }

    /// The claim failed. Unless it may have been carried out, it cannot be any more.
    pub(super) fn failed(self, error: DatastoreError) -> DatastoreError {
        if !error.may_have_executed() {
            self.answered();
        }
        error
    }
}

/// By hand, since it would have to lock the mutex.
impl fmt::Debug for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unanswered").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_owner_has_the_leases_of_its_unanswered_claims() {
        let unanswered = Unanswered::default();
        let [one, other] = [(); 2].map(|()| OwnerToken::random().unwrap());
        for (owner, lease) in [(one, 1), (other, 2), (one, 3)] {
            unanswered.add(owner, lease);
        }
        assert_eq!(unanswered.leases_of(one), [1, 3]);
        unanswered.remove(1);
        unanswered.remove(1);
        assert_eq!(unanswered.leases_of(one), [3]);
        assert_eq!(unanswered.leases_of(other), [2]);
    }

    #[test]
    fn the_oldest_are_forgotten_if_there_are_too_many() {
        let unanswered = Unanswered::default();
        let owner = OwnerToken::random().unwrap();
        let all: Vec<_> = (1..).take(KEPT + 2).collect();
        for lease in &all {
            unanswered.add(owner, *lease);
        }
        assert_eq!(unanswered.leases_of(owner), all[2..]);
    }
}
