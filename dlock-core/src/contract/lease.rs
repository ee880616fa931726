//! The lease that core passes back to the store that granted it.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use crate::contract::claim::{Claim, OwnerToken};
use crate::contract::grant::{FencingToken, Grant};
use crate::contract::outcome::Extension;
use crate::time::clock::Clock;
use crate::time::instant::Time;

/// A claim and its latest grant: the argument of an extend or a release.
///
/// They are one value so that a claim cannot be paired with the grant of another.
#[derive(Clone, Debug)]
pub struct Lease {
    claim: Claim,
    grant: Grant,
    sequence: u64,
}

impl Lease {
    /// The lease of `claim` by `grant`, before its first call.
    pub fn new(claim: Claim, grant: Grant) -> Self {
        Lease {
            claim,
            grant,
            sequence: 0,
        }
    }

    /// The same lease for the call numbered `sequence`, which ends at `not_after`.
    #[must_use]
    pub fn for_call(&self, sequence: u64, not_after: Time) -> Self {
        Lease {
            claim: self.claim.clone().with_not_after(not_after),
            grant: self.grant.clone(),
            sequence,
        }
    }

    /// Turns it into the lease for the call numbered `sequence`, which ends at `not_after`.
    pub(crate) fn renumber(&mut self, sequence: u64, not_after: Time) {
        self.claim.set_not_after(not_after);
        self.sequence = sequence;
    }

    /// The same lease with a new description of its holder.
    #[must_use]
    pub fn with_holder(mut self, text: impl Into<Arc<str>>) -> Self {
        self.claim = self.claim.with_holder(text);
        self
    }

    /// The same lease after a further grant. The first fencing token stays: an extension cannot
    /// change it.
    #[must_use]
    pub fn renewed(&self, grant: Grant) -> Self {
        let fence = self.grant.fence.or(grant.fence);
        Lease {
            claim: self.claim.clone(),
            grant: Grant { fence, ..grant },
            sequence: self.sequence,
        }
    }

    /// The key.
    pub fn key(&self) -> &str {
        self.claim.key()
    }

    /// The owner that holds it.
    pub fn owner(&self) -> OwnerToken {
        self.claim.owner()
    }

    /// The holder description to store with an extend, see [`Claim::holder`].
    pub fn holder(&self) -> &str {
        self.claim.holder()
    }

    /// The fencing token, if the store gave one.
    pub fn fence(&self) -> Option<FencingToken> {
        self.grant.fence
    }

    /// The claim.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// The latest grant.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The value in the latest grant's [`Revision`](crate::Revision), if it is of this type.
    pub fn revision<T: Any>(&self) -> Option<&T> {
        self.grant.revision.get()
    }

    /// The number of this call. Core numbers the calls of one lease upwards in the order in which
    /// it *sends* them; they may arrive in another order. A store keeps the highest number that it
    /// received, and a call with a lower or equal number must change nothing.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The end of *this call* on [`clock`](Self::clock), see [`Claim::not_after`].
    pub fn not_after(&self) -> Time {
        self.claim.not_after()
    }

    /// How long this call may still take, until [`not_after`](Self::not_after).
    pub fn time_left(&self) -> Duration {
        self.claim.time_left()
    }

    /// The clock of the lease's times. Its readings mean nothing after a restart of the machine:
    /// see [`Time`].
    pub fn clock(&self) -> &Clock {
        self.claim.clock()
    }

    /// The answer "extended": this lease's grant with a time to live of `ttl`.
    pub fn extended(&self, ttl: Duration) -> Extension {
        Extension::Extended(Grant {
            ttl,
            ..self.grant.clone()
        })
    }

    /// The answer "extended" if `done`, otherwise "lost".
    pub fn extended_if(&self, done: bool, ttl: Duration) -> Extension {
        if done {
            self.extended(ttl)
        } else {
            Extension::Lost
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::grant::Revision;

    const TTL: Duration = Duration::from_secs(30);

    fn lease(grant: Grant) -> Lease {
        let clock = crate::time::fake_clock::FakeClock::new().clock();
        Lease::new(Claim::new("dlock:x", &clock, TTL).unwrap(), grant)
    }

    #[test]
    fn a_lease_keeps_what_was_claimed_and_granted() {
        let grant = Grant::new(TTL)
            .with_fence(FencingToken::new(7))
            .with_revision(Revision::new(5_u64))
            .with_copy_to_follow(true);
        let lease = lease(grant).with_holder("me");
        assert_eq!(lease.key(), "dlock:x");
        assert_eq!(lease.owner(), lease.claim().owner());
        assert_eq!((lease.holder(), lease.claim().holder()), ("me", "me"));
        assert_eq!(lease.fence().map(FencingToken::get), Some(7));
        assert_eq!(lease.fence().unwrap().to_string(), "7");
        assert!(lease.grant().ttl == TTL && lease.grant().copy_may_follow);
        assert_eq!(lease.revision::<u64>(), Some(&5));
        assert_eq!(lease.revision::<u32>(), None, "of another type");
        assert!(lease.sequence() == 0 && lease.time_left() == TTL);

        let end = lease.not_after().saturating_add(TTL);
        let call = lease.for_call(3, end);
        assert_eq!(
            (call.sequence(), call.not_after(), call.time_left()),
            (3, end, TTL * 2)
        );
        assert_eq!(call.revision::<u64>(), Some(&5));
    }

    #[test]
    fn the_first_fencing_token_of_a_lease_stays() {
        let grant = |number| Grant::new(TTL).with_fence(FencingToken::new(number));
        let first = lease(grant(7)).for_call(3, Time::MAX);
        let renewed = first.renewed(grant(9).with_revision(Revision::new(1_u8)));
        assert_eq!(renewed.fence(), Some(FencingToken::new(7)));
        assert_eq!(renewed.revision::<u8>(), Some(&1), "the rest is new");
        assert_eq!((renewed.sequence(), renewed.owner()), (3, first.owner()));
        let late = lease(Grant::new(TTL)).renewed(grant(9));
        assert_eq!(late.fence(), Some(FencingToken::new(9)));
    }

    #[test]
    fn an_extension_is_the_lease_s_own_grant_for_a_new_time() {
        let grant = Grant::new(TTL).with_fence(FencingToken::new(7));
        let lease = lease(grant.with_revision(Revision::new(5_u64)));
        let Extension::Extended(grant) = lease.extended_if(true, TTL * 2) else {
            panic!("done")
        };
        assert_eq!((grant.ttl, grant.fence), (TTL * 2, lease.fence()));
        assert_eq!(grant.revision.get::<u64>(), Some(&5));
        assert!(matches!(lease.extended_if(false, TTL), Extension::Lost));
    }
}
