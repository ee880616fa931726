//! Runs the command: passes signals on, and ends it before the lease ends.
//!
//! One loop watches the command and the lease. It checks both at least once a second, even if no
//! event wakes it: the command ends with its lease although a signal, thread or callback fails. To
//! end it the loop makes system calls only, which need no memory and no mutex.

mod end;
mod enforce;
mod events;
mod start;

use std::process::Command;
use std::time::{Duration, Instant};

use dlock_core::LockGuard;
use rustix::process::Pid;

use crate::group::Group;
use crate::lease::{LeaseWatch, Loss};
use crate::signals::Signals;
use crate::terminal::Terminal;
use crate::watcher::Watcher;

/// How long a killed process may take to be gone.
const DYING: Duration = Duration::from_secs(1);

/// How a command ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself, with this status.
    Exited(u8),
    /// By a signal. If the command had the terminal, the signal probably came from there.
    Killed { signal: i32, had_terminal: bool },
    /// A signal came before it was started.
    NotStarted,
    /// It could not be started: exit code and reason.
    CannotRun(u8, String),
    /// The lease was lost before the command was started.
    LostBefore(Loss),
    /// The lease was lost or about to be lost, so dlock ended the command.
    Lost(Loss),
    /// It ran for longer than it may hold the lock, so dlock ended it.
    TookTooLong,
    /// The lease was lost, and the command could not be ended. This was reported.
    RunsOn,
    /// It ran for longer than it may hold the lock, was killed, and does not end. This was
    /// reported. Nobody may get the lock before the lease has ended by itself: it must not be
    /// released or renewed.
    Hangs,
}

/// How long a command may do what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// How long before the end of the lease it is asked to end, and how long after that it is
    /// killed.
    pub(crate) grace: Duration,
    /// How long it may hold the lock.
    pub(crate) max_hold: Option<Duration>,
}

/// Runs the command under the lock that `guard` holds, and returns when it has ended. When only
/// `grace` of the lease is left, or after `max_hold`, the command is asked to end. `cannot_end` is
/// called at once if the command outlives the lease, or its own end.
///
/// The watcher that is returned, if one was started, is dismissed already. Dropping it waits for
/// its end.
pub(crate) fn run(
    mut command: Command,
    guard: &LockGuard,
    times: Times,
    signals: &Signals,
    cannot_end: &dyn Fn(CannotEnd),
) -> (Ended, Option<Watcher>) {
    match start::start(&mut command, guard, times, signals) {
        Ok(running) => running.watch(cannot_end),
        Err(ended) => (ended, None),
    }
}

struct Running<'a> {
    lease: LeaseWatch<'a>,
    grace: Duration,
    /// When the command has held the lock for as long as it may.
    end_at: Option<Instant>,
    /// Whether it was asked to end for that.
    took_too_long: bool,
    signals: &'a Signals,
    leader: Pid,
    group: Group,
    watcher: Watcher,
    terminal: Option<Terminal>,
    /// Whether the command was asked to end.
    asked_to_end: bool,
    /// Whether SIGTSTP was just passed on. A stop that is noticed now is attributed to it.
    suspending: bool,
    /// When to kill a command that has received SIGTERM.
    kill_at: Option<Instant>,
    /// When it was killed first.
    killed: Option<Instant>,
    /// Set once the lease is lost, or so near its end that the command was asked to end.
    loss: Option<Loss>,
    /// Whether it was reported that the command cannot be signalled.
    reported_unreachable: bool,
}

/// Why a command cannot be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unkillable {
    /// It runs as another user.
    OtherUser,
    /// It was killed but does not end: it hangs in the kernel.
    Hangs,
}

/// A command that runs on although it must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CannotEnd {
    /// It has lost its lease.
    Lost(Loss, Unkillable),
    /// It ran for longer than it may hold the lock, was killed, and does not end.
    TookTooLong,
}

impl Running<'_> {
    fn watch(mut self, cannot_end: &dyn Fn(CannotEnd)) -> (Ended, Option<Watcher>) {
        loop {
            if let Err(why) = self.enforce_lease() {
                return match self.reap_children() {
                    // A process of another user that has ended is out of reach too.
                    Some(change) => self.finish(change, cannot_end),
                    None => self.give_up(why, cannot_end),
                };
            }
            let event = self.signals.next(Some(self.next_check()));
            self.handle(event);
            let change = self.reap_children();
            self.suspending = false;
            if let Some(change) = change {
                return self.finish(change, cannot_end);
            }
        }
    }
}
