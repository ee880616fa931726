//! What is checked while no reply comes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dlock_core::{Clock, Time};

use super::super::process::Alarm;
use super::super::protocol::Replies;
use super::super::queue::{Reason, Verdict};
use super::Connection;
use super::ending::fail;

/// Ends calls whose time is over, and finds out whether the others make progress.
impl<W: Send + 'static, R: Replies> Alarm for Connection<W, R> {
    fn ring(self: Arc<Self>, at: Time) {
        let mut state = self.state();
        // Another is set, and sooner.
        if state.rings != at {
            return;
        }
        let now = Clock::BOOTTIME.now();
        let (received, woken) = (state.received, state.woken.filter(|_| !self.is_own));
        let found = state.queue.check(now, received, woken);
        let mut failed = found.failed;
        if found.verdict == Verdict::NotDriven {
            self.not_driven.store(true, Ordering::Release);
            failed.extend(state.queue.give_up(&Reason::NotDriven));
        }
        state.rings = found.next.unwrap_or(Time::MAX);
        let driver = match found.next {
            // A driver that is polled proves that its runtime is driven.
            Some(_) => state.wakes_driver(now),
            // One that has a large buffer gives it back when it is polled. There is no hurry, so
            // nothing is concluded if it is not.
            None if state.queue.rest() => state.driver.clone(),
            None => None,
        };
        drop(state);
        if let Some(next) = found.next {
            self.ring_at(next);
        }
        if let Some(driver) = driver {
            driver.wake();
        }
        fail::<R>(failed);
        if found.verdict == Verdict::Silent {
            let error = io::Error::new(io::ErrorKind::TimedOut, "the server does not answer");
            self.close(false, Reason::broken(&error));
        }
    }
}
