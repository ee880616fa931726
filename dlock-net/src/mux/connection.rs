//! One connection that many calls share.

mod alarm;
mod driven;
mod ending;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use dlock_core::{Clock, DatastoreError, Time};
use tokio::sync::oneshot;

use super::process::Process;
use super::protocol::{Replies, Sending};
use super::queue::{Failure, Queue, Reason};
use crate::nonblocking::{Layer, WriteHalf};
use crate::{NetError, failed_after_sending, failed_before_sending};

/// After how long without a reply the path to the server may be dead, although neither side has
/// closed the connection.
const RESTS_AFTER: Duration = Duration::from_secs(5);

/// After how long without a reply a request is not one of many.
const CALM_AFTER: Duration = Duration::from_micros(200);

/// Where a connection is kept while it is open.
pub(super) trait Keeps<W, R: Replies>: Send + Sync {
    /// The connection takes no more calls.
    fn forget(&self, connection: &Arc<Connection<W, R>>);
}

/// One connection, and the calls that are under way on it.
pub(super) struct Connection<W, R: Replies> {
    state: Mutex<State<W, R>>,
    layer: Box<dyn Layer>,
    socket: WriteHalf,
    peer: Arc<str>,
    id: u64,
    kept_by: Weak<dyn Keeps<W, R>>,
    /// Whether it is on dlock's own runtime, which is always driven.
    is_own: bool,
    /// Set when the runtime was found not to be driven, until it is.
    not_driven: AtomicBool,
}

struct State<W, R: Replies> {
    writer: W,
    queue: Queue<R::Expected, R::Reply>,
    /// The task of the driver; `None` before it was polled for the first time.
    driver: Option<Waker>,
    /// Since when the driver is to be polled, if it is.
    woken: Option<Time>,
    /// When the server last sent something.
    received: Time,
    /// How many replies that was.
    latest_replies: usize,
    /// When the alarm rings; [`Time::MAX`] if none is set.
    rings: Time,
    phase: Phase,
}

enum Phase {
    Open,
    /// Takes no more calls, and ends with the last of those under way.
    Retiring,
    Closed(Reason),
}

/// Until when a request waits for its reply.
#[derive(Clone, Copy)]
pub(super) enum Until {
    /// The end of its call; half of that time if the connection was unused for long.
    End(Time),
    /// The end of the first half of its call.
    HalfWay(Time),
}

impl Until {
    pub(super) fn time(self) -> Time {
        match self {
            Until::End(time) | Until::HalfWay(time) => time,
        }
    }
}

/// When a request is written.
#[derive(Clone, Copy)]
enum When {
    /// At once if it is alone. Not where replies come together: their tasks send together, and what
    /// they send is written together, by the driver or once it is worth a write.
    Best,
    /// At once.
    Now,
}

/// What there is to write.
pub(super) enum Taken {
    /// All that was pending, which may be nothing.
    Bytes,
    /// Something, once others had a chance to add to it.
    Later,
    /// Nothing, ever again.
    Over,
}

pub(super) type Receiver<R> = oneshot::Receiver<Result<<R as Replies>::Reply, Failure>>;

