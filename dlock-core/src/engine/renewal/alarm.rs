//! Alarms that the timing thread rings for tasks.

use std::collections::BTreeMap;
use std::task::{Context, Poll, Waker};

use super::{Keeper, State};
use crate::time::instant::Time;

/// The wakers of the tasks that sleep, by the time at which to wake them.
#[derive(Default)]
pub(super) struct Alarms {
    set: BTreeMap<(Time, u64), Waker>,
    last: u64,
}

impl Alarms {
    /// When the next one rings.
    pub(super) fn next(&self) -> Time {
        let next = self.set.first_key_value();
        next.map_or(Time::MAX, |((at, _), _)| *at)
    }

    /// Takes those whose time has come.
    pub(super) fn take_due(&mut self, now: Time) -> BTreeMap<(Time, u64), Waker> {
        if now < self.next() {
            return BTreeMap::new();
        }
        let later = (now.saturating_add(std::time::Duration::from_nanos(1)), 0);
        let later = self.set.split_off(&later);
        std::mem::replace(&mut self.set, later)
    }
}

/// The end of a sleep of a task, or of a call that it waits for.
pub struct Alarm<'a> {
    keeper: &'a Keeper,
    at: Time,
    /// Once a task waits for it.
    number: Option<u64>,
}

impl Keeper {
    /// An alarm that rings at `at`. Its keeper must be [started](Self::start).
    pub fn alarm(&self, at: Time) -> Alarm<'_> {
        let keeper = self;
        Alarm {
            keeper,
            at,
            number: None,
        }
    }

    #[cfg(test)]
    pub fn alarms(&self) -> usize {
        self.0.state().alarms.set.len()
    }
}

impl Alarm<'_> {
    /// Ready when it is time.
    pub fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        let inner = &*self.keeper.0;
        if self.at == Time::MAX {
            return Poll::Pending;
        }
        if inner.clock.now() >= self.at {
            return Poll::Ready(());
        }
        let waker = context.waker().clone();
        let mut state = inner.state();
        let number = *self.number.get_or_insert_with(|| {
            state.alarms.last += 1;
            state.alarms.last
        });
        let before = state.alarms.set.insert((self.at, number), waker);
        inner.look_by(&state, self.at);
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut state: std::sync::MutexGuard<'_, State> = self.keeper.0.state();
            let waker = state.alarms.set.remove(&(self.at, number));
            drop(state);
            // Outside of the lock: it may run any code.
            drop(waker);
        }
    }
}
