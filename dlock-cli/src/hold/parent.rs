//! The process that started dlock: the script.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process};

/// How often the parent is looked for, where the system does not report its end.
const LOOK_FOR_PARENT: Duration = Duration::from_millis(500);

/// The process that started dlock.
#[derive(Debug)]
pub(super) struct Parent {
    /// `None` if it had ended before it could be watched.
    pid: Option<Pid>,
    /// Reports its end, where the system can.
    descriptor: Option<OwnedFd>,
}

impl Parent {
    pub(super) fn find() -> Self {
        Self::found(getppid, opened)
    }

    /// The parent is asked for again after it was opened. If it is the same one, it had not ended
    /// in between, so its number was not another process's when it was opened.
    fn found(parent: impl Fn() -> Option<Pid>, open: impl FnOnce(Pid) -> Option<OwnedFd>) -> Self {
        let pid = parent();
        let descriptor = pid.and_then(open);
        match parent() == pid {
            true => Parent { pid, descriptor },
            false => Parent {
                pid: None,
                descriptor: None,
            },
        }
    }

    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.pid.is_none() || getppid() != self.pid
    }

    /// Asks it to end, unless it is gone already.
    pub(super) fn end(&self) {
        match (&self.descriptor, self.pid.filter(|_| !self.is_gone())) {
            (Some(descriptor), _) => {
                let _ = signal(descriptor, Signal::TERM);
            }
            (None, Some(pid)) => {
                let _ = kill_process(pid, Signal::TERM);
            }
            (None, None) => {}
        }
    }

    /// The time of the next check.
    pub(super) fn next_look(&self, other: Instant) -> Instant {
        match self.descriptor {
            Some(_) => other,
            None => other.min(Instant::now() + LOOK_FOR_PARENT),
        }
    }
}

#[cfg(target_os = "linux")]
fn opened(pid: Pid) -> Option<OwnedFd> {
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(not(target_os = "linux"))]
fn opened(_: Pid) -> Option<OwnedFd> {
    None
}

/// Signals exactly the process that was opened.
#[cfg(target_os = "linux")]
fn signal(process: &OwnedFd, signal: Signal) -> rustix::io::Result<()> {
    rustix::process::pidfd_send_signal(process, signal)
}

#[cfg(not(target_os = "linux"))]
fn signal(_: &OwnedFd, _: Signal) -> rustix::io::Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_parent_that_ended_while_it_was_opened_is_gone_and_its_number_is_not_watched() {
        let (this, init) = (rustix::process::getpid(), Pid::INIT);
        let asked = Cell::new(0);
        let parent = || {
            asked.set(asked.get() + 1);
            Some(if asked.get() == 1 { this } else { init })
        };
        // Its number is in use again.
        let found = Parent::found(parent, opened);
        assert!(found.is_gone());
        assert!(found.descriptor().is_none());
        assert!(Parent::found(|| None, opened).is_gone());
    }

    #[test]
    fn a_parent_that_stays_is_watched() {
        let found = Parent::find();
        assert!(!found.is_gone());
        assert!(found.descriptor().is_some());
    }
}
