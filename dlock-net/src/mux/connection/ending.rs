//! How a connection ends, and its calls with it.

use std::sync::Arc;

use dlock_core::Clock;

use super::super::protocol::Replies;
use super::super::queue::{Failure, Outcome, Reason};
use super::{Connection, Phase};

/// Whether a request that outlives its runtime may not have reached the server yet.
struct MustArrive(bool);

type Failed<R> = Vec<(Outcome<<R as Replies>::Reply>, Failure)>;

impl<W: Send + 'static, R: Replies> Connection<W, R> {
    /// No more calls; those under way end.
    pub(in crate::mux) fn retire(self: &Arc<Self>) {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Open) {
            return;
        }
        state.phase = Phase::Retiring;
        let driver = state.wakes_driver(Clock::BOOTTIME.now());
        drop(state);
        self.forget();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Ends the connection and its calls. The driver knows exactly what was written and will write
    /// no more.
    pub(in crate::mux) fn close(self: &Arc<Self>, by_driver: bool, reason: Reason) {
        if self.end_calls(by_driver, reason).is_some() {
            self.socket.shut_down();
        }
    }

    /// As [`close`](Self::close), by the driver of a runtime that ends. If a request must reach the
    /// server even so, it waits for that.
    pub(in crate::mux) fn close_with_runtime(self: &Arc<Self>, reason: Reason) {
        match self.end_calls(true, reason) {
            None => {}
            Some(MustArrive(true)) => match R::FAREWELL {
                Some(farewell) if self.write_last(farewell) => self.socket.close_with_server(),
                _ => self.socket.close_when_read(),
            },
            Some(MustArrive(false)) => self.socket.shut_down(),
        }
    }

    /// Writes behind the requests of a connection that is closed. Returns whether the socket has
    /// taken it.
    fn write_last(&self, bytes: &[u8]) -> bool {
        let count = self.layer.write(&mut &self.socket, bytes);
        count.is_ok_and(|count| count == bytes.len()) && self.layer.flush(&mut &self.socket).is_ok()
    }

    /// Returns `None` if the connection is closed already.
    fn end_calls(self: &Arc<Self>, by_driver: bool, reason: Reason) -> Option<MustArrive> {
        let mut state = self.state();
        if matches!(state.phase, Phase::Closed(_)) {
            return None;
        }
        let must_arrive = MustArrive(state.queue.has_sent_what_outlives_runtime());
        let failed = state.queue.fail_all(by_driver, &reason);
        state.phase = Phase::Closed(reason);
        let driver = state.driver.take();
        drop(state);
        self.forget();
        if let Some(driver) = driver {
            driver.wake();
        }
        fail::<R>(failed);
        Some(must_arrive)
    }

    fn forget(self: &Arc<Self>) {
        if let Some(keeper) = self.kept_by.upgrade() {
            keeper.forget(self);
        }
    }
}

/// Reports to the callers, with no lock held: their wakers run here.
pub(super) fn fail<R: Replies>(failed: Failed<R>) {
    for (to, failure) in failed {
        // The caller may have left.
        let _ = to.send(Err(failure));
    }
}
