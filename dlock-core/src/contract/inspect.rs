//! What operators ask of a store: who holds a key, who waits, which keys are held; and how they
//! take a lock from its holder.

use std::fmt;

use crate::contract::error::{DatastoreError, ErrorKind};
use crate::contract::finding::Finding;
use crate::contract::grant::FencingToken;
use crate::contract::outcome::{HeldBy, ReleaseOutcome};

/// Lets operators look into a store.
///
/// Each answer is stale by the time it is read: do not base decisions on it. A program that must
/// know whether a lock is free tries to acquire it.
pub trait Inspect: Send + Sync {
    /// The present holder of `key`; `None` if nobody holds it.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    fn holder(&self, key: &str) -> Result<Option<HeldBy>, DatastoreError>;

    /// Takes the lock from the holder that has the fencing token `fence`, and from no other, in one
    /// step of the store. The next waiter is woken as by a release. The holder learns of it at its
    /// next extend; until then it believes that it holds the lock.
    ///
    /// [`ReleaseOutcome::NotHeld`] if nobody holds the key under that token. Nothing was changed
    /// then.
    ///
    /// # Errors
    ///
    /// Any error of the store.
    fn break_lease(&self, key: &str, fence: FencingToken)
    -> Result<ReleaseOutcome, DatastoreError>;

    /// How many claimants wait for `key` in the queue of the store. A waiter that died a moment ago
    /// may be counted.
    ///
    /// # Errors
    ///
    /// Of kind [`Unsupported`](ErrorKind::Unsupported) if the store has no queue or cannot count
    /// it, as by default; any other error of the store.
    fn waiting(&self, key: &str) -> Result<usize, DatastoreError> {
        let _ = key;
        Err(not_counted())
    }

    /// The keys that start with `prefix` and are held, a page at a time. The first call has no
    /// `after`, each later one what the [page before](HeldPage::next) said.
    ///
    /// A key that is held from the first call to the last is on a page; it may be on two. (On
    /// several servers it may be on none, if servers came, went or were replaced meanwhile.) Marks
    /// of jobs that were done ([`Lock::once`](crate::Lock::once)) are keys too. A page may be empty
    /// though another one follows.
    ///
    /// # Errors
    ///
    /// Of kind [`Unsupported`](ErrorKind::Unsupported) if the store cannot list its keys, as by
    /// default; of kind [`Invalid`](ErrorKind::Invalid) for an `after` that the store did not
    /// return; any other error of the store.
    fn held(&self, prefix: &str, after: Option<&PageMark>) -> Result<HeldPage, DatastoreError> {
        let _ = (prefix, after);
        Err(not_listed())
    }

    /// What endangers the locks in the store: its settings, its memory or disk, its clock, who else
    /// has access to it. A good store has no findings. What could not be checked, for lack of a
    /// right for example, is a finding too.
    ///
    /// Whether a lock can be acquired at all is not checked: a caller who wants to know acquires
    /// one.
    ///
    /// # Errors
    ///
    /// Of kind [`Unsupported`](ErrorKind::Unsupported) if the store does not check itself, as by
    /// default; any other error of the store.
    fn findings(&self) -> Result<Vec<Finding>, DatastoreError> {
        Err(not_checked())
    }
}

/// Some of the keys that are held, see [`Inspect::held`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeldPage {
    /// The keys with their holders, in no particular order.
    pub keys: Vec<(String, HeldBy)>,
    /// Where the next page begins; `None` if this is the last one.
    pub next: Option<PageMark>,
}

impl HeldPage {
    /// A page with these keys, and where the next one begins.
    pub fn new(keys: Vec<(String, HeldBy)>, next: Option<PageMark>) -> Self {
        HeldPage { keys, next }
    }
}

/// Where a page of [`Inspect::held`] begins. Only the store that returned it knows what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageMark(Box<str>);

impl PageMark {
    /// A mark with the text by which the store finds the place again.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        PageMark(text.into())
    }

    /// The text that the store gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The error of a store that did not return this mark.
    pub fn unknown(&self) -> DatastoreError {
        let text = format!("no page begins at `{}`", self.0.escape_debug());
        DatastoreError::not_executed(ErrorKind::Invalid, text)
    }
}

impl fmt::Display for PageMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn not_counted() -> DatastoreError {
    DatastoreError::not_executed(
        ErrorKind::Unsupported,
        "the store does not count its waiters",
    )
}

pub(crate) fn not_checked() -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Unsupported, "the store does not check itself")
}

pub(crate) fn not_listed() -> DatastoreError {
    DatastoreError::not_executed(ErrorKind::Unsupported, "the store cannot list its keys")
}
