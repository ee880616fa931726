//! Makes [`LockOptions`] from setters or from a file.

use std::time::Duration;

use crate::options::{LockOptions, OptionsError};
use crate::time::backoff::Backoff;

/// Makes [`LockOptions`], whose methods describe each option.
///
/// With the feature `serde` a builder can be read from a file too. Then a program can set more
/// options before they are checked, from its command line for example.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(deny_unknown_fields, default)
)]
pub struct LockOptionsBuilder {
    pub(super) key_prefix: String,
    #[cfg_attr(
        feature = "serde",
        serde(
            with = "crate::duration::serde_option",
            skip_serializing_if = "Option::is_none"
        )
    )]
    pub(super) ttl: Option<Duration>,
    pub(super) renew: bool,
    #[cfg_attr(
        feature = "serde",
        serde(
            with = "crate::duration::serde_option",
            skip_serializing_if = "Option::is_none"
        )
    )]
    pub(super) min_hold: Option<Duration>,
    #[cfg_attr(
        feature = "serde",
        serde(
            with = "crate::duration::serde_option",
            skip_serializing_if = "Option::is_none"
        )
    )]
    pub(super) max_hold: Option<Duration>,
    #[cfg_attr(
        feature = "serde",
        serde(
            with = "crate::duration::serde_option",
            skip_serializing_if = "Option::is_none"
        )
    )]
    pub(super) grace: Option<Duration>,
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub(super) label: Option<String>,
    pub(super) retry: Backoff,
}

impl Default for LockOptionsBuilder {
    fn default() -> Self {
        LockOptionsBuilder {
            key_prefix: "dlock".to_owned(),
            ttl: None,
            renew: true,
            min_hold: None,
            max_hold: None,
            grace: None,
            label: None,
            retry: Backoff::default(),
        }
    }
}

impl LockOptionsBuilder {
    /// With this [`key_prefix`](LockOptions::key_prefix).
    #[must_use]
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// With this [`ttl`](LockOptions::ttl). Choose it by the longest outage of the store that a job
    /// must survive: a little more than half of it is always left.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// With or without [`renew`](LockOptions::renew)al.
    #[must_use]
    pub fn renew(mut self, renew: bool) -> Self {
        self.renew = renew;
        self
    }

    /// With this [`min_hold`](LockOptions::min_hold), which absorbs clock differences between
    /// servers that start the same job.
    #[must_use]
    pub fn min_hold(mut self, min_hold: Duration) -> Self {
        self.min_hold = Some(min_hold);
        self
    }

    /// With this [`max_hold`](LockOptions::max_hold).
    #[must_use]
    pub fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = Some(max_hold);
        self
    }

    /// With this [`grace`](LockOptions::grace), at most half of the longest lease.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// With this [`label`](LockOptions::label).
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// With pauses that start at `initial`, at least 1 ms, and double up to `max`: see
    /// [`retry`](LockOptions::retry).
    #[must_use]
    pub fn retry(mut self, initial: Duration, max: Duration) -> Self {
        self.retry = Backoff::new(initial, max);
        self
    }

    /// The options.
    ///
    /// # Errors
    ///
    /// An option that contradicts another, or that no store can take. What one store cannot take is
    /// the error of [`Lock::with_options`](crate::Lock::with_options).
    pub fn build(self) -> Result<LockOptions, OptionsError> {
        let options = LockOptions(self);
        options.check().map(|()| options)
    }
}

impl TryFrom<LockOptionsBuilder> for LockOptions {
    type Error = OptionsError;

    fn try_from(builder: LockOptionsBuilder) -> Result<Self, OptionsError> {
        builder.build()
    }
}

/// To make other options of these.
impl From<LockOptions> for LockOptionsBuilder {
    fn from(options: LockOptions) -> Self {
        options.0
    }
}
