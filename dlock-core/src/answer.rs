//! What a store answers. All of them must be looked at: a refusal that is dropped reads like success.

use std::fmt;
use std::time::Duration;

use crate::{FencingToken, Grant, Holder};

/// The answer to a claim.
#[derive(Debug, Clone)]
#[must_use = "a claim may have been refused"]
pub enum Attempt {
    /// The key is the claimant's.
    Granted(Grant),
    /// Somebody else holds it; nothing was changed.
    Held(Held),
}

impl Attempt {
    /// Granted for `ttl`, which is what the store [keeps](Grant::ttl), under a fencing token.
    pub fn granted(ttl: Duration, fence: FencingToken) -> Self {
        Attempt::Granted(Grant::new(ttl).with_fence(fence))
    }

    /// Held by somebody for at most `expires_in`.
    pub fn held(expires_in: Duration) -> Self {
        Attempt::Held(Held::new().with_expires_in(expires_in))
    }
}

/// The answer to an extend.
#[derive(Debug, Clone)]
#[must_use = "the lease may be lost"]
pub enum Extension {
    /// The lease goes on as the grant says.
    Extended(Grant),
    /// The claim does not hold the key any more. Nothing was changed.
    Lost,
}

/// The answer to a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the lease may have been lost before"]
pub enum Released {
    /// The claim held the key and does not now.
    Ours,
    /// The claim did not hold the key. Nothing was changed.
    NotOurs,
}

impl From<bool> for Released {
    fn from(ours: bool) -> Self {
        if ours {
            Released::Ours
        } else {
            Released::NotOurs
        }
    }
}

/// A refusal: who holds the key, and how long at the most.
///
/// Everything in it was true when the store answered and may be stale now; that is why dlock has no `is_locked`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Held(Box<Facts>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Facts {
    holder: Option<Holder>,
    expires_in: Option<Duration>,
    fence: Option<FencingToken>,
    retry_in: Option<Duration>,
}

impl Held {
    /// Held by somebody of whom nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with the time after which the key is free if its holder does nothing.
    #[must_use]
    pub fn with_expires_in(mut self, expires_in: Duration) -> Self {
        self.0.expires_in = Some(expires_in);
        self
    }

    /// The same with the holder's stored text ([`Claim::holder`](crate::Claim::holder)). One that dlock did not write leaves the
    /// holder unknown.
    #[must_use]
    pub fn with_holder_text(mut self, text: &str) -> Self {
        self.0.holder = Holder::from_text(text);
        self
    }

    /// The same with the holder's fencing token.
    #[must_use]
    pub fn with_fence(mut self, fence: FencingToken) -> Self {
        self.0.fence = Some(fence);
        self
    }

    /// The same with the time after which this claimant should ask again; shorter or longer than the holder's lease.
    #[must_use]
    pub fn with_retry_in(mut self, retry_in: Duration) -> Self {
        self.0.retry_in = Some(retry_in);
        self
    }

    /// Who holds the key; `None` if the record is not dlock's.
    pub fn holder(&self) -> Option<&Holder> {
        self.0.holder.as_ref()
    }

    /// After how long the key is free if its holder does nothing; `None` if the store does not say.
    pub fn expires_in(&self) -> Option<Duration> {
        self.0.expires_in
    }

    /// The holder's fencing token, if the store has one.
    pub fn fence(&self) -> Option<FencingToken> {
        self.0.fence
    }

    /// When this claimant should ask again, if the store knows better than [`expires_in`](Self::expires_in).
    pub fn retry_in(&self) -> Option<Duration> {
        self.0.retry_in
    }
}

/// "held by web-3 pid 4121 since 12:04:31 UTC, at most 23 s more"
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.holder {
            Some(holder) => write!(f, "held by {holder}")?,
            None => f.write_str("held by an unknown holder")?,
        }
        if let Some(left) = self.0.expires_in {
            // Rounded up: "at most" must be true.
            write!(f, ", at most {} s more", left.as_millis().div_ceil(1000))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_somebody_else_is_an_unknown_holder() {
        let held = Held::new()
            .with_holder_text("some other library")
            .with_expires_in(Duration::from_millis(22_001));
        assert_eq!(
            held.to_string(),
            "held by an unknown holder, at most 23 s more"
        );
        assert_eq!(Held::new().to_string(), "held by an unknown holder");
    }

    #[test]
    fn a_refusal_keeps_all_that_it_was_told() {
        let text = "dlock1 web-3 4121 00000000000000aa 1764000271000 running";
        let (soon, later) = (Duration::from_secs(1), Duration::from_secs(2));
        let held = Held::new()
            .with_holder_text(text)
            .with_expires_in(soon)
            .with_fence(FencingToken::new(7))
            .with_retry_in(later);
        assert_eq!(held.holder().map(Holder::to_text).as_deref(), Some(text));
        assert_eq!(held.expires_in(), Some(soon));
        assert_eq!(held.fence(), Some(FencingToken::new(7)));
        assert_eq!(held.retry_in(), Some(later));
    }
}
