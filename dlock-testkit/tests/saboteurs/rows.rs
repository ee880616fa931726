//! Rows of the reference store that another transaction has locked.
//!
//! Modelled on a database whose `UPDATE … WHERE expires_at > now` takes its time when the statement
//! begins, then waits for the row: the condition is not looked at again if the row did not change.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use dlock_core::{Clock, Time};

/// The keys whose rows are locked; keys of one run have prefixes of their own.
static LOCKED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
static FREED: Condvar = Condvar::new();

/// Another transaction's lock on the row of a key, until it is dropped.
pub(crate) struct RowLock(String);

impl RowLock {
    pub(crate) fn of(key: &str) -> Self {
        LOCKED.lock().unwrap().insert(key.to_owned());
        RowLock(key.to_owned())
    }
}

impl Drop for RowLock {
    fn drop(&mut self) {
        LOCKED.lock().unwrap().remove(&self.0);
        FREED.notify_all();
    }
}

pub(crate) fn is_locked(key: &str) -> bool {
    LOCKED.lock().unwrap().contains(key)
}

/// Waits until the row of `key` is not locked. Returns whether that was so before `end`.
pub(crate) fn wait_for_row(key: &str, end: Time) -> bool {
    let mut locked = LOCKED.lock().unwrap();
    while locked.contains(key) {
        let left = Clock::BOOTTIME.now().until(end);
        if left.is_zero() {
            return false;
        }
        let nap = left.min(Duration::from_millis(50));
        locked = FREED.wait_timeout(locked, nap).unwrap().0;
    }
    true
}
