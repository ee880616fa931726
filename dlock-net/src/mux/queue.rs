//! The requests that a connection has taken, in their order. No I/O and no clock here.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use dlock_core::Time;
use tokio::sync::oneshot;

/// The part of a call after which its progress is checked.
const PARTS: u32 = 10;
/// The least time between two checks.
const LEAST_PART: Duration = Duration::from_millis(1);

/// The least time that a server has beyond the end of a call before it counts as silent.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);

/// Pending requests are worth a write if they are half of all under way, so that the server works
/// on one half while the tasks send the other, and if they are four, which make up for the write.
const WORTH_A_WRITE: usize = 4;

/// The most bytes, and the most requests, for which a queue at rest keeps memory. Thousands of
/// calls at once need more, for a moment.
const KEPT_BYTES: usize = 64 * 1024;
const KEPT_SLOTS: usize = 512;

/// Where the outcome of a request goes.
pub(super) type Outcome<R> = oneshot::Sender<Result<R, Failure>>;

/// Why a request has no reply.
#[derive(Debug)]
pub(super) struct Failure {
    /// Whether the server may have the whole request, now or later.
    pub(super) sent: bool,
    pub(super) reason: Reason,
}

#[derive(Debug, Clone)]
pub(super) enum Reason {
    /// The call's time is over.
    TimedOut,
    /// Nobody drives the runtime of this connection.
    NotDriven,
    /// The connection is closed.
    Broken(io::ErrorKind, Arc<str>),
}

impl Reason {
    pub(super) fn broken(error: &io::Error) -> Self {
        Reason::Broken(error.kind(), error.to_string().into())
    }
}

/// The requests of one connection, from the call to the reply.
///
/// A request is *pending* while its bytes are here, *handed* when they were taken to be written,
/// and *written* when the socket has all of them.
pub(super) struct Queue<E, R> {
    slots: VecDeque<Slot<E, R>>,
    /// Bytes that were not taken yet: the rest of handed requests, then the pending ones.
    out: Vec<u8>,
    /// The request that is being written. It is added when it is whole, so that a panic in the
    /// middle leaves nothing.
    request: Vec<u8>,
    rest: usize,
    handed: usize,
    written: usize,
    /// How many bytes of the first unwritten request the socket has.
    partial: usize,
    /// The capacity of the buffer that [`hand`](Self::hand) filled last.
    buffered: usize,
    /// Whether the next `hand` gives memory back.
    gives_back: bool,
}

/// One request.
pub(super) struct Slot<E, R> {
    pub(super) expected: E,
    /// `None` when its call has ended; the reply is still to come, and is skipped.
    pub(super) to: Option<Outcome<R>>,
    length: usize,
    begun: Time,
    deadline: Time,
    /// Whether the connection was unused for long before.
    after_rest: bool,
    /// Whether it is to reach the server though its runtime ends.
    outlives_runtime: bool,
}

/// What a check of the queue found.
pub(super) struct Findings<R> {
    pub(super) failed: Vec<(Outcome<R>, Failure)>,
    pub(super) verdict: Verdict,
    /// When to check again.
    pub(super) next: Option<Time>,
}

/// How a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Well,
    /// The driver was woken, and not polled for a good part of a call.
    NotDriven,
    /// The server does not answer; the path to it may lead nowhere.
    Silent,
}

impl<E, R> Default for Queue<E, R> {
    fn default() -> Self {
        Queue {
            slots: VecDeque::new(),
            out: Vec::new(),
            request: Vec::new(),
            rest: 0,
            handed: 0,
            written: 0,
            partial: 0,
            buffered: 0,
            gives_back: false,
        }
    }
}

