//! What a lock can be told.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Characteristics, duration};

/// The id of a lock that was given none, as in PHP dlock.
pub const DEFAULT_ID: &str = "unnamed";

/// What a [`Lock`](crate::Lock) can be told. Reads from and writes to any serde format, with durations as text.
///
/// ```
/// use dlock_core::LockOptions;
/// use std::time::Duration;
///
/// let options = LockOptions::default().with_ttl(Duration::from_secs(60)).with_key_prefix("billing");
/// let same: LockOptions = toml::from_str("ttl = '1m'\nkey_prefix = 'billing'").unwrap();
/// assert_eq!(options, same);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
#[non_exhaustive]
pub struct LockOptions {
    /// Stands before the id in the key, with a colon between. Default `dlock`.
    pub key_prefix: String,
    /// How long a crashed holder bars the others: the time that each grant and each renewal asks for. Default 30 s.
    pub ttl: Duration,
    /// Whether the lease is renewed in the background while the guard lives, every third of [`ttl`](Self::ttl). Default yes.
    pub renew: bool,
    /// How long the key stays taken after a grant even if it is released earlier. Absorbs clock differences between servers
    /// that start the same job. Default none.
    pub min_hold: Option<Duration>,
    /// When the lease ends at the latest, counted from the grant, whatever renewal could do. Default none.
    pub max_hold: Option<Duration>,
    /// How long before the end of the lease [`on_at_risk`](crate::LockGuard::on_at_risk) fires. Default a sixth of
    /// [`ttl`](Self::ttl), or of [`max_hold`](Self::max_hold) where that is shorter.
    pub grace: Option<Duration>,
    /// A word for the people who are refused: shown beside host and pid. Default none.
    pub label: Option<String>,
    /// How to poll where the store cannot wake a waiter.
    pub retry: Backoff,
}

/// How to poll: exponential, with jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Backoff {
    /// The first pause. Default 10 ms.
    #[serde(with = "duration::serde")]
    pub initial: Duration,
    /// The longest pause; each is twice the one before, and a random part of up to half of it is taken off. Default 250 ms.
    #[serde(with = "duration::serde")]
    pub max: Duration,
}

impl Backoff {
    /// Pauses that start at `initial` and double up to `max`.
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Backoff { initial, max }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff::new(Duration::from_millis(10), Duration::from_millis(250))
    }
}

impl Default for LockOptions {
    fn default() -> Self {
        LockOptions {
            key_prefix: "dlock".to_owned(),
            ttl: Duration::from_secs(30),
            renew: true,
            min_hold: None,
            max_hold: None,
            grace: None,
            label: None,
            retry: Backoff::default(),
        }
    }
}

/// Setters that cannot fail: what they set is checked where options and store meet.
impl LockOptions {
    /// With this [`key_prefix`](Self::key_prefix).
    #[must_use]
    pub fn with_key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// With this [`ttl`](Self::ttl).
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// With or without [`renew`](Self::renew)al.
    #[must_use]
    pub fn with_renew(mut self, renew: bool) -> Self {
        self.renew = renew;
        self
    }

    /// With this [`min_hold`](Self::min_hold).
    #[must_use]
    pub fn with_min_hold(mut self, min_hold: Duration) -> Self {
        self.min_hold = Some(min_hold);
        self
    }

