//! What a store grants.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::time::instant::Time;

/// A number that strictly increases from grant to grant of a key, within the
/// [scope](crate::Fencing) that the store declares.
///
/// The guarded resource keeps the highest token that it has received and rejects a lower one. That
/// stops a holder that was paused past the end of its lease and does not know it yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(transparent)
)]
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

impl From<FencingToken> for u64 {
    fn from(token: FencingToken) -> Self {
        token.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A store's own value that comes back with the lease: a compare-and-set number, a session, or
/// nothing.
#[derive(Clone, Default)]
pub struct Revision(Option<Arc<dyn Any + Send + Sync>>);

impl Revision {
    /// No value, and no allocation.
    pub const NONE: Revision = Revision(None);

    /// This value, in one allocation.
    pub fn new<T: Any + Send + Sync>(value: T) -> Self {
        Revision(Some(Arc::new(value)))
    }

    /// The value, if it is of this type.
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

/// The answer of a store to a claim that won, or to an extend.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Grant {
    /// The fencing token; `None` from a store that has none.
    pub fence: Option<FencingToken>,
    /// The least time for which the store keeps the key, from the moment it ran the call.
    pub ttl: Duration,
    /// The store's own value, which comes back with the lease.
    pub revision: Revision,
    /// Whether a copy of the claim may yet be carried out. A store sets it if it sent the claim
    /// before on a connection that broke; core sets it if an earlier call was not answered. After
    /// an early release such a copy would take the key again; core cleans that up.
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

    /// The same, with whether a [copy of the claim](Self::copy_may_follow) may yet be carried out.
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

/// The part of a granted time that a holder does not rely on, since two clocks do not run at
/// exactly the same pace.
///
/// `ttl / 100 + 2 ms`, as in the Redlock description of Redis.
pub fn drift(ttl: Duration) -> Duration {
    ttl / 100 + Duration::from_millis(2)
}

/// The end of a grant's validity on our clock, counted from *before* the request was sent.
pub(crate) fn valid_until(sent: Time, granted: Duration) -> Time {
    sent.saturating_add(granted).saturating_sub(drift(granted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

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
