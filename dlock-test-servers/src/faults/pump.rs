//! One direction of one connection, and what can go wrong with it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::Counts;

/// What the proxy does with the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Fault {
    /// Passes them on.
    #[default]
    None,
    /// Passes them on this much later.
    Delay(Duration),
    /// Keeps them until the fault is changed, and passes them on then, even if the sender is gone:
    /// a request that is late, a network that is silent for a while, a peer that is half open.
    Hold,
    /// Throws them away; the connection stays.
    Lose,
    /// Passes this many more bytes of each connection on and closes it as soon as there is another
    /// one. With `after: 0` for the replies, the server has carried a request out and the client
    /// never hears of it.
    Cut {
        /// How many bytes still pass.
        after: usize,
    },
    /// Passes them on in small pieces with a pause after each. With one byte each it dribbles.
    Split {
        /// Bytes in a piece, at least 1.
        bytes: usize,
        /// The pause.
        every: Duration,
    },
}

/// What all connections of a proxy share.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    /// By direction: requests, replies.
    faults: [Setting; 2],
    pub(super) counts: Counts,
    pub(super) closed: bool,
    pub(super) refuses: bool,
}

/// A fault and when it was set.
#[derive(Debug, Clone, Copy, Default)]
struct Setting {
    fault: Fault,
    /// Taken away by the first connection that it meets.
    once: bool,
    number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Requests,
    Replies,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    pub(super) fn set(&self, direction: Direction, fault: Fault, once: bool) {
        self.change(|state| {
            let setting = &mut state.faults[direction as usize];
            let number = setting.number + 1;
            *setting = Setting {
                fault,
                once,
                number,
            };
        });
    }

    /// Waits until something changed, at most for `patience`; returns whether it did.
    pub(super) fn wait_while(
        &self,
        patience: Duration,
        condition: impl FnMut(&mut State) -> bool,
    ) -> bool {
        let (_state, timeout) = self
            .changed
            .wait_timeout_while(self.state(), patience, condition)
            .unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }
}

/// Carries the bytes of one direction of one connection.
pub(super) struct Pump {
    direction: Direction,
    from: Arc<TcpStream>,
    to: Arc<TcpStream>,
    shared: Arc<Shared>,
    /// Whether a request of this connection waits for its answer; both directions share it.
    asked: Arc<AtomicBool>,
    /// The fault as this connection sees it; a fault that was set for once lives on here only.
    seen: Setting,
    /// What may still pass before the cut.
    left: usize,
}

impl Pump {
    pub(super) fn new(
        direction: Direction,
        from: Arc<TcpStream>,
        to: Arc<TcpStream>,
        shared: Arc<Shared>,
        asked: Arc<AtomicBool>,
    ) -> Self {
        Pump {
            direction,
            from,
            to,
            shared,
            asked,
            seen: Setting::default(),
            left: 0,
        }
    }

    /// Runs until either side closes or a fault cuts.
    pub(super) fn run(mut self) {
        let mut buffer = [0; 16 * 1024];
        loop {
            match (&*self.from).read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    // Before they are counted: a test that waits for the count may change the
                    // fault, and means the next bytes.
                    let fault = self.fault();
                    self.count(length);
                    if !self.pass(&buffer[..length], fault) {
                        return;
                    }
                }
            }
        }
        // The other direction may still have something to say.
        let _ = self.to.shutdown(Shutdown::Write);
    }

    fn count(&mut self, length: usize) {
        let asking = self.direction == Direction::Requests;
        let first = self.asked.swap(asking, Ordering::SeqCst) != asking;
        self.shared.change(|state| {
            if asking {
                state.counts.round_trips += u64::from(first);
                state.counts.request_bytes += length as u64;
            } else {
                state.counts.reply_bytes += length as u64;
            }
        });
    }

    /// Treats `bytes` as the fault says; false if the connection is over.
    fn pass(&mut self, bytes: &[u8], mut fault: Fault) -> bool {
        loop {
            return match fault {
                Fault::None => self.write(bytes),
                Fault::Delay(time) => {
                    thread::sleep(time);
                    self.write(bytes)
                }
                Fault::Hold => {
                    if self.hold() {
                        fault = self.fault();
                        continue;
                    }
                    false
                }
                Fault::Lose => true,
                Fault::Cut { .. } if bytes.len() <= self.left => {
                    self.left -= bytes.len();
                    self.write(bytes)
                }
                Fault::Cut { .. } => {
                    self.write(&bytes[..self.left]);
                    self.cut();
                    false
                }
                Fault::Split {
                    bytes: piece,
                    every,
                } => bytes.chunks(piece.max(1)).all(|piece| {
                    let passed = self.write(piece);
                    thread::sleep(every);
                    passed && !self.shared.state().closed
                }),
            };
        }
    }

    /// The fault that this connection meets now.
    fn fault(&mut self) -> Fault {
        let mut state = self.shared.state();
        let setting = &mut state.faults[self.direction as usize];
        if setting.number != self.seen.number {
            self.seen = *setting;
            if setting.once {
                // The others, and those to come, are spared.
                setting.fault = Fault::None;
                setting.once = false;
            }
            if let Fault::Cut { after } = self.seen.fault {
                self.left = after;
            }
        }
        self.seen.fault
    }

    /// Waits until the fault is changed; false if the proxy is closed.
    fn hold(&self) -> bool {
        let seen = self.seen.number;
        let direction = self.direction as usize;
        self.shared.wait_while(Duration::MAX, |state| {
            !state.closed && state.faults[direction].number == seen
        });
        !self.shared.state().closed
    }

    fn write(&self, bytes: &[u8]) -> bool {
        (&*self.to).write_all(bytes).is_ok()
    }

    fn cut(&self) {
        let _ = self.from.shutdown(Shutdown::Both);
        let _ = self.to.shutdown(Shutdown::Both);
    }
}