    /// With this [`max_hold`](Self::max_hold).
    #[must_use]
    pub fn with_max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = Some(max_hold);
        self
    }

    /// With this [`grace`](Self::grace).
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// With this [`label`](Self::label).
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// With this [`retry`](Self::retry).
    #[must_use]
    pub fn with_retry(mut self, retry: Backoff) -> Self {
        self.retry = retry;
        self
    }

    /// Checks what can be checked without a store.
    ///
    /// # Errors
    ///
    /// An option that contradicts another, or that no store can take.
    pub fn validate(&self) -> Result<(), OptionsError> {
        let ttl = self.ttl;
        between("ttl", ttl, SHORTEST, LONGEST)?;
        for (name, hold) in [("min_hold", self.min_hold), ("max_hold", self.max_hold)] {
            if let Some(hold) = hold {
                between(name, hold, SHORTEST, LONGEST)?;
            }
        }
        if let (Some(least), Some(most)) = (self.min_hold, self.max_hold) {
            between("min_hold", least, SHORTEST, most)?;
        }
        if let Some(grace) = self.grace {
            between("grace", grace, Duration::ZERO, self.longest_lease() / 2)?;
        }
        between(
            "retry.initial",
            self.retry.initial,
            Duration::from_millis(1),
            LONGEST,
        )?;
        between("retry.max", self.retry.max, self.retry.initial, LONGEST)
    }

    /// Checks everything, for a store with these characteristics.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate), or a time that this store cannot keep.
    pub fn validate_for(&self, store: &Characteristics) -> Result<(), OptionsError> {
        self.validate()?;
        between("ttl", self.ttl, store.ttl_min, store.ttl_max)?;
        for (name, hold) in [("min_hold", self.min_hold), ("max_hold", self.max_hold)] {
            if let Some(hold) = hold {
                between(name, hold, store.ttl_min, store.ttl_max)?;
            }
        }
        Ok(())
    }

    /// The longest lease that there can be.
    pub(crate) fn longest_lease(&self) -> Duration {
        self.max_hold.map_or(self.ttl, |most| most.min(self.ttl))
    }

    /// How long before the end of its lease the holder is at risk.
    pub(crate) fn grace_or_default(&self) -> Duration {
        self.grace.unwrap_or(self.longest_lease() / 6)
    }
}

const SHORTEST: Duration = Duration::from_millis(10);
/// Ten years: what no deadline arithmetic overflows at.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

pub(crate) fn between(
    option: &'static str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), OptionsError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(OptionsError::OutOfRange {
        option,
        value,
        least,
        most,
    })
}

/// Options, an id or a job that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OptionsError {
    /// A time outside what the store, or another option, allows.
    #[error(
        "{option} {} is outside {} to {}",
        duration::format(*value), duration::format(*least), duration::format(*most)
    )]
    OutOfRange {
        /// Which option.
        option: &'static str,
        /// What it was.
        value: Duration,
        /// The least that is possible.
        least: Duration,
        /// The most that is possible.
        most: Duration,
    },
    /// An id or a job without a character.
    #[error("{what} is empty; give it a name")]
    Empty {
        /// What was empty: `the lock's id`, `the job`.
        what: &'static str,
    },
}

/// What stands in a file. Its own type, so that unknown fields are refused and what was read is checked.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    key_prefix: String,
    #[serde(with = "duration::serde")]
    ttl: Duration,
    renew: bool,
    #[serde(
        with = "duration::serde_option",
        skip_serializing_if = "Option::is_none"
    )]
    min_hold: Option<Duration>,
    #[serde(
        with = "duration::serde_option",
        skip_serializing_if = "Option::is_none"
    )]
    max_hold: Option<Duration>,
    #[serde(
        with = "duration::serde_option",
        skip_serializing_if = "Option::is_none"
    )]
    grace: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    retry: Backoff,
}

impl Default for Raw {
    fn default() -> Self {
        LockOptions::default().into()
    }
}

impl From<LockOptions> for Raw {
    fn from(options: LockOptions) -> Self {
        let LockOptions {
            key_prefix,
            ttl,
            renew,
            min_hold,
            max_hold,
            grace,
            label,
            retry,
        } = options;
        Raw {
            key_prefix,
            ttl,
            renew,
            min_hold,
            max_hold,
            grace,
            label,
            retry,
        }
    }
}

impl TryFrom<Raw> for LockOptions {
    type Error = OptionsError;

