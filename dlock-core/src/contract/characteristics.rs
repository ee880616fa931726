//! What a store declares that it can and cannot do.

use std::time::Duration;

use crate::contract::error::{DatastoreError, ErrorKind};
use crate::duration;

/// What a store can and cannot do.
///
/// Core validates options against it. The testkit tests what a store declares: both what it
/// declares to have and what it declares to lack.
///
/// ```
/// use dlock_core::Characteristics;
/// use std::time::Duration;
///
/// let slow_clock = Characteristics::default().with_granularity(Duration::from_secs(2));
/// assert_eq!(slow_clock.max_key, 250);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Characteristics {
    /// The shortest time to live that the store accepts. Default 10 ms.
    pub ttl_min: Duration,
    /// The longest time to live that the store accepts. Default 365 days.
    pub ttl_max: Duration,
    /// How long a key may stay taken after its lease has ended. It is never free before the end.
    /// Default 100 ms.
    pub granularity: Duration,
    /// The longest key in bytes, at least 80; longer names are shortened with a hash. Default 250.
    /// Keep the default where the store allows it: then a name has the same key in every store.
    pub max_key: usize,
    /// Which processes exclude each other. Default [`Reach::Network`].
    pub reach: Reach,
    /// Whether there are fencing tokens, and the scope within which they rise. Default
    /// [`Fencing::None`].
    pub fencing: Fencing,
    /// Whether [`watch`](crate::Datastore::watch) wakes waiters when the key becomes free, one at a
    /// time, in the order of their arrival. Default no.
    pub wakes: bool,
    /// The most that one call may take, however late its caller's deadline is. Default 2 s.
    pub call_timeout: Duration,
    /// How long after a grant or an extend core calls [`confirm`](crate::Datastore::confirm).
    /// Default never.
    pub confirm_after: Option<Duration>,
    /// How many leases [`extend_many`](crate::Datastore::extend_many) extends in about the time of
    /// one; 1 if it loops. Default 1.
    pub batch: usize,
    /// How many leases [`confirm_many`](crate::Datastore::confirm_many) reads in about the time of
    /// one; 1 if it loops. Default 1.
    pub confirm_batch: usize,
    /// Whether all calls go through one writer, so that a call that hangs delays the others until
    /// its own end. Default no.
    pub single_writer: bool,
    /// Whether a call that reaches the store after its [`not_after`](crate::Claim::not_after)
    /// changes nothing. If not, a claim that core has given up on may still take the key for one
    /// time to live. Default no.
    pub refuses_late_calls: bool,
}

/// Which processes the locks of a store exclude from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reach {
    /// Threads of one process that share the store's value: for a store in memory, or a database
    /// that only one process can open.
    Process,
    /// Processes of one host.
    Host,
    /// All processes that reach the same server.
    Network,
}

/// The scope within which the fencing tokens of a key strictly increase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fencing {
    /// There are none.
    None,
    /// Tokens rise in grant order. The text says until which event, for example "until the folder
    /// is deleted".
    Rising(&'static str),
}

impl Default for Characteristics {
    fn default() -> Self {
        Characteristics {
            ttl_min: Duration::from_millis(10),
            ttl_max: Duration::from_secs(365 * 86_400),
            granularity: Duration::from_millis(100),
            max_key: 250,
            reach: Reach::Network,
            fencing: Fencing::None,
            wakes: false,
            call_timeout: Duration::from_secs(2),
            confirm_after: None,
            batch: 1,
            confirm_batch: 1,
            single_writer: false,
            refuses_late_calls: false,
        }
    }
}

impl Characteristics {
    /// Refuses a time to live that this store cannot keep. A store calls it first in each acquire
    /// and extend, so that no lock lasts for ever and none ends at once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for less than [`ttl_min`](Self::ttl_min) or more than
    /// [`ttl_max`](Self::ttl_max).
    #[inline]
    pub fn check_ttl(&self, ttl: Duration) -> Result<(), DatastoreError> {
        match (self.ttl_min..=self.ttl_max).contains(&ttl) {
            true => Ok(()),
            false => Err(outside(ttl, self.ttl_min, self.ttl_max)),
        }
    }
}

