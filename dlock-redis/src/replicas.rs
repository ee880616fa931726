//! How many replicas must have acknowledged a grant.

use std::time::Duration;

use dlock_core::duration;
use thiserror::Error;

/// How much of a call the replicas may take, one part in this many. An extend has half of its call
/// before it is sent once more, and the rest is for the call itself.
const SHARE: u32 = 3;
/// The default for a URL that names a number alone.
const USUAL: Duration = Duration::from_millis(100);

/// How many replicas must have acknowledged a grant or an extend, and how long they are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replicas {
    pub(crate) count: u32,
    within: Duration,
}

/// Too few replicas have acknowledged a grant or an extend: see
/// [`RedisBuilder::wait_replicas`](crate::RedisBuilder::wait_replicas). It is the source of the
/// [`DatastoreError`](dlock_core::DatastoreError) of that call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{acknowledged} of the {wanted} replicas that are waited for have acknowledged in time")]
#[non_exhaustive]
pub struct TooFewReplicas {
    /// How many have acknowledged.
    pub acknowledged: u32,
    /// How many must.
    pub wanted: u32,
}

impl Replicas {
    /// # Errors
    ///
    /// If either is zero.
    pub(crate) fn new(count: u32, within: Duration) -> Result<Self, &'static str> {
        if count == 0 {
            return Err("their number is at least 1");
        }
        // Redis takes none for "for ever".
        if within < Duration::from_millis(1) {
            return Err("the time is at least 1ms");
        }
        Ok(Replicas { count, within })
    }

    /// # Errors
    ///
    /// If either is zero, or a call of at most `call_timeout` has too little time for it.
    pub(crate) fn fitting(
        count: u32,
        within: Duration,
        call_timeout: Duration,
    ) -> Result<Self, &'static str> {
        let replicas = Self::new(count, within)?;
        replicas.fit(call_timeout)?;
        Ok(replicas)
    }

    /// Reads the options of a URL.
    ///
    /// # Errors
    ///
    /// If they are no number or no time, or there is a time alone.
    pub(crate) fn read(count: Option<&str>, within: Option<&str>) -> Result<Self, &'static str> {
        let count = count.and_then(|count| match count.bytes().all(|b| b.is_ascii_digit()) {
            true => count.parse().ok(),
            false => None,
        });
        let count = count
            .ok_or("write their number and a time, like ?wait_replicas=1&wait_within=100ms")?;
        let within = match within {
            Some(within) => duration::parse(within).map_err(
                |_| "write the time like 100ms or 1s, as in ?wait_replicas=1&wait_within=100ms",
            )?,
            None => USUAL,
        };
        Self::new(count, within)
    }

    /// # Errors
    ///
    /// If a call of at most `call_timeout` has too little time for it.
    pub(crate) fn fit(self, call_timeout: Duration) -> Result<(), &'static str> {
        match self.within > call_timeout / SHARE {
            true => Err("the time is at most a third of the call timeout"),
            false => Ok(()),
        }
    }

    /// For how many milliseconds the server waits, in a call that has `left`.
    pub(crate) fn millis(self, left: Duration) -> u64 {
        // The reply has to be here before the call ends, or before it is sent again.
        let within = self.within.min(left / 2);
        u64::try_from(within.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    pub(crate) fn error(self, acknowledged: u32) -> TooFewReplicas {
        TooFewReplicas {
            acknowledged,
            wanted: self.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RedisDatastore;
    use crate::UrlError;

    #[test]
    fn the_options_of_a_url_are_a_number_and_a_time() {
        let replicas = |count, within| Replicas {
            count,
            within: Duration::from_millis(within),
        };
        let read = |count, within| Replicas::read(Some(count), within);
        assert_eq!(read("1", Some("250ms")), Ok(replicas(1, 250)));
        assert_eq!(read("2", Some("1s")), Ok(replicas(2, 1000)));
        assert_eq!(read("2", None), Ok(replicas(2, 100)));
        for (count, within) in [
            (Some("0"), None),
            (Some("+1"), None),
            (Some("x"), None),
            (Some(""), None),
            (Some("4294967296"), None),
            (Some("1"), Some("100")),
            (Some("1"), Some("ms")),
            (Some("1"), Some("0ms")),
            (Some("1"), Some("0s")),
            (Some("1"), Some("1 s")),
            (Some("1"), Some("")),
            (None, Some("1s")),
        ] {
            assert!(
                Replicas::read(count, within).is_err(),
                "{count:?} {within:?}"
            );
        }
    }

    #[test]
    fn a_time_that_does_not_fit_into_a_call_is_refused() {
        let builder = || {
            let builder = RedisDatastore::builder("redis://h").unwrap();
            builder.call_timeout(Duration::from_millis(300))
        };
        let within = |millis| builder().wait_replicas(1, Duration::from_millis(millis));
        assert!(within(100).is_ok());
        for millis in [0, 101] {
            assert!(matches!(within(millis), Err(UrlError::Replicas(_))));
        }
        let none = builder().wait_replicas(0, Duration::from_millis(100));
        assert!(matches!(none, Err(UrlError::Replicas(_))));
        let open = |within: &str| {
            RedisDatastore::open(&format!("redis://h?wait_replicas=1&wait_within={within}"))
        };
        assert!(open("666ms").is_ok());
        assert!(matches!(open("667ms"), Err(UrlError::Replicas(_))));
    }

    #[test]
    fn the_server_waits_no_longer_than_half_of_what_is_left_and_never_for_ever() {
        let replicas = Replicas::new(1, Duration::from_millis(100)).unwrap();
        assert_eq!(replicas.millis(Duration::from_secs(2)), 100);
        assert_eq!(replicas.millis(Duration::from_millis(200)), 100);
        assert_eq!(replicas.millis(Duration::from_millis(100)), 50);
        assert_eq!(replicas.millis(Duration::from_micros(10)), 1);
        assert_eq!(replicas.millis(Duration::ZERO), 1);
    }
}
