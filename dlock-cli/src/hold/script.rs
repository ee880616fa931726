//! The script that wants the lock, as dlock sees it: the standard input and the parent. When either
//! has ended, nobody wants the lock any more.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::Cancel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::parent::Parent;

/// The longest time without a check.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// What of the script has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// The standard input.
    Input,
    /// The parent.
    Parent,
}

/// The script that wants the lock.
pub(super) struct Script {
    parent: Parent,
}

impl Script {
    pub(super) fn find() -> Self {
        Script {
            parent: Parent::find(),
        }
    }

    pub(super) fn parent(&self) -> &Parent {
        &self.parent
    }

    /// Waits until the script may have ended, `other` is readable, or it is `until`.
    pub(super) fn wait(&self, other: BorrowedFd<'_>, until: Instant) {
        let until = self.parent.next_look(until);
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(1),
            tv_nsec: left.subsec_nanos().into(),
        };
        let readable = |descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN);
        let mut all = vec![readable(other), readable(rustix::stdio::stdin())];
        all.extend(self.parent.descriptor().map(readable));
        let _ = poll(&mut all, Some(&timeout));
    }

    /// What of the script has ended by now.
    pub(super) fn gone(&self) -> Option<Gone> {
        if self.parent.is_gone() {
            return Some(Gone::Parent);
        }
        if !is_readable(rustix::stdio::stdin()) {
            return None;
        }
        // What is written there has no meaning.
        match rustix::io::read(rustix::stdio::stdin(), &mut [0; 1024]) {
            Ok(0) => Some(Gone::Input),
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => None,
            Err(_) => Some(Gone::Input),
        }
    }

    /// Calls `acquire`, and cancels it when the script ends. Also returns what of the script has
    /// ended.
    ///
    /// # Errors
    ///
    /// If the system has no thread or descriptor left. Then `acquire` was not called.
    pub(super) fn cancelling<T>(
        &self,
        cancel: &Cancel,
        acquire: impl FnOnce() -> T,
    ) -> io::Result<(T, Option<Gone>)> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        thread::scope(|scope| {
            let watch = || {
                loop {
                    let gone = self.gone();
                    if gone.is_some() {
                        cancel.cancel();
                        return gone;
                    }
                    if is_readable(reader.as_fd()) {
                        return None;
                    }
                    self.wait(reader.as_fd(), Instant::now() + CHECK_EVERY);
                }
            };
            let name = "script".to_owned();
            let watcher = thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, watch)?;
            let acquired = acquire();
            // Ends the watch.
            drop(writer);
            Ok((acquired, watcher.join().unwrap_or(None)))
        })
    }
}

/// Whether a read would not block: there is something, or the end.
fn is_readable(descriptor: BorrowedFd<'_>) -> bool {
    let mut descriptor = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    poll(&mut descriptor, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}
