//! The sentinels of a server: which node they name as the primary.
//!
//! No node can know that it is the primary. One that came back empty, or that was stopped while
//! another was elected, says so in good faith until the sentinels demote it. So a connection is
//! opened to the node that a sentinel names, and kept only as long as no other is named.

mod listener;
pub(crate) mod replies;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use dlock_core::{Clock, DatastoreError, ErrorKind, Time};
use dlock_net::{Endpoint, Streams, Wire, escaped};

use crate::config::SentinelPlace;
use crate::handshake;
use crate::wire::Parser;

/// The sentinels of one server, and what they say. Shared by the connections of a store.
pub(crate) struct Sentinels {
    place: SentinelPlace,
    /// The sentinel that answered last: it is asked first, and listened to.
    first: AtomicUsize,
    /// The node that was named last, as a hash of its address; 0 before.
    primary: AtomicU64,
    /// The process whose listener runs; 0 for none.
    listens_in: AtomicU32,
}

/// A node that a sentinel named, on a connection to it.
pub(crate) struct Named {
    sentinels: Arc<Sentinels>,
    primary: u64,
}

impl Named {
    /// Whether no other node was named since.
    pub(crate) fn is_current(&self) -> bool {
        self.sentinels.primary.load(Ordering::Acquire) == self.primary
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn sentinels(&self) -> &Arc<Sentinels> {
        &self.sentinels
    }
}

impl Sentinels {
    pub(crate) fn new(place: SentinelPlace) -> Self {
        Sentinels {
            place,
            first: AtomicUsize::new(0),
            primary: AtomicU64::new(0),
            listens_in: AtomicU32::new(0),
        }
    }

    pub(crate) fn place(&self) -> &SentinelPlace {
        &self.place
    }

    /// Opens a connection to the primary, by `deadline`: `open` connects to the node that it is
    /// given, and checks that it calls itself a primary. The sentinels are asked in turn, each with
    /// its part of the time.
    ///
    /// # Errors
    ///
    /// Not executed: why the last node that was named could not be opened, else why the last
    /// sentinel did not answer. Not transient only if each sentinel answered that it knows of no
    /// such primary.
    pub(crate) fn open<T>(
        self: &Arc<Self>,
        streams: &Streams,
        deadline: Time,
        mut open: impl FnMut(&Endpoint, Time) -> Result<T, DatastoreError>,
    ) -> Result<(T, Named), DatastoreError> {
        let hosts = &self.place.hosts;
        let first = self.first.load(Ordering::Relaxed);
        let (mut tried, mut refused, mut silent) = (Vec::new(), None, None);
        for turn in 0..hosts.len() {
            let at = (first + turn) % hosts.len();
            let before = self.last_named();
            let turn_ends = part(deadline, hosts.len() - turn);
            let named = match self.ask(streams, &hosts[at], part(turn_ends, 2)) {
                Ok(Some(primary)) => primary,
                Ok(None) => continue,
                Err(error) => {
                    silent = Some(error);
                    continue;
                }
            };
            if tried.contains(&named) {
                continue;
            }
            match open(&named, turn_ends) {
                Ok(opened) => {
                    self.first.store(at, Ordering::Relaxed);
                    let primary = self.named_since(before, &named.to_string());
                    listener::start(self, streams);
                    let sentinels = Arc::clone(self);
                    return Ok((opened, Named { sentinels, primary }));
                }
                Err(error) => refused = Some(error),
            }
            tried.push(named);
        }
        Err(refused.or(silent).unwrap_or_else(|| self.unknown()))
    }

    /// Asks one sentinel for the primary; `None` if it knows of none of this name.
    ///
    /// # Errors
    ///
    /// Not executed.
    fn ask(
        &self,
        streams: &Streams,
        sentinel: &Endpoint,
        deadline: Time,
    ) -> Result<Option<Endpoint>, DatastoreError> {
        let stream = streams.open(sentinel, deadline)?;
        let mut wire = Wire::new(stream, format_args!("sentinel {sentinel}"));
        let (login, service) = (&self.place.login, &self.place.service);
        handshake::ask_sentinel(&mut wire, &mut Parser::default(), login, service, None)
    }

