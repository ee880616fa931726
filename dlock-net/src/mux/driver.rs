//! The task that moves a connection's bytes.

use std::io;
use std::mem;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use dlock_core::{Clock, ProcessId};
use tokio::runtime::{Handle, is_rt_shutdown_err};

use super::connection::{Connection, Keeps, Taken};
use super::protocol::{Opened, Replies};
use super::queue::{Failure, Reason, Slot};
use crate::nonblocking::{ReadHalf, Reading};

/// How much is read at a time.
const READ_AHEAD: usize = 16 * 1024;

/// Puts an open connection on a runtime, and starts its driver there.
///
/// # Errors
///
/// If the runtime is being shut down.
pub(super) fn start<W: Send + 'static, R: Replies>(
    opened: Opened<W, R>,
    runtime: &Handle,
    is_own: bool,
    kept_by: Weak<dyn Keeps<W, R>>,
) -> io::Result<Arc<Connection<W, R>>> {
    let Opened {
        socket,
        layer,
        peer,
        writer,
        replies,
    } = opened;
    let _entered = runtime.enter();
    let (read, write) = socket.into_halves()?;
    let connection = Connection::new(write, layer, &peer, writer, is_own, kept_by);
    runtime.spawn(Driver::new(Arc::clone(&connection), read, replies));
    Ok(connection)
}

/// Writes the requests of a connection, reads the replies, and gives each to its call. It ends with
/// the connection, and the connection ends when it is dropped, as with its runtime.
struct Driver<W: Send + 'static, R: Replies> {
    // An option only so that a forked child can forget it.
    state: Option<State<W, R>>,
    pid: ProcessId,
}

struct State<W: Send + 'static, R: Replies> {
    connection: Arc<Connection<W, R>>,
    half: ReadHalf,
    replies: R,
    /// What has arrived and was not split yet is at its start, up to `filled`.
    buffer: Vec<u8>,
    filled: usize,
    /// What is to be written, from `written` on.
    writing: Vec<u8>,
    written: usize,
    /// Whether the tasks beside it were let run since there was something to write.
    gave_way: bool,
    // Kept for their memory.
    frames: Vec<Range<usize>>,
    slots: Vec<Slot<R::Expected, R::Reply>>,
}

impl<W: Send + 'static, R: Replies> Driver<W, R> {
    fn new(connection: Arc<Connection<W, R>>, half: ReadHalf, replies: R) -> Self {
        let state = State {
            connection,
            half,
            replies,
            buffer: vec![0; READ_AHEAD],
            filled: 0,
            writing: Vec::new(),
            written: 0,
            gave_way: false,
            frames: Vec::new(),
            slots: Vec::new(),
        };
        Driver {
            state: Some(state),
            pid: ProcessId::current(),
        }
    }
}

// Nothing in it is pinned.
impl<W: Send + 'static, R: Replies> Unpin for Driver<W, R> {}

impl<W: Send + 'static, R: Replies> Future for Driver<W, R> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(state) = &mut self.state else {
            return Poll::Ready(());
        };
        let reason = match ready!(state.poll(cx)) {
            Ok(()) => super::connection::retired(),
            // The runtime drops the driver next, which knows what to do then.
            Err(error) if is_rt_shutdown_err(&error) => return Poll::Pending,
            Err(error) => Reason::broken(&error),
        };
        state.connection.close(true, reason);
        Poll::Ready(())
    }
}

impl<W: Send + 'static, R: Replies> State<W, R> {
    /// Ends without an error when the connection is wanted no more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.driver_is_polled(cx.waker());
        self.read(cx)?;
        self.write(cx)
    }

    /// Reads until nothing is left.
    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            if self.filled == self.buffer.len() {
                // The start of a long reply; `split` limits it.
                self.buffer.resize(2 * self.filled, 0);
            }
            let mut reading = Reading {
                half: &mut self.half,
                cx,
            };
            let layer = self.connection.layer();
            match layer.read(&mut reading, &mut self.buffer[self.filled..]) {
                Ok(0) => {
                    let closed = "the server closed the connection";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, closed));
                }
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.dispatch()?;
        }
    }

    /// Gives each whole reply that has arrived to its call.
    fn dispatch(&mut self) -> io::Result<()> {
        let mut at = 0;
        let split = loop {
            match self.replies.split(&self.buffer[at..self.filled]) {
                Ok(Some(length)) => {
                    self.frames.push(at..at + length);
                    at += length;
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let received = Clock::BOOTTIME.now();
        let all_expected = match self.frames.len() {
            0 => true,
            count => self.connection.answered(count, received, &mut self.slots),
        };
        let mut result = Ok(());
        for (frame, slot) in self.frames.drain(..).zip(self.slots.drain(..)) {
            let outcome = match &result {
                Ok(()) => match self
                    .replies
                    .read(&self.buffer[frame], &slot.expected, received)
                {
                    Ok(answered) => {
                        if answered.retires {
                            self.connection.retire();
                        }
                        Ok(answered.reply)
                    }
                    Err(error) => {
                        let reason = Reason::broken(&error);
                        // The calls after it are no worse than with a connection that broke.
                        let given_up = format!("the connection was given up: {error}");
                        result = Err(io::Error::new(io::ErrorKind::ConnectionAborted, given_up));
                        Err(Failure { sent: true, reason })
                    }
                },
                Err(error) => Err(Failure {
                    sent: true,
                    reason: Reason::broken(error),
                }),
            };
            if let Some(to) = slot.to {
                // The caller may have left.
                let _ = to.send(outcome);
            }
        }
        result?;
        if !all_expected {
            let unasked = "a reply without a request";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, unasked));
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        split.or_else(|error| self.malformed(&error))
    }

    /// What follows is no reply: the first call gets the reason.
    fn malformed(&mut self, error: &io::Error) -> io::Result<()> {
        if self
            .connection
            .answered(1, Clock::BOOTTIME.now(), &mut self.slots)
            && let Some(to) = self.slots.pop().and_then(|slot| slot.to)
        {
            let reason = Reason::broken(error);
            let _ = to.send(Err(Failure { sent: true, reason }));
        }
        let given_up = format!("the connection was given up: {error}");
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, given_up))
    }

    /// Writes until nothing is left. The task is woken when there is more, or when the socket takes
    /// more.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.written == self.writing.len() {
                self.writing.clear();
                self.written = 0;
                match self.connection.take_bytes(&mut self.writing, self.gave_way) {
                    Taken::Bytes => self.gave_way = false,
                    Taken::Later => {
                        self.gave_way = true;
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Taken::Over => return Poll::Ready(Ok(())),
                }
            }
            let left = &self.writing[self.written..];
            let done = match left.is_empty() {
                true => self.connection.flush().map(|()| None),
                false => self.connection.write(left).map(Some),
            };
            match done {
                Ok(None) => return Poll::Pending,
                Ok(Some(count)) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.connection.socket().poll_ready(cx))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl<W: Send + 'static, R: Replies> Drop for Driver<W, R> {
    fn drop(&mut self) {
        let Some(state) = self.state.take() else {
            return;
        };
        if self.pid != ProcessId::current() {
            // To close an inherited socket takes it from the event queue, which the parent shares.
            mem::forget(state);
            return;
        }
        // Does nothing if the connection is closed.
        let gone = io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the runtime that drove the connection was shut down",
        );
        state.connection.close_with_runtime(Reason::broken(&gone));
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