#[cold]
fn outside(ttl: Duration, least: Duration, most: Duration) -> DatastoreError {
    let [ttl, least, most] = [ttl, least, most].map(duration::format);
    let text = format!("the time to live {ttl} is outside {least} to {most}");
    DatastoreError::not_executed(ErrorKind::Invalid, text)
}

/// Setters: the struct is non-exhaustive, so adapters cannot write it as a literal.
impl Characteristics {
    /// With this range of times to live.
    #[must_use]
    pub fn with_ttl(mut self, min: Duration, max: Duration) -> Self {
        (self.ttl_min, self.ttl_max) = (min, max);
        self
    }

    /// With this [`granularity`](Self::granularity).
    #[must_use]
    pub fn with_granularity(mut self, granularity: Duration) -> Self {
        self.granularity = granularity;
        self
    }

    /// With this [`max_key`](Self::max_key).
    #[must_use]
    pub fn with_max_key(mut self, bytes: usize) -> Self {
        self.max_key = bytes;
        self
    }

    /// With this [`reach`](Self::reach).
    #[must_use]
    pub fn with_reach(mut self, reach: Reach) -> Self {
        self.reach = reach;
        self
    }

    /// With fencing tokens that rise within `scope`.
    #[must_use]
    pub fn with_fencing(mut self, scope: &'static str) -> Self {
        self.fencing = Fencing::Rising(scope);
        self
    }

    /// With wake-ups.
    #[must_use]
    pub fn with_wakes(mut self) -> Self {
        self.wakes = true;
        self
    }

    /// With this [`call_timeout`](Self::call_timeout).
    #[must_use]
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// With a [`confirm`](crate::Datastore::confirm) this long after each grant and extend.
    #[must_use]
    pub fn with_confirm_after(mut self, after: Duration) -> Self {
        self.confirm_after = Some(after);
        self
    }

    /// With this [`confirm_batch`](Self::confirm_batch).
    #[must_use]
    pub fn with_confirm_batch(mut self, leases: usize) -> Self {
        self.confirm_batch = leases;
        self
    }

    /// With batches of this many leases.
    #[must_use]
    pub fn with_batch(mut self, leases: usize) -> Self {
        self.batch = leases;
        self
    }

    /// With a [`single_writer`](Self::single_writer).
    #[must_use]
    pub fn with_single_writer(mut self) -> Self {
        self.single_writer = true;
        self
    }

    /// With [`refuses_late_calls`](Self::refuses_late_calls).
    #[must_use]
    pub fn with_late_calls_refused(mut self) -> Self {
        self.refuses_late_calls = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setter_sets_its_own_field() {
        let millis = Duration::from_millis;
        let set = Characteristics::default()
            .with_ttl(millis(1), millis(2))
            .with_granularity(millis(3))
            .with_max_key(4)
            .with_reach(Reach::Host)
            .with_fencing("on this host")
            .with_wakes()
            .with_call_timeout(millis(5))
            .with_confirm_after(millis(6))
            .with_batch(7)
            .with_confirm_batch(8)
            .with_single_writer()
            .with_late_calls_refused();
        assert_eq!(
            set,
            Characteristics {
                ttl_min: millis(1),
                ttl_max: millis(2),
                granularity: millis(3),
                max_key: 4,
                reach: Reach::Host,
                fencing: Fencing::Rising("on this host"),
                wakes: true,
                call_timeout: millis(5),
                confirm_after: Some(millis(6)),
                batch: 7,
                confirm_batch: 8,
                single_writer: true,
                refuses_late_calls: true,
            }
        );
    }

    #[test]
    fn a_time_outside_what_the_store_keeps_is_invalid_and_was_not_asked_for() {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(60));
        let store = Characteristics::default().with_ttl(min, max);
        for kept in [min, max] {
            store.check_ttl(kept).unwrap();
        }
        for ttl in [min - Duration::from_nanos(1), max + Duration::from_nanos(1)] {
            let error = store.check_ttl(ttl).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{ttl:?}");
            assert!(!error.may_have_executed());
        }
    }
}
