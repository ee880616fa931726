//! What the driver calls.

use std::io::{self, Write as _};
use std::sync::atomic::Ordering;
use std::task::Waker;

use dlock_core::Time;

use super::super::protocol::Replies;
use super::super::queue::Slot;
use super::{Connection, Phase, Taken};
use crate::nonblocking::{Layer, WriteHalf};

impl<W: Send + 'static, R: Replies> Connection<W, R> {
    /// The driver is polled.
    pub(in crate::mux) fn driver_is_polled(&self, waker: &Waker) {
        self.not_driven.store(false, Ordering::Release);
        let mut state = self.state();
        state.woken = None;
        match &mut state.driver {
            Some(driver) => driver.clone_from(waker),
            driver => *driver = Some(waker.clone()),
        }
    }

    /// Takes what is to be written, into an empty buffer; `at_once`, or only if the tasks beside
    /// the driver have nothing to add. A task that wakes the driver is followed by it at once, on a
    /// runtime of many threads, and each request would be a call to the system.
    pub(in crate::mux) fn take_bytes(&self, buffer: &mut Vec<u8>, at_once: bool) -> Taken {
        let mut state = self.state();
        if !at_once && state.queue.has_bytes() {
            return Taken::Later;
        }
        state.queue.hand(buffer);
        match state.phase {
            Phase::Retiring if state.queue.is_empty() => Taken::Over,
            Phase::Open | Phase::Retiring => Taken::Bytes,
            Phase::Closed(_) => Taken::Over,
        }
    }

    /// Writes some of `bytes`; returns how many.
    pub(in crate::mux) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.layer.write(&mut &self.socket, bytes)?;
        self.state().queue.wrote(count);
        Ok(count)
    }

    pub(in crate::mux) fn flush(&self) -> io::Result<()> {
        self.layer.flush(&mut &self.socket)?;
        (&self.socket).flush()
    }

    pub(in crate::mux) fn socket(&self) -> &WriteHalf {
        &self.socket
    }

    pub(in crate::mux) fn layer(&self) -> &dyn Layer {
        &*self.layer
    }

    /// Takes the first `count` requests, whose replies are here since `received`. Returns false if
    /// there are fewer.
    pub(in crate::mux) fn answered(
        &self,
        count: usize,
        received: Time,
        slots: &mut Vec<Slot<R::Expected, R::Reply>>,
    ) -> bool {
        let mut state = self.state();
        (state.received, state.latest_replies) = (received, count);
        state.queue.answered(count, slots)
    }
}
