//! Signals as events, and as the end of a wait.
//!
//! The handler writes each signal into a pipe, as one byte. So do the threads that have news of the lease: the main thread reads
//! the pipe while the command runs and needs nothing else to wait for. While it waits for the lock, a thread looks at the pipe for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::Cancel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::sys::{self, Pipe};

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

/// Above all signal numbers.
const AT_RISK: u8 = 254;
const LOST: u8 = 255;

/// The signals that this process gets, and the news of its lease.
pub(crate) struct Signals {
    pipe: &'static Pipe,
}

impl Signals {
    /// Catches the signals that end a program, from now on. Once in the life of the process.
    ///
    /// # Errors
    ///
    /// The system has no room for a pipe.
    pub(crate) fn listen() -> io::Result<Self> {
        let signals = Signals {
            pipe: sys::signal_pipe()?,
        };
        catch_all(&ENDING)?;
        Ok(signals)
    }

    /// Cancels a wait when the first signal comes.
    ///
    /// # Errors
    ///
    /// The system has no room for a thread.
    pub(crate) fn cancel_with(&self, cancel: &Cancel) -> io::Result<()> {
        let (pipe, cancel) = (self.pipe, cancel.clone());
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                // When the command runs by then there is nothing to cancel any more.
                wait_for(pipe.reader.as_fd(), None);
                cancel.cancel();
            })
            .map(drop)
    }

    /// The first signal that came while the lock was not held yet.
    pub(crate) fn first(&self) -> Option<Signal> {
        match self.next(Some(Instant::now())) {
            Some(Event::Signal(signal)) => Some(signal),
            _ => None,
        }
    }

    /// Catches the others too, which the command is about to need.
    pub(crate) fn command_starts(&self) -> io::Result<()> {
        catch_all(&WHILE_RUNNING)
    }

    /// Makes an event; from any thread.
    pub(crate) fn at_risk() {
        sys::note(AT_RISK);
    }

    /// Makes an event; from any thread.
    pub(crate) fn lost() {
        sys::note(LOST);
    }

    /// The next event; `None` if there is none by `until`.
    pub(crate) fn next(&self, until: Option<Instant>) -> Option<Event> {
        loop {
            if !wait_for(self.pipe.reader.as_fd(), until) {
                return None;
            }
            let mut byte = [0];
            match rustix::io::read(&self.pipe.reader, &mut byte) {
                Ok(1) => {}
                _ => continue,
            }
            match byte[0] {
                AT_RISK => return Some(Event::AtRisk),
                LOST => return Some(Event::Lost),
                number => {
                    if let Some(signal) = Signal::from_named_raw(number.into()) {
                        return Some(Event::Signal(signal));
                    }
                }
            }
        }
    }
}

/// Waits until there is something to read; `false` if there is nothing by `until`.
fn wait_for(pipe: BorrowedFd<'_>, until: Option<Instant>) -> bool {
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        // Longer waits are cut short: the loop looks at the clock again.
        let timeout = left.map(|left| {
            let left = left.min(Duration::from_secs(3600));
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(3600),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match poll(
            &mut [PollFd::from_borrowed_fd(pipe, PollFlags::IN)],
            timeout.as_ref(),
        ) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return false,
            Ok(0) | Err(_) => {}
            Ok(_) => return true,
        }
    }
}

fn catch_all(signals: &[Signal]) -> io::Result<()> {
    signals
        .iter()
        .try_for_each(|signal| sys::catch(signal.as_raw()))
}
