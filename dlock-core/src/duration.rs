//! Durations as people write them: `30s`, `1h30m`, `250ms`, `1.5s`.
//!
//! Used by [`LockOptions`](crate::LockOptions) in configuration files and by the command's flags.
//! Units are `d`, `h`, `m`, `s`, `ms`, `us` (or `µs`) and `ns`; each number may have decimals;
//! parts are added up. A number without a unit is refused, since nobody can know whether `30` means
//! seconds.

// `humantime` does neither half as the tests want it: it reads `1M`, which may be meant as a
// minute, as a month of 30.44 days, and shows 365 days as `11months 30days 3h 50m 24s`.

use std::fmt::Write as _;
use std::time::Duration;

use thiserror::Error;

const NANOS_PER: [(&str, u128); 8] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
];

/// A text that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a duration ({reason}); write it like 30s, 1h30m, 1.5s or 250ms")]
pub struct ParseDurationError {
    text: String,
    reason: &'static str,
}

/// Reads a duration.
///
/// ```
/// use dlock_core::duration::parse;
/// use std::time::Duration;
///
/// assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5400)));
/// assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
/// assert_eq!(
///     parse("30").unwrap_err().to_string(),
///     "`30` is not a duration (its last number has no unit); write it like 30s, 1h30m, 1.5s or 250ms"
/// );
/// ```
///
/// # Errors
///
/// [`ParseDurationError`] for anything else: an empty text, a missing or unknown unit, a sign,
/// white space, a part smaller than a nanosecond, more than [`Duration::MAX`].
pub fn parse(text: &str) -> Result<Duration, ParseDurationError> {
    total_nanos(text).and_then(to_duration).map_err(|reason| {
        let mut shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
        if text.chars().nth(40).is_some() {
            shown.push('…');
        }
        ParseDurationError {
            text: shown,
            reason,
        }
    })
}

fn total_nanos(text: &str) -> Result<u128, &'static str> {
    let mut rest = text;
    let mut total = 0u128;
    while !rest.is_empty() || text.is_empty() {
        let (number, after) = split_at(rest, |c| !c.is_ascii_digit() && c != '.');
        let (unit, after) = split_at(after, |c| c.is_ascii_digit() || c == '.');
        if number.is_empty() {
            return Err("a number is missing");
        }
        if unit.is_empty() {
            return Err("its last number has no unit");
        }
        let &(_, per) = NANOS_PER
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or("unknown unit")?;
        total =
            part_nanos(number, per).and_then(|part| total.checked_add(part).ok_or("too large"))?;
        rest = after;
    }
    Ok(total)
}

fn split_at(text: &str, end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(end).unwrap_or(text.len()))
}

/// `number` units of `per` nanoseconds each, exactly.
fn part_nanos(number: &str, per: u128) -> Result<u128, &'static str> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || decimals.is_empty() || decimals.contains('.') {
        return Err("a number is malformed");
    }
    let whole: u128 = whole.parse().map_err(|_| "too large")?;
    let decimals = decimals.trim_end_matches('0');
    let scale = 10u128.checked_pow(u32::try_from(decimals.len()).unwrap_or(u32::MAX));
    let scale = scale
        .filter(|scale| *scale <= 1_000_000_000_000_000_000)
        .ok_or("too many decimals")?;
    let fraction = if decimals.is_empty() {
        0
    } else {
        decimals.parse().map_err(|_| "too large")?
    };
    let fraction: u128 = per.checked_mul(fraction).ok_or("too large")?;
    if !fraction.is_multiple_of(scale) {
        return Err("a part is smaller than a nanosecond");
    }
    whole
        .checked_mul(per)
        .and_then(|whole| whole.checked_add(fraction / scale))
        .ok_or("too large")
}

fn to_duration(nanos: u128) -> Result<Duration, &'static str> {
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| "too large")?;
    let rest = u32::try_from(nanos % 1_000_000_000).map_err(|_| "too large")?;
    Ok(Duration::new(seconds, rest))
}

/// Writes a duration so that [`parse`] reads the same one: whole units, largest first, `0s` for
/// zero.
///
/// ```
/// use dlock_core::duration::format;
/// use std::time::Duration;
///
/// assert_eq!(format(Duration::from_secs(5400)), "1h30m");
/// assert_eq!(format(Duration::from_millis(1500)), "1s500ms");
/// ```
pub fn format(duration: Duration) -> String {
    let mut left = duration.as_nanos();
    let mut text = String::new();
    for (unit, per) in NANOS_PER.into_iter().filter(|(unit, _)| *unit != "µs") {
        if left / per > 0 {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{unit}", left / per);
            left %= per;
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

/// `#[serde(with = "dlock_core::duration::serde")]` for a [`Duration`].
#[cfg(feature = "serde")]
pub mod serde {
    use std::time::Duration;

    use ::serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes the duration as text.
    ///
    /// # Errors
    ///
    /// The serialiser's own.
    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::format(*duration))
    }

    /// Reads the duration from text.
    ///
    /// # Errors
    ///
    /// The deserialiser's own, and a text that is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        super::parse(&text).map_err(D::Error::custom)
    }
}

/// `#[serde(with = "dlock_core::duration::serde_option", default)]` for an `Option<Duration>`.
#[cfg(feature = "serde")]
pub mod serde_option {
    use std::time::Duration;

    use ::serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes the duration as text, or nothing.
    ///
    /// # Errors
    ///
    /// The serialiser's own.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => to.serialize_some(&super::format(*duration)),
            None => to.serialize_none(),
        }
    }

    /// Reads the duration from text, or nothing.
    ///
    /// # Errors
    ///
    /// The deserialiser's own, and a text that is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<std::borrow::Cow<'de, str>>::deserialize(from)?;
        text.map(|text| super::parse(&text).map_err(D::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write_is_read() {
        for (text, nanos) in [
            ("30s", 30_000_000_000u128),
            ("1.5s", 1_500_000_000),
            ("0s", 0),
            ("1d", 86_400_000_000_000),
            ("2h0.5m", 7_230_000_000_000),
            ("250ms", 250_000_000),
            ("3us4ns", 3_004),
            ("7µs", 7_000),
            ("0.000000001s", 1),
            ("1.50000000000000000000000000s", 1_500_000_000),
        ] {
            assert_eq!(parse(text).unwrap().as_nanos(), nanos, "{text}");
        }
        assert_eq!(parse("18446744073709551615s999999999ns"), Ok(Duration::MAX));
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "a number is missing"),
            ("30", "no unit"),
            ("s", "a number is missing"),
            ("-1s", "a number is missing"),
            ("1 s", "unknown unit"),
            ("1y", "unknown unit"),
            ("1M", "unknown unit"),
            ("1..5s", "malformed"),
            (".5s", "malformed"),
            ("5.s", "malformed"),
            ("0.5ns", "smaller than a nanosecond"),
            ("18446744073709551616s", "too large"),
            ("340282366920938463463374607431768211456d", "too large"),
            (
                "0.00000000000000000000000000000000000000000001s",
                "decimals",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn an_error_shows_a_hostile_text_escaped_and_short() {
        let error = parse(&format!("\n\u{1b}{}", "x".repeat(10_000)))
            .unwrap_err()
            .to_string();
        assert!(
            error.len() < 200 && !error.contains('\n') && !error.contains('\u{1b}'),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn every_duration_survives_the_round_trip(seconds: u64, nanos in 0u32..1_000_000_000) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = parse(&text);
        }
    }
}