impl<E, R> Queue<E, R> {
    /// Adds a request, whose bytes `write` appends. Returns where its outcome comes out, and when
    /// to check it for the first time.
    pub(super) fn push(
        &mut self,
        now: Time,
        deadline: Time,
        after_rest: bool,
        write: impl FnOnce(&mut Vec<u8>) -> E,
    ) -> (oneshot::Receiver<Result<R, Failure>>, Time) {
        self.request.clear();
        let expected = write(&mut self.request);
        self.out.extend_from_slice(&self.request);
        let (to, outcome) = oneshot::channel();
        let slot = Slot {
            expected,
            to: Some(to),
            length: self.request.len(),
            begun: now,
            deadline,
            after_rest,
            outlives_runtime: false,
        };
        let check_at = now.saturating_add(slot.part());
        self.slots.push_back(slot);
        (outcome, check_at)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The bytes of the only request, if there is one and all of it is pending: a caller that has
    /// just pushed it may write it.
    pub(super) fn alone(&self) -> Option<&[u8]> {
        (self.slots.len() == 1 && self.handed == 0).then_some(&self.out)
    }

    /// The request that was pushed last is to reach the server though its runtime ends.
    pub(super) fn last_outlives_runtime(&mut self) {
        if let Some(slot) = self.slots.back_mut() {
            slot.outlives_runtime = true;
        }
    }

    /// Whether the socket has such a request, which may not have reached the server yet.
    pub(super) fn has_sent_what_outlives_runtime(&self) -> bool {
        let mut written = self.slots.iter().take(self.written);
        written.any(|slot| slot.outlives_runtime)
    }

    /// The bytes of all pending requests, if the socket has all that was handed.
    pub(super) fn unhanded(&self) -> Option<&[u8]> {
        let is_written = self.handed == self.written && self.partial == 0 && self.rest == 0;
        (is_written && self.has_bytes()).then_some(&self.out)
    }

    /// The same, if they are worth a write before the driver comes.
    pub(super) fn worth_a_write(&self) -> Option<&[u8]> {
        let pending = self.slots.len() - self.handed;
        let is_worth = pending >= WORTH_A_WRITE && 2 * pending >= self.slots.len();
        self.unhanded().filter(|_| is_worth)
    }

    /// The socket has taken `count` bytes of what is [`alone`](Self::alone),
    /// [`unhanded`](Self::unhanded) or [`worth_a_write`](Self::worth_a_write).
    pub(super) fn wrote_pending(&mut self, count: usize) {
        self.out.drain(..count);
        self.rest = self.out.len();
        self.handed = self.slots.len();
        self.wrote(count);
    }

    /// Whether there are bytes to be taken.
    pub(super) fn has_bytes(&self) -> bool {
        !self.out.is_empty()
    }

    /// Hands all bytes on, into an empty buffer.
    pub(super) fn hand(&mut self, buffer: &mut Vec<u8>) {
        debug_assert!(buffer.is_empty());
        (self.rest, self.handed) = (0, self.slots.len());
        if self.has_bytes() {
            std::mem::swap(buffer, &mut self.out);
            self.buffered = buffer.capacity();
        } else if self.gives_back {
            self.gives_back = false;
            buffer.shrink_to(KEPT_BYTES);
            self.buffered = buffer.capacity();
        }
    }

    /// Gives back what was needed for many requests at once. To be called now and then while there
    /// is no request. Returns whether the buffer that was handed out last is large as well: `hand`
    /// gives it back when it is called next and has no bytes.
    pub(super) fn rest(&mut self) -> bool {
        self.out.shrink_to(KEPT_BYTES);
        self.request.shrink_to(KEPT_BYTES);
        self.slots.shrink_to(KEPT_SLOTS);
        self.gives_back = self.buffered > KEPT_BYTES;
        self.gives_back
    }

    /// The socket has taken `count` bytes of what was handed.
    pub(super) fn wrote(&mut self, count: usize) {
        self.partial += count;
        while let Some(slot) = self.slots.get(self.written) {
            if self.written == self.handed || self.partial < slot.length {
                break;
            }
            self.partial -= slot.length;
            self.written += 1;
        }
    }

    /// Takes the first `count` requests, whose replies have arrived. Returns false if the server
    /// has sent more replies than it has requests.
    pub(super) fn answered(&mut self, count: usize, slots: &mut Vec<Slot<E, R>>) -> bool {
        let known = count.min(self.written);
        slots.extend(self.slots.drain(..known));
        self.handed -= known;
        self.written -= known;
        known == count
    }

    /// Finds requests whose time is over, and judges how the connection does. `received` is when
    /// the server last sent something, `woken` since when the driver is to be polled.
    pub(super) fn check(&mut self, now: Time, received: Time, woken: Option<Time>) -> Findings<R> {
        let mut failed = self.take_back(|slot| slot.is_over(now) || slot.is_abandoned());
        for slot in self.slots.iter_mut().take(self.handed) {
            if slot.is_over(now)
                && let Some(to) = slot.to.take()
            {
                failed.push((
                    to,
                    Failure {
                        sent: true,
                        reason: Reason::TimedOut,
                    },
                ));
            }
        }
        let is_silent = |slot: &Slot<E, R>| received < slot.begun && now >= slot.silent_from();
        let mut verdict = match self.slots.front() {
            Some(slot) if self.handed > 0 && is_silent(slot) => Verdict::Silent,
            _ => Verdict::Well,
        };
        let mut next: Option<Time> = None;
        for slot in &self.slots {
            let part = slot.part();
            if woken.is_some_and(|woken| woken.until(now) >= part) && slot.to.is_some() {
                verdict = Verdict::NotDriven;
            }
            let check_at = match slot.to {
                Some(_) => slot.deadline.min(now.saturating_add(part)),
                None => slot.silent_from().max(now.saturating_add(part)),
            };
            next = Some(next.map_or(check_at, |next| next.min(check_at)));
        }
        Findings {
            failed,
            verdict,
            next,
        }
    }

    /// Takes out pending requests: they were not sent, and will not be.
    fn take_back(&mut self, which: impl Fn(&Slot<E, R>) -> bool) -> Vec<(Outcome<R>, Failure)> {
        let mut taken = Vec::new();
        let (mut at, mut place) = (self.rest, self.handed);
        while let Some(slot) = self.slots.get(place) {
            let length = slot.length;
            if !which(slot) {
                (at, place) = (at + length, place + 1);
                continue;
            }
            self.out.drain(at..at + length);
            let slot = self.slots.remove(place);
            if let Some(to) = slot.and_then(|slot| slot.to) {
                taken.push((
                    to,
                    Failure {
                        sent: false,
                        reason: Reason::TimedOut,
                    },
                ));
            }
        }
        taken
    }

    /// Ends all calls. A request of which the socket has not all bytes was not sent if
    /// `no_more_is_written`; otherwise who took its bytes may yet write them.
    pub(super) fn fail_all(
        &mut self,
        no_more_is_written: bool,
        reason: &Reason,
    ) -> Vec<(Outcome<R>, Failure)> {
        let sent = match no_more_is_written {
            true => self.written,
            false => self.handed,
        };
        let slots = std::mem::take(&mut self.slots);
        *self = Queue::default();
        let failed = slots.into_iter().enumerate().filter_map(|(at, slot)| {
            let failure = Failure {
                sent: at < sent,
                reason: reason.clone(),
            };
            Some((slot.to?, failure))
        });
        failed.collect()
    }

    /// Ends the calls, and keeps the connection: what was handed is still answered one day.
    pub(super) fn give_up(&mut self, reason: &Reason) -> Vec<(Outcome<R>, Failure)> {
        let mut failed = self.take_back(|_| true);
        for (_, failure) in &mut failed {
            failure.reason = reason.clone();
        }
        for slot in &mut self.slots {
            if let Some(to) = slot.to.take() {
                failed.push((
                    to,
                    Failure {
                        sent: true,
                        reason: reason.clone(),
                    },
                ));
            }
        }
        failed
    }
}

impl<E, R> Slot<E, R> {
    /// A tenth of the call.
    fn part(&self) -> Duration {
        (self.begun.until(self.deadline) / PARTS).max(LEAST_PART)
    }

    fn is_over(&self, now: Time) -> bool {
        self.deadline <= now
    }

    /// Whether its caller has left.
    fn is_abandoned(&self) -> bool {
        self.to.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// From when a server that has sent nothing since this request does not answer at all. After a
    /// long rest the path to it may lead nowhere, and half of the call is left for a new one.
    fn silent_from(&self) -> Time {
        let whole = self.begun.until(self.deadline);
        match self.after_rest {
            true => self.begun.saturating_add(whole / 2),
            false => self.deadline.saturating_add(whole.max(LEAST_PATIENCE)),
        }
    }
}

#[cfg(test)]
mod tests;
