//! What a store grants, and what it is given back.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Claim, Clock, Extension, OwnerToken, Time};

/// A number that strictly increases from grant to grant of a key, within the scope that the store states.
///
/// The guarded resource keeps the highest it has seen and rejects a lower one: that stops a holder which was paused
/// past the end of its lease and does not know it yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The token with this number.
    pub const fn new(number: u64) -> Self {
        FencingToken(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whatever a store wants to be given back with a lease: a compare-and-set number, a session, nothing.
#[derive(Clone, Default)]
pub struct Revision(Option<Arc<dyn Any + Send + Sync>>);

impl Revision {
    /// Nothing; costs nothing.
    pub const NONE: Revision = Revision(None);

    /// This value; costs one allocation.
    pub fn new<T: Any + Send + Sync>(value: T) -> Self {
        Revision(Some(Arc::new(value)))
    }

    /// The value, if it is one of this type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0
            .as_deref()
            .and_then(|value| (value as &dyn Any).downcast_ref())
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Revision(..)"
        } else {
            "Revision::NONE"
        })
    }
}

/// What a store answers to a claim that won, or to an extend.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Grant {
    /// The fencing token; `None` from a store that has none.
    pub fence: Option<FencingToken>,
    /// How long the store keeps the key from the moment it ran the call, at least.
    pub ttl: Duration,
    /// What the store wants to be given back.
    pub revision: Revision,
    /// Whether a copy of the claim may yet be carried out: sent on a connection that broke, which the store tells, or in a call that was not
    /// answered, which core adds. After an early release it would take the key again; core sees to that.
    pub copy_may_follow: bool,
}

impl Grant {
    /// A grant of `ttl` without fencing token or revision.
    pub fn new(ttl: Duration) -> Self {
        Grant {
            fence: None,
            ttl,
            revision: Revision::NONE,
            copy_may_follow: false,
        }
    }

    /// The same with a fencing token.
    #[must_use]
    pub fn with_fence(mut self, fence: FencingToken) -> Self {
        self.fence = Some(fence);
        self
    }

    /// The same, saying whether a [copy of the claim](Self::copy_may_follow) may yet be carried out.
    #[must_use]
    pub fn with_copy_to_follow(mut self, may_follow: bool) -> Self {
        self.copy_may_follow = may_follow;
        self
    }

    /// The same with a revision.
    #[must_use]
    pub fn with_revision(mut self, revision: Revision) -> Self {
        self.revision = revision;
        self
    }
}

/// A claim and its latest grant: what a store is given back to extend or to release.
///
/// They come as one value so that nobody can put one claim beside the grant of another.
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
            claim: self.claim.clone().until(not_after),
            grant: self.grant.clone(),
            sequence,
        }
    }

    /// The same lease with a new description of its holder.
    #[must_use]
    pub fn with_holder(mut self, text: impl Into<Arc<str>>) -> Self {
        self.claim = self.claim.with_holder(text);
        self
    }

    /// The same lease after a further grant. The first fencing token stays: an extension cannot change it.
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

    /// Who holds it.
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

    /// What the store put in the latest grant's [`Revision`], if it is of this type.
    pub fn revision<T: Any>(&self) -> Option<&T> {
        self.grant.revision.get()
    }

    /// The number of this call. Calls of one lease are numbered upwards in the order in which core *sends* them; they may
    /// arrive in another. A store keeps the highest it saw and lets a lower or equal one change nothing.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The end of *this call* on [`clock`](Self::clock), see [`Claim::not_after`].
    pub fn not_after(&self) -> Time {
        self.claim.not_after()
    }

    /// How long this call may still take.
    pub fn time_left(&self) -> Duration {
        self.claim.time_left()
    }

    /// The clock that the lease's times are read on. What it shows means nothing after the machine was started again: see [`Time`].
    pub fn clock(&self) -> &Clock {
        self.claim.clock()
    }

    /// The answer "extended": this lease's grant, now for `ttl`.
    pub fn extended(&self, ttl: Duration) -> Extension {
        Extension::Extended(Grant {
            ttl,
            ..self.grant.clone()
        })
    }

    /// The answer "extended" if `done`, else "lost".
    pub fn extended_if(&self, done: bool, ttl: Duration) -> Extension {
        if done {
            self.extended(ttl)
        } else {
            Extension::Lost
        }
    }
}

/// How much of a granted time is not relied on: clocks do not run at quite the same pace.
///
/// `ttl / 100 + 2 ms`, as in the Redlock description of Redis.
pub fn drift(ttl: Duration) -> Duration {
    ttl / 100 + Duration::from_millis(2)
}

/// Until when a grant is valid on our clock: counted from *before* the request was sent.
pub(crate) fn valid_until(sent: Time, granted: Duration) -> Time {
    sent.saturating_add(granted).saturating_sub(drift(granted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn lease(grant: Grant) -> Lease {
        let clock = crate::FakeClock::new().clock();
        Lease::new(Claim::new("dlock:x", &clock, TTL).unwrap(), grant)
    }

    #[test]
    fn a_lease_gives_back_what_was_claimed_and_granted() {
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

    #[test]
    fn a_hundredth_and_two_milliseconds_of_a_lease_are_not_relied_on() {
        assert_eq!(drift(TTL), Duration::from_millis(302));
        let sent = Time::from_nanos(1_000_000_000);
        assert_eq!(
            sent.until(valid_until(sent, TTL)),
            Duration::from_millis(29_698)
        );
    }
}
