//! Which call has which connection.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use dlock_core::{DatastoreError, ErrorKind, ProcessId, Time};
use dlock_net::mux::{ready_by, until};
use tokio::sync::Notify;

/// The places of connections. A call that is urgent has as many again for when all are taken: the
/// rules are those of the blocking pool.
pub(super) struct Turns {
    usual: usize,
    all: usize,
    free: Mutex<BTreeSet<usize>>,
    /// For usual calls and for urgent ones.
    changed: [Notify; 2],
    pid: ProcessId,
    /// Those of a child that is forked off. A lock of its parent may be held for ever there.
    child: OnceLock<Box<Turns>>,
}

/// A call's turn with the connection at a place. Dropping it ends it.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    place: usize,
}

impl Turns {
    /// With `all` places, of which calls that are not urgent have the first `usual`.
    pub(super) fn new(usual: usize, all: usize) -> Self {
        Turns {
            usual,
            all,
            free: Mutex::new((0..all).collect()),
            changed: [Notify::new(), Notify::new()],
            pid: ProcessId::current(),
            child: OnceLock::new(),
        }
    }

    /// A turn, by `deadline` on [`Clock::BOOTTIME`](dlock_core::Clock::BOOTTIME); the first free
    /// place, so that few connections are opened. It is there at once if a place is free.
    ///
    /// # Errors
    ///
    /// Not executed.
    pub(super) async fn take(
        &self,
        is_urgent: bool,
        deadline: Time,
    ) -> Result<Turn<'_>, DatastoreError> {
        let turns = self.of_this_process();
        if let Some(turn) = turns.free_one(is_urgent) {
            return Ok(turn);
        }
        let turn = ready_by(deadline, turns.wait(is_urgent)).await;
        let turn = turn.map_err(|error| DatastoreError::not_executed(ErrorKind::Refused, error))?;
        turn.ok_or_else(|| {
            let limit = if is_urgent { turns.all } else { turns.usual };
            let busy = format!("all {limit} connections of the async form were in use");
            DatastoreError::not_executed(ErrorKind::Timeout, busy)
        })
    }

    async fn wait(&self, is_urgent: bool) -> Turn<'_> {
        let changed = &self.changed[usize::from(is_urgent)];
        until(changed, || self.free_one(is_urgent)).await
    }

    fn free_one(&self, is_urgent: bool) -> Option<Turn<'_>> {
        let mut free = self.free();
        let place = self.first_of(&free, is_urgent)?;
        free.remove(&place);
        Some(Turn { turns: self, place })
    }

    /// The place of which a turn would be there at once.
    pub(super) fn next_place(&self, is_urgent: bool) -> Option<usize> {
        let turns = self.of_this_process();
        let free = turns.free();
        turns.first_of(&free, is_urgent)
    }

    fn first_of(&self, free: &BTreeSet<usize>, is_urgent: bool) -> Option<usize> {
        let first = free.first().copied();
        first.filter(|place| *place < self.usual || is_urgent)
    }

    fn free(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_this_process(&self) -> &Self {
        if self.pid == ProcessId::current() {
            return self;
        }
        let new = || Box::new(Turns::new(self.usual, self.all));
        self.child.get_or_init(new).of_this_process()
    }
}

impl Turn<'_> {
    pub(super) fn place(&self) -> usize {
        self.place
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.free().insert(self.place);
        // If a place is there only for urgent calls, the usual one that wakes goes on waiting.
        self.turns.changed.iter().for_each(Notify::notify_one);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dlock_net::deadline_in;
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn urgent_calls_have_places_of_their_own_and_a_place_that_is_free_is_taken_at_once() {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let turns = Turns::new(1, 2);
            let long = deadline_in(Duration::from_secs(60));
            let first = turns.take(false, long).await.unwrap();
            assert_eq!(first.place(), 0);
            let urgent = turns.take(true, long).await.unwrap();
            assert_eq!(urgent.place(), 1);
            for is_urgent in [false, true] {
                let soon = deadline_in(Duration::from_millis(10));
                let refused = turns.take(is_urgent, soon).await.err().unwrap();
                assert_eq!(refused.kind(), ErrorKind::Timeout, "{refused}");
                assert!(!refused.may_have_executed());
            }
            drop(urgent);
            let soon = deadline_in(Duration::from_millis(10));
            assert!(turns.take(false, soon).await.is_err(), "it is not for this");
            let waits = async { turns.take(false, long).await.unwrap().place() };
            let ends = async { drop(first) };
            assert_eq!(tokio::join!(waits, ends).0, 0);
        });
    }
}