    fn try_from(raw: Raw) -> Result<Self, OptionsError> {
        let Raw {
            key_prefix,
            ttl,
            renew,
            min_hold,
            max_hold,
            grace,
            label,
            retry,
        } = raw;
        let options = LockOptions {
            key_prefix,
            ttl,
            renew,
            min_hold,
            max_hold,
            grace,
            label,
            retry,
        };
        options.validate().map(|()| options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_json_and_toml() {
        let options = LockOptions::default()
            .with_key_prefix("p")
            .with_ttl(Duration::from_millis(1500))
            .with_renew(false)
            .with_min_hold(Duration::from_secs(1))
            .with_max_hold(Duration::from_secs(2))
            .with_grace(Duration::from_millis(5))
            .with_label("nightly")
            .with_retry(Backoff::new(
                Duration::from_millis(2),
                Duration::from_secs(1),
            ));
        let json = serde_json::to_string(&options).unwrap();
        assert_eq!(
            serde_json::from_str::<LockOptions>(&json).unwrap(),
            options,
            "{json}"
        );
        let toml = toml::to_string(&options).unwrap();
        assert_eq!(
            toml::from_str::<LockOptions>(&toml).unwrap(),
            options,
            "{toml}"
        );
        assert_eq!(
            toml::from_str::<LockOptions>("").unwrap(),
            LockOptions::default()
        );
    }

    #[test]
    fn each_setter_sets_its_own_option() {
        let second = Duration::from_secs(1);
        let retry = Backoff::new(second, second * 5);
        let options = LockOptions::default()
            .with_key_prefix("p")
            .with_ttl(second)
            .with_renew(false)
            .with_min_hold(second * 2)
            .with_max_hold(second * 3)
            .with_grace(second * 4)
            .with_label("nightly")
            .with_retry(retry);
        assert_eq!(
            options,
            LockOptions {
                key_prefix: "p".to_owned(),
                ttl: second,
                renew: false,
                min_hold: Some(second * 2),
                max_hold: Some(second * 3),
                grace: Some(second * 4),
                label: Some("nightly".to_owned()),
                retry,
            }
        );
    }

    #[test]
    fn the_grace_is_a_sixth_of_the_longest_lease_unless_it_is_set() {
        let seconds = Duration::from_secs;
        let options = LockOptions::default();
        assert_eq!(options.grace_or_default(), seconds(5));
        let longer = options.clone().with_max_hold(seconds(60));
        assert_eq!(longer.grace_or_default(), seconds(5));
        let shorter = options.with_max_hold(seconds(12));
        assert_eq!(shorter.grace_or_default(), seconds(2));
        assert_eq!(
            shorter.with_grace(seconds(1)).grace_or_default(),
            seconds(1)
        );
    }

    #[test]
    fn a_time_may_be_ten_milliseconds_to_ten_years() {
        let (least, most) = (
            Duration::from_millis(10),
            Duration::from_secs(3650 * 24 * 60 * 60),
        );
        let instant = Duration::from_nanos(1);
        let of = |ttl| LockOptions::default().with_ttl(ttl).validate();
        assert!(of(least).is_ok() && of(most).is_ok());
        assert!(of(least - instant).is_err() && of(most + instant).is_err());
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_reason() {
        for (text, reason) in [
            ("ttl = '0s'", "ttl 0s is outside 10ms to"),
            ("ttl = 30", "expected a string"),
            ("ttl = '30'", "no unit"),
            ("tll = '30s'", "unknown field `tll`, expected one of"),
            (
                "min_hold = '2s'\nmax_hold = '1s'",
                "min_hold 2s is outside 10ms to 1s",
            ),
            ("[retry]\nmin = '1s'", "unknown field `min`"),
            ("grace = '29s'", "grace 29s is outside 0s to 15s"),
            (
                "grace = '3s'\nmax_hold = '4s'",
                "grace 3s is outside 0s to 2s",
            ),
        ] {
            let error = toml::from_str::<LockOptions>(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_store_narrows_what_is_possible() {
        let store =
            Characteristics::default().with_ttl(Duration::from_secs(1), Duration::from_secs(60));
        let error = LockOptions::default()
            .with_ttl(Duration::from_millis(500))
            .validate_for(&store);
        assert_eq!(
            error.unwrap_err().to_string(),
            "ttl 500ms is outside 1s to 1m"
        );
        let error = LockOptions::default()
            .with_min_hold(Duration::from_secs(61))
            .validate_for(&store);
        assert_eq!(
            error.unwrap_err().to_string(),
            "min_hold 1m1s is outside 1s to 1m"
        );
        assert!(
            LockOptions::default()
                .with_ttl(Duration::MAX)
                .validate_for(&store)
                .is_err()
        );
    }
}