impl<W: Send + 'static, R: Replies> Connection<W, R> {
    /// A connection over this half of a socket; its driver is about to be started.
    pub(super) fn new(
        socket: WriteHalf,
        layer: Box<dyn Layer>,
        peer: &str,
        writer: W,
        is_own: bool,
        kept_by: Weak<dyn Keeps<W, R>>,
    ) -> Arc<Self> {
        static OPENED: AtomicU64 = AtomicU64::new(0);

        let now = Clock::BOOTTIME.now();
        Arc::new(Connection {
            id: OPENED.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(State {
                writer,
                queue: Queue::default(),
                driver: None,
                woken: Some(now),
                received: now,
                latest_replies: 0,
                rings: Time::MAX,
                phase: Phase::Open,
            }),
            layer,
            socket,
            peer: peer.into(),
            kept_by,
            is_own,
            not_driven: AtomicBool::new(false),
        })
    }

    /// Whether its runtime is driven, as far as is known.
    pub(super) fn is_driven(&self) -> bool {
        !self.not_driven.load(Ordering::Acquire)
    }

    pub(super) fn is_closed(&self) -> bool {
        !matches!(self.state().phase, Phase::Open)
    }

    pub(super) fn peer(&self) -> &Arc<str> {
        &self.peer
    }

    /// No two connections of a process have the same.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Lends out the writer.
    pub(super) fn with_writer<T>(&self, f: impl FnOnce(&mut W) -> T) -> T {
        f(&mut self.state().writer)
    }

    /// Sends one request, which `write` appends to the bytes that it is given; `again` if an
    /// earlier copy may have been executed.
    ///
    /// # Errors
    ///
    /// Not sent.
    pub(super) fn send(
        self: &Arc<Self>,
        until: Until,
        again: bool,
        write: impl FnOnce(&mut W, &mut Vec<u8>, Sending) -> R::Expected,
    ) -> Result<Receiver<R>, Failure> {
        self.send_when(When::Best, until, again, write)
    }

    /// As [`send`](Self::send), for a caller that may end the runtime, and the program, as soon as
    /// this returns: all requests that the driver has not taken are written here, unless it is
    /// writing others.
    ///
    /// # Errors
    ///
    /// Not sent.
    pub(super) fn send_now(
        self: &Arc<Self>,
        until: Until,
        again: bool,
        write: impl FnOnce(&mut W, &mut Vec<u8>, Sending) -> R::Expected,
    ) -> Result<Receiver<R>, Failure> {
        self.send_when(When::Now, until, again, write)
    }

    fn send_when(
        self: &Arc<Self>,
        when: When,
        until: Until,
        again: bool,
        write: impl FnOnce(&mut W, &mut Vec<u8>, Sending) -> R::Expected,
    ) -> Result<Receiver<R>, Failure> {
        let (now, deadline) = (Clock::BOOTTIME.now(), until.time());
        let failure = |reason| Failure {
            sent: false,
            reason,
        };
        if now >= deadline {
            return Err(failure(Reason::TimedOut));
        }
        let mut state = self.state();
        match &state.phase {
            Phase::Open => {}
            Phase::Retiring => return Err(failure(retired())),
            Phase::Closed(reason) => return Err(failure(reason.clone())),
        }
        let rested = state.received.until(now);
        let is_calm = state.latest_replies <= 1 || rested >= CALM_AFTER;
        let State { writer, queue, .. } = &mut *state;
        let may_rest = matches!(until, Until::End(_));
        let after_rest = may_rest && queue.is_empty() && rested >= RESTS_AFTER;
        let sending = Sending { now, again };
        let (outcome, check_at) = queue.push(now, deadline, after_rest, |bytes| {
            write(writer, bytes, sending)
        });
        let flushed = match when {
            When::Now => {
                queue.last_outlives_runtime();
                self.write_here(queue, Queue::unhanded)
            }
            When::Best => self.write_here(queue, |queue| {
                let alone = is_calm.then(|| queue.alone()).flatten();
                alone.or_else(|| queue.worth_a_write())
            }),
        };
        let driver = match flushed && !queue.has_bytes() {
            true => None,
            false => state.wakes_driver(now),
        };
        let rings = check_at < state.rings;
        if rings {
            state.rings = check_at;
        }
        drop(state);
        if rings {
            self.ring_at(check_at);
        }
        if let Some(driver) = driver {
            driver.wake();
        }
        Ok(outcome)
    }

    /// Sends many requests with nothing of others between them: those numbered `which`, each with
    /// its deadline and whether an earlier copy may have been executed. `write` appends one of
    /// them.
    ///
    /// # Errors
    ///
    /// Of each of them: not sent.
    pub(super) fn send_together(
        self: &Arc<Self>,
        which: impl Iterator<Item = (usize, Time, bool)>,
        mut write: impl FnMut(usize, &mut W, &mut Vec<u8>, Sending) -> R::Expected,
    ) -> Vec<(usize, Result<Receiver<R>, Failure>)> {
        let now = Clock::BOOTTIME.now();
        let mut state = self.state();
        let ends = match &state.phase {
            Phase::Open => None,
            Phase::Retiring => Some(retired()),
            Phase::Closed(reason) => Some(reason.clone()),
        };
        let State {
            writer,
            queue,
            received,
            ..
        } = &mut *state;
        let after_rest = queue.is_empty() && received.until(now) >= RESTS_AFTER;
        let mut first_check = Time::MAX;
        let sent = which.map(|(at, deadline, again)| {
            let reason = ends
                .clone()
                .or((now >= deadline).then_some(Reason::TimedOut));
            if let Some(reason) = reason {
                let sent = false;
                return (at, Err(Failure { sent, reason }));
            }
            let sending = Sending { now, again };
            let (outcome, check_at) = queue.push(now, deadline, after_rest, |bytes| {
                write(at, writer, bytes, sending)
            });
            first_check = first_check.min(check_at);
            (at, Ok(outcome))
        });
        let sent: Vec<_> = sent.collect();
        let driver = match state.queue.has_bytes() {
            true => state.wakes_driver(now),
            false => None,
        };
        let rings = first_check < state.rings;
        if rings {
            state.rings = first_check;
        }
        drop(state);
        if rings {
            self.ring_at(first_check);
        }
        if let Some(driver) = driver {
            driver.wake();
        }
        sent
    }

    /// Writes requests that nothing is before, to spare the way to the driver. Returns whether the
    /// layer keeps nothing back. What fails here fails for the driver as well, which ends the
    /// connection.
    fn write_here(
        &self,
        queue: &mut Queue<R::Expected, R::Reply>,
        which: impl FnOnce(&Queue<R::Expected, R::Reply>) -> Option<&[u8]>,
    ) -> bool {
        let Some(bytes) = which(queue) else {
            return true;
        };
        match self.layer.write(&mut &self.socket, bytes) {
            Ok(count) => queue.wrote_pending(count),
            Err(_) => return true,
        }
        self.layer.flush(&mut &self.socket).is_ok()
    }

    fn ring_at(self: &Arc<Self>, at: Time) {
        let alarm: Weak<Self> = Arc::downgrade(self);
        Process::current().ring_at(at, alarm);
    }

    fn state(&self) -> MutexGuard<'_, State<W, R>> {
        // Only the writer's code runs under it, and a request in which that panics is not added.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W, R: Replies> State<W, R> {
    /// Notes that the driver has to be polled. Returns its waker unless it was woken before.
    fn wakes_driver(&mut self, now: Time) -> Option<Waker> {
        if self.woken.is_some() {
            return None;
        }
        self.woken = Some(now);
        self.driver.clone()
    }
}

pub(super) fn retired() -> Reason {
    Reason::Broken(
        io::ErrorKind::ConnectionAborted,
        "the connection takes no more calls".into(),
    )
}

/// The error of a request without a reply.
pub(super) fn error_of(peer: &str, failure: &Failure) -> DatastoreError {
    let source = match &failure.reason {
        Reason::TimedOut | Reason::NotDriven => io::ErrorKind::TimedOut.into(),
        Reason::Broken(kind, text) => io::Error::new(*kind, text.to_string()),
    };
    match failure.sent {
        true => failed_after_sending(NetError::new(peer, "read the reply", source)),
        false => failed_before_sending(NetError::new(peer, "send the request", source)),
    }
}
