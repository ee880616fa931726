//! Signals as events, and as the end of a wait.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use dlock_core::Cancel;
use rustix::process::Signal;

use crate::sys;

/// What ends a program that does not catch it: passed on to the command, and while dlock waits for the lock it ends the wait.
const ENDING: [Signal; 7] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
];

/// What is of interest only while the command runs.
const WHILE_RUNNING: [Signal; 4] = [Signal::CHILD, Signal::TSTP, Signal::CONT, Signal::WINCH];

/// What the main thread waits for while the command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// dlock got this signal.
    Signal(Signal),
    /// The lease could not be renewed for so long that only its grace period is left.
    AtRisk,
    /// The lease is lost.
    Lost,
}

/// The signals that this process gets, and whatever else the main thread shall wait for.
pub(crate) struct Signals {
    events: Receiver<Event>,
    sender: Sender<Event>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    cancel: Cancel,
    /// Whether the command was started: then signals are its own business.
    running: AtomicBool,
    /// The first ending signal, 0 before.
    first: AtomicI32,
}

impl Signals {
    /// Catches the signals that end a program, from now on. Once in the life of the process.
    ///
    /// # Errors
    ///
    /// The system has no room for a pipe or a thread.
    pub(crate) fn listen() -> io::Result<Self> {
        let mut pipe = File::from(sys::signal_pipe()?);
        let (sender, events) = channel();
        let shared = Arc::<Shared>::default();
        let signals = Signals {
            events,
            sender: sender.clone(),
            shared: Arc::clone(&shared),
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                let mut number = [0];
                while pipe.read_exact(&mut number).is_ok() {
                    if let Some(signal) = Signal::from_named_raw(number[0].into()) {
                        shared.note(signal);
                        // Nobody listens any more when the process is about to end.
                        let _ = sender.send(Event::Signal(signal));
                    }
                }
            })?;
        catch_all(&ENDING)?;
        Ok(signals)
    }

    /// Is cancelled by the first ending signal, unless the command runs by then.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.shared.cancel
    }

    /// The first ending signal so far.
    pub(crate) fn first(&self) -> Option<Signal> {
        Signal::from_named_raw(self.shared.first.load(Ordering::SeqCst))
    }

    /// Catches the others too, which the command is about to need; from now on no signal cancels anything.
    pub(crate) fn command_starts(&self) -> io::Result<()> {
        self.shared.running.store(true, Ordering::SeqCst);
        catch_all(&WHILE_RUNNING)
    }

    /// Where other threads put events.
    pub(crate) fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// The next event; `None` if there is none by `until`.
    pub(crate) fn next(&self, until: Option<Instant>) -> Option<Event> {
        // A sender lives in `self`, so the channel cannot be closed.
        let Some(until) = until else {
            return self.events.recv().ok();
        };
        let left = until.saturating_duration_since(Instant::now());
        self.events.recv_timeout(left).ok()
    }
}

impl Shared {
    fn note(&self, signal: Signal) {
        if !is_ending(signal) {
            return;
        }
        let (zero, number) = (0, signal.as_raw());
        let _ = self
            .first
            .compare_exchange(zero, number, Ordering::SeqCst, Ordering::SeqCst);
        if !self.running.load(Ordering::SeqCst) {
            self.cancel.cancel();
        }
    }
}

/// Whether it ends a program that does not catch it.
pub(crate) fn is_ending(signal: Signal) -> bool {
    ENDING.contains(&signal)
}

fn catch_all(signals: &[Signal]) -> io::Result<()> {
    signals
        .iter()
        .try_for_each(|signal| sys::catch(signal.as_raw()))
}
