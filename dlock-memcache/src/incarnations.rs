//! The runs of the server that the connections of a store have reached, and whether they can belong
//! to one server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread;

use dlock_core::{Clock, Time};

use crate::operations::incarnation::Incarnation;

/// The most incarnations that are remembered. The oldest are forgotten.
const MOST: usize = 64;
/// How often the mutex is tried. It is held only for a moment, but in a forked child it may be
/// locked for ever.
const TRIES: usize = 100;

/// The incarnations of the server that connections have reached, shared by all connections of one
/// manager.
///
/// A run that has ended never comes back. So if connections reach A, then B, and then A again,
/// there are two servers behind one address, which do not know each other's locks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Incarnations(Arc<Inner>);

/// What a connection knows of the server to which it leads.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) incarnation: Incarnation,
    /// Whether that incarnation has been up long enough to grant.
    pub(crate) may_grant: bool,
    /// The number of the incarnation among those that were reached.
    pub(crate) number: Option<u64>,
    pub(crate) incarnations: Incarnations,
}

impl Facts {
    /// Returns whether the connection may be used for another call: not after a later incarnation
    /// was reached. Then this one has ended, or it is another server.
    pub(crate) fn are_latest(&self) -> bool {
        self.incarnations.is_latest(self.number)
    }

    /// Replaces them by what the server answered now to a request of `asked`.
    pub(crate) fn learn(&mut self, (incarnation, may_grant): (Incarnation, bool), asked: Time) {
        let answered = Clock::BOOTTIME.now();
        self.number = self.incarnations.reached(incarnation, asked, answered);
        (self.incarnation, self.may_grant) = (incarnation, may_grant);
    }
}

#[derive(Debug, Default)]
struct Inner {
    known: Mutex<Vec<Known>>,
    /// The number of the newest incarnation. Numbers begin with 1.
    latest: AtomicU64,
    are_of_several: AtomicBool,
}

#[derive(Debug)]
struct Known {
    number: u64,
    incarnation: Incarnation,
    /// When it answered for the first time.
    answered: Time,
}

impl Incarnations {
    /// Records that `life` answered at `answered` a request of `asked`. Returns its number, or
    /// `None` if it could not be recorded.
    pub(crate) fn reached(
        &self,
        incarnation: Incarnation,
        asked: Time,
        answered: Time,
    ) -> Option<u64> {
        let mut known = self.known()?;
        let Some(place) = known
            .iter()
            .position(|other| other.incarnation == incarnation)
        else {
            let number = self.0.latest.load(Ordering::Acquire) + 1;
            if known.len() == MOST {
                known.remove(0);
            }
            known.push(Known {
                number,
                incarnation,
                answered,
            });
            self.0.latest.store(number, Ordering::Release);
            return Some(number);
        };
        // Judge by the times, not by the order in which threads get here: it must have been asked
        // after a later incarnation had answered.
        if known
            .get(place + 1)
            .is_some_and(|later| asked > later.answered)
        {
            self.0.are_of_several.store(true, Ordering::Release);
        }
        Some(known[place].number)
    }

    /// Returns whether no incarnation after the one with this number was reached.
    pub(crate) fn is_latest(&self, number: Option<u64>) -> bool {
        number.is_none_or(|number| number == self.0.latest.load(Ordering::Acquire))
    }

    /// Returns whether more than one server answers at the address. Once `true`, it stays `true`:
    /// which of them other clients use is unknown.
    pub(crate) fn are_of_several(&self) -> bool {
        self.0.are_of_several.load(Ordering::Acquire)
    }

    fn known(&self) -> Option<MutexGuard<'_, Vec<Known>>> {
        for _ in 0..TRIES {
            match self.0.known.try_lock() {
                Ok(known) => return Some(known),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => thread::yield_now(),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incarnation(pid: u64) -> Incarnation {
        Incarnation { pid, start: 1 }
    }

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    #[test]
    fn a_server_that_comes_back_after_another_one_proves_two() {
        let reached = Incarnations::default();
        assert_eq!(reached.reached(incarnation(1), at(1), at(2)), Some(1));
        assert_eq!(reached.reached(incarnation(2), at(3), at(4)), Some(2));
        assert!(!reached.are_of_several(), "it was restarted");
        assert!(reached.is_latest(Some(2)) && !reached.is_latest(Some(1)));
        assert_eq!(reached.reached(incarnation(1), at(5), at(6)), Some(1));
        assert!(reached.are_of_several());
        let clone = reached.clone();
        assert!(clone.are_of_several(), "for all connections");
    }

    #[test]
    fn an_answer_that_is_recorded_late_proves_nothing() {
        let reached = Incarnations::default();
        reached.reached(incarnation(1), at(1), at(2));
        reached.reached(incarnation(2), at(10), at(12));
        // It was asked before the second one answered, so the first may have answered and then
        // ended.
        reached.reached(incarnation(1), at(9), at(20));
        reached.reached(incarnation(2), at(30), at(31));
        assert!(!reached.are_of_several());
    }

    #[test]
    fn endless_restarts_prove_nothing_and_cost_no_memory() {
        let reached = Incarnations::default();
        for n in 1..1000 {
            assert_eq!(
                reached.reached(incarnation(n), at(2 * n), at(2 * n + 1)),
                Some(n)
            );
        }
        assert!(!reached.are_of_several());
        assert_eq!(reached.known().unwrap().len(), MOST);
    }

    #[test]
    fn a_child_that_inherited_the_locked_mutex_goes_on() {
        let reached = Incarnations::default();
        let locked = reached.known().unwrap();
        assert_eq!(reached.reached(incarnation(1), at(1), at(2)), None);
        assert!(reached.is_latest(None));
        drop(locked);
    }
}
