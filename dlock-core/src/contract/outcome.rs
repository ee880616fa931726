//! The answers of a store. Each is `#[must_use]`: a refusal that is dropped would read like
//! success.

use std::fmt;
use std::time::Duration;

use crate::contract::grant::{FencingToken, Grant};
use crate::contract::holder::Holder;
use crate::contract::holder::clock_time_in;

/// The answer to a claim.
#[derive(Debug, Clone)]
#[must_use = "a claim may have been refused"]
pub enum AcquireOutcome {
    /// The key is the claimant's.
    Granted(Grant),
    /// Somebody else holds it; nothing was changed.
    Held(HeldBy),
}

impl AcquireOutcome {
    /// Granted for `ttl`, for which the store [keeps](Grant::ttl) the key, with a fencing token.
    pub fn granted(ttl: Duration, fence: FencingToken) -> Self {
        AcquireOutcome::Granted(Grant::new(ttl).with_fence(fence))
    }

    /// Held by somebody for at most `expires_in`.
    pub fn held(expires_in: Duration) -> Self {
        AcquireOutcome::Held(HeldBy::new().with_expires_in(expires_in))
    }
}

/// The answer to an extend.
#[derive(Debug, Clone)]
#[must_use = "the lease may be lost"]
pub enum Extension {
    /// The lease continues as the grant says.
    Extended(Grant),
    /// The claim does not hold the key any more. Nothing was changed.
    Lost,
}

/// The answer to a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the lease may have been lost before"]
pub enum ReleaseOutcome {
    /// The claim held the key, and no longer does.
    Released,
    /// The claim did not hold the key. Nothing was changed.
    NotHeld,
}

impl From<bool> for ReleaseOutcome {
    fn from(ours: bool) -> Self {
        if ours {
            ReleaseOutcome::Released
        } else {
            ReleaseOutcome::NotHeld
        }
    }
}

/// A refusal: who holds the key, and for at most how much longer.
///
/// Everything in it was true when the store answered, and may be stale now. That is why dlock has
/// no `is_locked`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HeldBy(Box<Facts>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Facts {
    holder: Option<Holder>,
    expires_in: Option<Duration>,
    fence: Option<FencingToken>,
    retry_in: Option<Duration>,
}

impl HeldBy {
    /// Held by an unknown holder.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with the time after which the key is free if its holder does nothing.
    #[must_use]
    pub fn with_expires_in(mut self, expires_in: Duration) -> Self {
        self.0.expires_in = Some(expires_in);
        self
    }

    /// The same with the holder's stored text ([`Claim::holder`](crate::Claim::holder)). A text
    /// that dlock did not write leaves the holder unknown.
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

    /// The same with the time after which this claimant should claim again. It may be shorter or
    /// longer than the holder's lease.
    #[must_use]
    pub fn with_retry_in(mut self, retry_in: Duration) -> Self {
        self.0.retry_in = Some(retry_in);
        self
    }

    /// Who holds the key; `None` if dlock did not write the record.
    pub fn holder(&self) -> Option<&Holder> {
        self.0.holder.as_ref()
    }

    /// The time after which the key is free if its holder does nothing; `None` if the store does
    /// not say.
    pub fn expires_in(&self) -> Option<Duration> {
        self.0.expires_in
    }

    /// The holder's fencing token, if the store has one.
    pub fn fence(&self) -> Option<FencingToken> {
        self.0.fence
    }

    /// The time after which this claimant should claim again, if the store knows a better one than
    /// [`expires_in`](Self::expires_in).
    pub fn retry_in(&self) -> Option<Duration> {
        self.0.retry_in
    }
}

/// Prints "held by web-3 pid 4121 since 12:04:31 UTC, at most 23 s more". After a release that left
/// the lock to its `min_hold` it prints "kept until 12:09:31 UTC by the minimum hold time of web-3
/// pid 4121 since 12:04:31 UTC, whose work is over".
impl fmt::Display for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.holder {
            Some(holder) if holder.is_kept() => {
                f.write_str("kept")?;
                if let Some(left) = self.0.expires_in {
                    write!(f, " until {}", clock_time_in(left))?;
                }
                return write!(
                    f,
                    " by the minimum hold time of {holder}, whose work is over"
                );
            }
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

impl fmt::Debug for HeldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts {
            holder,
            expires_in,
            fence,
            retry_in,
        } = &*self.0;
        f.debug_struct("HeldBy")
            .field("holder", holder)
            .field("expires_in", expires_in)
            .field("fence", fence)
            .field("retry_in", retry_in)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_somebody_else_is_an_unknown_holder() {
        let held = HeldBy::new()
            .with_holder_text("some other library")
            .with_expires_in(Duration::from_millis(22_001));
        assert_eq!(
            held.to_string(),
            "held by an unknown holder, at most 23 s more"
        );
        assert_eq!(HeldBy::new().to_string(), "held by an unknown holder");
    }

    #[test]
    fn a_lock_left_to_its_minimum_hold_time_is_reported_as_kept() {
        let text = "dlock1 web-3 4121 00000000000000aa 1764000271000 kept";
        let kept = HeldBy::new().with_holder_text(text);
        let by = "by the minimum hold time of web-3 pid 4121 since 2025-11-24 16:04:31 UTC, \
                  whose work is over";
        assert_eq!(kept.to_string(), format!("kept {by}"));
        let text = kept.with_expires_in(Duration::from_secs(2)).to_string();
        assert!(
            text.starts_with("kept until ") && text.ends_with(by),
            "{text}"
        );
    }

    #[test]
    fn a_refusal_keeps_what_was_set() {
        let text = "dlock1 web-3 4121 00000000000000aa 1764000271000 running";
        let (soon, later) = (Duration::from_secs(1), Duration::from_secs(2));
        let held = HeldBy::new()
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
