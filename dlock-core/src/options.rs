//! The options of a lock.

mod builder;
mod error;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::contract::characteristics::Characteristics;
use crate::time::backoff::Backoff;

pub use builder::LockOptionsBuilder;
pub use error::{OptionName, OptionsError};

/// The id of a lock that was given none, as in PHP dlock.
pub const DEFAULT_ID: &str = "unnamed";

/// The options of a [`Lock`](crate::Lock). A [builder](Self::builder) makes them, and refuses
/// options that contradict each other or that no store can keep.
///
/// With the feature `serde` they can be read from and written to any serde format, with durations
/// as text. Reading goes through the builder, so a wrong file is an error that gives the reason.
///
/// ```
/// use dlock_core::{Lock, LockOptions, MemoryDatastore};
/// use std::time::Duration;
///
/// let options = LockOptions::builder()
///     .key_prefix("billing")
///     .ttl(Duration::from_secs(60))
///     .build()?;
/// let lock = Lock::with_options(MemoryDatastore::new(), "payout", options)?;
/// assert_eq!(lock.key(), "billing:payout");
///
/// let wrong = LockOptions::builder().ttl(Duration::ZERO).build().unwrap_err();
/// assert_eq!(wrong.to_string(), "ttl 0s is outside 10ms to 3650d");
/// # Ok::<(), dlock_core::OptionsError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "LockOptionsBuilder", into = "LockOptionsBuilder")
)]
pub struct LockOptions(LockOptionsBuilder);

impl LockOptions {
    /// Starts with the defaults.
    pub fn builder() -> LockOptionsBuilder {
        LockOptionsBuilder::default()
    }

    /// Stands before the id in the key, with a colon between. Default `dlock`.
    pub fn key_prefix(&self) -> &str {
        &self.0.key_prefix
    }

    /// How long the lock stays taken if its holder dies: the time that each grant and each renewal
    /// asks for. Default 30 s, or the time nearest to that which the store can keep.
    pub fn ttl(&self) -> Duration {
        self.0.ttl.unwrap_or(DEFAULT_TTL)
    }

    /// Whether the lease is renewed in the background while the guard lives, every third of
    /// [`ttl`](Self::ttl). Default yes.
    pub fn renew(&self) -> bool {
        self.0.renew
    }

    /// How long the key stays taken after a grant even if it is released earlier. Default none.
    pub fn min_hold(&self) -> Option<Duration> {
        self.0.min_hold
    }

    /// When the lease ends at the latest, counted from the grant, whatever renewal could do.
    /// Default none.
    pub fn max_hold(&self) -> Option<Duration> {
        self.0.max_hold
    }

    /// How long before the end of the lease [`on_at_risk`](crate::LockGuard::on_at_risk) fires.
    /// Default a sixth of [`ttl`](Self::ttl), or of [`max_hold`](Self::max_hold) where that is
    /// shorter.
    pub fn grace(&self) -> Duration {
        self.0.grace.unwrap_or(self.longest_lease() / 6)
    }

    /// Text shown to processes that are refused, beside host and pid. Default none.
    pub fn label(&self) -> Option<&str> {
        self.0.label.as_deref()
    }

    /// How to poll where the store cannot wake a waiter.
    pub fn retry(&self) -> Backoff {
        self.0.retry
    }

    /// The longest lease that there can be.
    fn longest_lease(&self) -> Duration {
        let ttl = self.ttl();
        self.max_hold().map_or(ttl, |most| most.min(ttl))
    }

    /// The same options in a store with these characteristics: a `ttl` that was not set is one that
    /// the store can keep.
    pub(crate) fn in_store(mut self, store: &Characteristics) -> Self {
        let nearest = DEFAULT_TTL.min(store.ttl_max).max(store.ttl_min);
        self.0.ttl.get_or_insert(nearest);
        self
    }

    /// Checks them against each other and against what any store can keep.
    fn check(&self) -> Result<(), OptionsError> {
        OptionName::Ttl.check(self.ttl(), SHORTEST, LONGEST)?;
        self.check_holds(SHORTEST, LONGEST)?;
        if let (Some(least), Some(most)) = (self.min_hold(), self.max_hold()) {
            OptionName::MinHold.check(least, SHORTEST, most)?;
        }
        let most = self.longest_lease() / 2;
        OptionName::Grace.check(self.grace(), Duration::ZERO, most)?;
        let (initial, max) = (self.retry().initial(), self.retry().max());
        OptionName::RetryInitial.check(initial, Duration::from_millis(1), LONGEST)?;
        OptionName::RetryMax.check(max, initial, LONGEST)
    }

    /// Checks them against what a store with these characteristics can keep.
    pub(crate) fn check_for(&self, store: &Characteristics) -> Result<(), OptionsError> {
        OptionName::Ttl.check(self.ttl(), store.ttl_min, store.ttl_max)?;
        self.check_holds(store.ttl_min, store.ttl_max)?;
        // The default of `ttl` depends on the store, and the others on `ttl`.
        self.check()
    }

    fn check_holds(&self, least: Duration, most: Duration) -> Result<(), OptionsError> {
        let holds = [
            (OptionName::MinHold, self.min_hold()),
            (OptionName::MaxHold, self.max_hold()),
        ];
        holds.into_iter().try_for_each(|(option, hold)| {
            hold.map_or(Ok(()), |hold| option.check(hold, least, most))
        })
    }
}

const DEFAULT_TTL: Duration = Duration::from_secs(30);
const SHORTEST: Duration = Duration::from_millis(10);
/// Ten years: what no deadline arithmetic overflows at.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);