    /// Notes that a sentinel names this node as the new primary.
    fn switched_to(&self, primary: &str) {
        self.primary.store(hash_of(primary), Ordering::Release);
    }

    /// What was named last, for [`named_since`](Self::named_since).
    fn last_named(&self) -> u64 {
        self.primary.load(Ordering::Acquire)
    }

    /// Notes that a sentinel that was asked after `before` was the last named this node. If another
    /// one was named meanwhile it stays, as it may be the newer one: a connection to this node is
    /// not kept, and the next one is opened to what a sentinel names then.
    fn named_since(&self, before: u64, primary: &str) -> u64 {
        let hash = hash_of(primary);
        let (done, failed) = (Ordering::AcqRel, Ordering::Acquire);
        let _ = self.primary.compare_exchange(before, hash, done, failed);
        hash
    }

    /// Whether no other node was named since a connection to this one was opened.
    #[cfg(feature = "tokio")]
    pub(crate) fn are_naming(&self, node: &str) -> bool {
        self.primary.load(Ordering::Acquire) == hash_of(node)
    }

    fn unknown(&self) -> DatastoreError {
        let service = escaped(&self.place.service);
        let text = format!("the sentinels know of no primary with the name `{service}`");
        DatastoreError::not_executed(ErrorKind::Invalid, text)
    }
}

/// One of `parts` equal parts of the time until `deadline`, from now on.
fn part(deadline: Time, parts: usize) -> Time {
    let now = Clock::BOOTTIME.now();
    let parts = u32::try_from(parts).unwrap_or(u32::MAX);
    now.saturating_add(now.until(deadline) / parts)
}

/// An address as a number, never 0.
fn hash_of(address: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    address.hash(&mut hasher);
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Login;
    use dlock_net::deadline_in;
    use std::time::Duration;

    /// The address of a node took long to be connected to, and the sentinels named another one
    /// meanwhile.
    #[test]
    fn a_node_that_was_named_before_another_one_does_not_replace_it() {
        let sentinels = Arc::new(Sentinels::new(SentinelPlace {
            hosts: Vec::new(),
            service: "orders".to_owned(),
            login: Login::default(),
        }));
        let (older, newer) = ("10.0.0.1:6379", "10.0.0.2:6379");
        let opened = |primary| Named {
            sentinels: Arc::clone(&sentinels),
            primary,
        };
        let before = sentinels.last_named();
        let first = opened(sentinels.named_since(before, older));
        assert!(first.is_current());

        let before = sentinels.last_named();
        let slow = opened(sentinels.named_since(before, older));
        assert!(slow.is_current());
        for learn in [
            |sentinels: &Sentinels, node: &str| sentinels.switched_to(node),
            |sentinels: &Sentinels, node: &str| {
                sentinels.named_since(sentinels.last_named(), node);
            },
        ] {
            sentinels.switched_to(older);
            let before = sentinels.last_named();
            learn(&sentinels, newer);
            let slow = opened(sentinels.named_since(before, older));
            assert!(!slow.is_current() && !first.is_current());
            assert_eq!(sentinels.last_named(), hash_of(newer));
            // Two that learn of the newer one at a time.
            let fast = opened(sentinels.named_since(before, newer));
            assert!(fast.is_current());
        }
    }

    #[test]
    fn each_sentinel_has_an_equal_part_of_the_time_that_is_left() {
        let deadline = deadline_in(Duration::from_secs(3000));
        let seconds = |parts| {
            let left = Clock::BOOTTIME.now().until(part(deadline, parts));
            (left.as_secs_f64() / 100.0).round()
        };
        assert_eq!((seconds(3), seconds(2), seconds(1)), (10.0, 15.0, 30.0));
        let past = Time::from_nanos(1);
        assert!(part(past, 3) <= Clock::BOOTTIME.now());
    }
}
