//! One connection that many calls share.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use dlock_core::{Clock, DatastoreError, Time};
use tokio::sync::oneshot;

use super::process::{Alarm, Process};
use super::protocol::{Replies, Sending};
use super::queue::{Failure, Outcome, Queue, Reason, Slot, Verdict};
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

/// When a request is written.
#[derive(Clone, Copy)]
enum When {
    /// At once if it is alone. Not where replies come together: their tasks send together, and the
    /// driver writes all of it at once.
    Best,
    /// At once.
    Now,
}

/// Whether a request that outlives its runtime may not have reached the server yet.
struct MustArrive(bool);

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
type Failed<R> = Vec<(Outcome<<R as Replies>::Reply>, Failure)>;

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
        deadline: Time,
        again: bool,
        write: impl FnOnce(&mut W, &mut Vec<u8>, Sending) -> R::Expected,
    ) -> Result<Receiver<R>, Failure> {
        self.send_when(When::Best, deadline, again, write)
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
        deadline: Time,
        again: bool,
        write: impl FnOnce(&mut W, &mut Vec<u8>, Sending) -> R::Expected,
    ) -> Result<Receiver<R>, Failure> {
        self.send_when(When::Now, deadline, again, write)
    }

    fn send_when(
        self: &Arc<Self>,
        when: When,
        deadline: Time,
        again: bool,
        write: impl FnOnce(&mut W, &mut Vec<u8>, Sending) -> R::Expected,
    ) -> Result<Receiver<R>, Failure> {
        let now = Clock::BOOTTIME.now();
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
        let after_rest = queue.is_empty() && rested >= RESTS_AFTER;
        let sending = Sending { now, again };
        let (outcome, check_at) = queue.push(now, deadline, after_rest, |bytes| {
            write(writer, bytes, sending)
        });
        let flushed = match when {
            When::Now => {
                queue.last_outlives_runtime();
                self.write_here(queue, Queue::unhanded)
            }
            When::Best if is_calm => self.write_here(queue, Queue::alone),
            When::Best => true,
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

    /// No more calls; those under way end.
    pub(super) fn retire(self: &Arc<Self>) {
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
    pub(super) fn close(self: &Arc<Self>, by_driver: bool, reason: Reason) {
        if self.end_calls(by_driver, reason).is_some() {
            self.socket.shut_down();
        }
    }

    /// As [`close`](Self::close), by the driver of a runtime that ends. If a request must reach the
    /// server even so, it waits for that.
    pub(super) fn close_with_runtime(self: &Arc<Self>, reason: Reason) {
        match self.end_calls(true, reason) {
            None => {}
            Some(MustArrive(true)) => self.socket.close_when_read(),
            Some(MustArrive(false)) => self.socket.shut_down(),
        }
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

    fn ring_at(self: &Arc<Self>, at: Time) {
        let alarm: Weak<Self> = Arc::downgrade(self);
        Process::current().ring_at(at, alarm);
    }

    fn state(&self) -> MutexGuard<'_, State<W, R>> {
        // Only the writer's code runs under it, and a request in which that panics is not added.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the driver calls.
impl<W: Send + 'static, R: Replies> Connection<W, R> {
    /// The driver is polled.
    pub(super) fn driver_is_polled(&self, waker: &Waker) {
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
    pub(super) fn take_bytes(&self, buffer: &mut Vec<u8>, at_once: bool) -> Taken {
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
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.layer.write(&mut &self.socket, bytes)?;
        self.state().queue.wrote(count);
        Ok(count)
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        self.layer.flush(&mut &self.socket)?;
        (&self.socket).flush()
    }

    pub(super) fn socket(&self) -> &WriteHalf {
        &self.socket
    }

    pub(super) fn layer(&self) -> &dyn Layer {
        &*self.layer
    }

    /// Takes the first `count` requests, whose replies are here since `received`. Returns false if
    /// there are fewer.
    pub(super) fn answered(
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

/// Reports to the callers, with no lock held: their wakers run here.
fn fail<R: Replies>(failed: Failed<R>) {
    for (to, failure) in failed {
        // The caller may have left.
        let _ = to.send(Err(failure));
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
