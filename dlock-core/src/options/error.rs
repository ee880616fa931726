//! Errors in options.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::duration;

/// Options, an id, a job or a clock that cannot work.
#[derive(Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// A time outside what the store, or another option, allows.
    #[error(
        "{option} {} is outside {} to {}",
        duration::format(*value), duration::format(*least), duration::format(*most)
    )]
    OutOfRange {
        /// Which option.
        option: OptionName,
        /// What it was.
        value: Duration,
        /// The least that is possible.
        least: Duration,
        /// The most that is possible.
        most: Duration,
    },
    /// An empty text.
    #[error("{option} is empty; give it a name")]
    Empty {
        /// Which text: [`OptionName::Id`] or [`OptionName::Job`].
        option: OptionName,
    },
    /// [`StoreBuilder::clock`](crate::StoreBuilder::clock) was given another clock than the
    /// datastore's own.
    #[error(
        "the datastore counts leases on a clock of its own: leave out the clock of the store, or give it the same one"
    )]
    Clocks,
}

/// The text of [`Display`](fmt::Display): what a `main` prints that returns the error.
impl fmt::Debug for OptionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The option that an [`OptionsError`] is about. A program can map it to a name of its own: a flag,
/// an environment variable, a field of a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OptionName {
    /// The lock's id.
    Id,
    /// [`LockOptions::ttl`](crate::LockOptions::ttl).
    Ttl,
    /// [`LockOptions::min_hold`](crate::LockOptions::min_hold).
    MinHold,
    /// [`LockOptions::max_hold`](crate::LockOptions::max_hold).
    MaxHold,
    /// [`LockOptions::grace`](crate::LockOptions::grace).
    Grace,
    /// [`Backoff::initial`](crate::Backoff::initial).
    RetryInitial,
    /// [`Backoff::max`](crate::Backoff::max).
    RetryMax,
    /// The job of [`Lock::once`](crate::Lock::once).
    Job,
    /// How long [`Lock::once`](crate::Lock::once) remembers the job.
    Keep,
}

impl OptionName {
    /// The name that messages and configuration files use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Id => "the lock's id",
            Self::Ttl => "ttl",
            Self::MinHold => "min_hold",
            Self::MaxHold => "max_hold",
            Self::Grace => "grace",
            Self::RetryInitial => "retry.initial",
            Self::RetryMax => "retry.max",
            Self::Job => "the job",
            Self::Keep => "keep",
        }
    }

    /// Refuses a `value` of this option that is not `least` to `most`.
    pub(crate) fn check(
        self,
        value: Duration,
        least: Duration,
        most: Duration,
    ) -> Result<(), OptionsError> {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        Err(OptionsError::OutOfRange {
            option: self,
            value,
            least,
            most,
        })
    }
}

impl fmt::Display for OptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
