//! The pauses between two tries.

use std::time::Duration;

/// How a waiter polls where the store cannot wake it: with pauses that double up to a longest one.
///
/// Each pause is shortened by a random part of up to half, so that waiters do not come together.
/// [`LockOptions::builder`](crate::LockOptions::builder) sets and checks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct Backoff {
    #[cfg_attr(feature = "serde", serde(with = "crate::duration::serde"))]
    initial: Duration,
    #[cfg_attr(feature = "serde", serde(with = "crate::duration::serde"))]
    max: Duration,
}

impl Backoff {
    /// Pauses that start at `initial` and double up to `max`.
    pub(crate) const fn new(initial: Duration, max: Duration) -> Self {
        Backoff { initial, max }
    }

    /// The first pause. Default 10 ms.
    pub const fn initial(self) -> Duration {
        self.initial
    }

    /// The longest pause. Default 250 ms.
    pub const fn max(self) -> Duration {
        self.max
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff::new(Duration::from_millis(10), Duration::from_millis(250))
    }
}
