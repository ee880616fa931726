//! Turns signals into events, and lets them end the wait for the lock.
//!
//! The signal handler writes each signal into a pipe, as one byte. The thread that reports a lost
//! lease does the same. The main thread reads the pipe while the command runs.
//!
//! While the main thread waits for the lock, it may hang in a call to the store or the system. So a
//! second thread watches the pipe during the wait. It cancels the wait, and if the process does not
//! end within a moment, it ends the process itself.
//!
//! `signal-hook` keeps a flag for each signal and reports them by their numbers: it would pass on
//! the SIGCONT that followed a SIGTSTP before it, and the command would stay stopped.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::Cancel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::exit_code;
use crate::sys::{self, Inherited, Pipe};

/// Signals that end a program that does not catch them. They end the wait for the lock; later they
/// are passed on to the command.
const ENDING: [Signal; 7] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
];

/// Signals that matter only while the command runs.
const WHILE_RUNNING: [Signal; 4] = [Signal::CHILD, Signal::TSTP, Signal::CONT, Signal::WINCH];

/// What the main thread waits for while the command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// dlock received this signal.
    Signal(Signal),
    /// The lease is lost.
    Lost,
}

/// The byte for a lost lease, greater than all signal numbers.
const LOST: u8 = 255;

/// The signals that this process receives, and the loss of its lease.
pub(crate) struct Signals {
    pipe: &'static Pipe,
    inherited: Inherited,
    stage: Arc<AtomicU8>,
}

/// Stage: the main thread waits for the lock.
const WAITING: u8 = 0;
/// Stage: the lock is acquired and the command is about to start. Signals are for the command.
const STARTED: u8 = 1;
/// Stage: a signal ended the wait. The command must not start.
const ENDED: u8 = 2;

impl Signals {
    /// From now on catches the signals that end a program. Call it only once in a process.
    ///
    /// # Errors
    ///
    /// If the system cannot create a pipe.
    pub(crate) fn catch() -> io::Result<Self> {
        let signals = Signals {
            pipe: sys::signal_pipe()?,
            inherited: Inherited::take()?,
            stage: Arc::default(),
        };
        catch_all(&ENDING)?;
        // Unblock only after the handlers are set, because a pending signal is delivered at once.
        let all = ENDING.iter().chain(&WHILE_RUNNING);
        sys::unblock(all.map(|signal| signal.as_raw()));
        Ok(signals)
    }

    /// Cancels the wait for the lock when the first signal comes. If the process has not ended soon
    /// after, because the store does not answer, ends the process.
    ///
    /// # Errors
    ///
    /// If the system cannot start a thread.
    pub(crate) fn end_wait_with(&self, cancel: &Cancel) -> io::Result<()> {
        // Enough time to release a lock that was just granted, or to leave the queue.
        const MOMENT: Duration = Duration::from_millis(100);
        let (pipe, stage, cancel) = (self.pipe, Arc::clone(&self.stage), cancel.clone());
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                wait_for(pipe.reader.as_fd(), None);
                if change(&stage, ENDED) {
                    cancel.cancel();
                    thread::sleep(MOMENT);
                    sys::exit_now(exit_code::of_signal(sys::first_signal().unwrap_or(0)));
                }
            })
            .map(drop)
    }

    /// The signal that ended the wait for the lock.
    pub(crate) fn first(&self) -> Option<i32> {
        sys::first_signal()
    }

    /// From now on signals are for the command, including those that only the command needs.
    /// Returns `false` if a signal came before: then the command must not be started.
    pub(crate) fn command_starts(&self) -> io::Result<bool> {
        if self.first().is_some() {
            return Ok(false);
        }
        catch_all(&WHILE_RUNNING)?;
        Ok(self.wait_is_over())
    }

    /// From now on signals do not end the wait for the lock any more, which was acquired. Returns
    /// `false` if a signal came before.
    pub(crate) fn wait_is_over(&self) -> bool {
        self.first().is_none() && change(&self.stage, STARTED)
    }

    /// Readable when there is an event.
    pub(crate) fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.reader.as_fd()
    }

    /// How signals were treated when dlock was started.
    pub(crate) fn inherited(&self) -> Inherited {
        self.inherited
    }

    /// Reports the loss of the lease, from any thread.
    pub(crate) fn lost() {
        sys::note(LOST);
    }

    /// Waits for the next event; `None` if there is none by `until`.
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

/// Waits until there is something to read. Returns `false` if there is nothing by `until`.
fn wait_for(pipe: BorrowedFd<'_>, until: Option<Instant>) -> bool {
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        // Long waits are split: the loop reads the clock again.
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
            Ok(0) | Err(_) if left.is_some_and(|left| left.is_zero()) => return false,
            Ok(0) | Err(_) => {}
            Ok(_) => return true,
        }
    }
}

/// Ends the stage [`WAITING`]. Returns `false` if it had ended before.
fn change(stage: &AtomicU8, to: u8) -> bool {
    stage
        .compare_exchange(WAITING, to, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
}

fn catch_all(signals: &[Signal]) -> io::Result<()> {
    signals
        .iter()
        .try_for_each(|signal| sys::catch(signal.as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sorted by number, CONT would come before TSTP, and the command would stay stopped.
    #[test]
    fn signals_are_reported_in_the_order_in_which_they_came() {
        let signals = Signals::catch().unwrap();
        assert!(signals.command_starts().unwrap());
        let sent = [Signal::TSTP, Signal::CONT, Signal::USR2, Signal::USR1];
        for signal in sent {
            sys::raise(signal).unwrap();
        }
        for signal in sent {
            let soon = Instant::now() + Duration::from_secs(20);
            assert_eq!(signals.next(Some(soon)), Some(Event::Signal(signal)));
        }
        assert_eq!(signals.first(), Some(Signal::TSTP.as_raw()));
        assert_eq!(signals.next(Some(Instant::now())), None);
    }
}
