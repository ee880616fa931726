//! Runs the command: passes signals on, and ends it before the lease ends.
//!
//! One loop watches the command and the lease. It checks both at least once a second, even if no
//! event wakes it: the command ends with its lease although a signal, thread or callback fails. To
//! end it the loop makes system calls only, which need no memory and no mutex.

use std::io;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::LockGuard;
use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use crate::exit_code;
use crate::group::{Group, OutOfReach};
use crate::lease::{LeaseWatch, Loss, State};
use crate::message::{escaped, report, report_if_writable};
use crate::signals::{Event, Signals};
use crate::sys::{self, Change};
use crate::terminal::Terminal;
use crate::watcher::Watcher;

/// The signals that people send to end a command.
const ASKS_TO_END: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// Said when the lock is released although a part of the command's group still runs.
const STILL_RUN: &str = "the command has ended, but processes that it started still run; \
                         the lock is released anyway";

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
/// called at once if the command outlives the lease.
///
/// The watcher that is returned, if one was started, is dismissed already. Dropping it waits for
/// its end.
pub(crate) fn run(
    mut command: Command,
    guard: &LockGuard,
    times: Times,
    signals: &Signals,
    cannot_end: &dyn Fn(Loss, Unkillable),
) -> (Ended, Option<Watcher>) {
    match start(&mut command, guard, times, signals) {
        Ok(running) => running.watch(cannot_end),
        Err(ended) => (ended, None),
    }
}

fn start<'a>(
    command: &mut Command,
    guard: &'a LockGuard,
    times: Times,
    signals: &'a Signals,
) -> Result<Running<'a>, Ended> {
    let cannot = |what: &str, error: &io::Error| {
        Ended::CannotRun(
            exit_code::SYSTEM,
            format!("cannot {what}: {error}; the command was not started"),
        )
    };
    match signals.command_starts() {
        Ok(true) => {}
        Ok(false) => return Err(Ended::NotStarted),
        Err(error) => return Err(cannot("catch signals", &error)),
    }
    let watcher = Watcher::start().map_err(|error| cannot("start the watcher process", &error))?;
    let terminal = Terminal::controlling();
    let tty = terminal.as_ref().and_then(Terminal::to_lend);
    if let Some(pipe) = watcher.pipe() {
        sys::prepare(command, pipe, tty, signals.inherited());
    }
    let lent = tty.is_some();
    guard.on_lost(Signals::lost);
    let mut lease = LeaseWatch::new(guard, times.grace);
    // The process may have been stopped since the grant.
    if lease.check() == State::Lost {
        return Err(Ended::LostBefore(lease.loss()));
    }
    let spawned = command.spawn();
    let leader = spawned
        .as_ref()
        .ok()
        .and_then(|child| Pid::from_raw(child.id().cast_signed()));
    let Some(leader) = leader else {
        if let Some(terminal) = &terminal {
            terminal.take_back_from_failed(lent);
        }
        let error = spawned
            .err()
            .unwrap_or_else(|| io::Error::other("no process"));
        return Err(if is_resource_shortage(&error) {
            cannot("start a process", &error)
        } else {
            cannot_execute(command, &error)
        });
    };
    Ok(Running {
        lease,
        grace: times.grace,
        // A time that the clock cannot count to is no limit.
        end_at: times
            .max_hold
            .and_then(|time| Instant::now().checked_add(time)),
        took_too_long: false,
        signals,
        leader,
        group: Group::new(leader),
        watcher,
        terminal,
        asked_to_end: false,
        suspending: false,
        kill_at: None,
        loss: None,
        reported_unreachable: false,
    })
}

/// Returns whether the system lacks resources for a process. Then nothing is wrong with the
/// program.
fn is_resource_shortage(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE]
        .iter()
        .any(|room| number == Some(*room))
}

fn cannot_execute(command: &Command, error: &io::Error) -> Ended {
    let program = escaped(&command.get_program().to_string_lossy());
    match error.kind() {
        io::ErrorKind::NotFound if is_for_a_shell(&program) => Ended::CannotRun(
            exit_code::NOT_FOUND,
            format!(
                "cannot run {program}: {error}; dlock starts no shell; \
                 a line for a shell is written -- sh -c 'cd x && y'"
            ),
        ),
        io::ErrorKind::NotFound => Ended::CannotRun(
            exit_code::NOT_FOUND,
            format!("cannot run {program}: {error}; is it installed, and in PATH?"),
        ),
        _ => Ended::CannotRun(
            exit_code::CANNOT_EXECUTE,
            format!("cannot run {program}: {error}"),
        ),
    }
}

/// Returns whether only a shell could run this: a line of several words, or a built-in command.
fn is_for_a_shell(program: &str) -> bool {
    const BUILT_IN: [&str; 14] = [
        "cd", "export", "source", ".", "set", "unset", "ulimit", "umask", "alias", "eval", "exec",
        "trap", "if", "for",
    ];
    BUILT_IN.contains(&program)
        || program.contains(|c: char| c.is_whitespace() || "&|;<>$`*(){}=".contains(c))
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
    /// Set once the lease is lost, or so near its end that the command was asked to end.
    loss: Option<Loss>,
    /// Whether it was reported that the command cannot be signalled.
    reported_unreachable: bool,
}

/// Why a command that has lost its lease cannot be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unkillable {
    /// It runs as another user.
    OtherUser,
    /// It was killed but does not end: it hangs in the kernel.
    Hangs,
}

impl Running<'_> {
    fn watch(mut self, cannot_end: &dyn Fn(Loss, Unkillable)) -> (Ended, Option<Watcher>) {
        loop {
            if let Err(OutOfReach) = self.enforce_lease() {
                return match self.reap_children() {
                    // A process of another user that has ended is out of reach too.
                    Some(change) => self.finish(change, cannot_end),
                    None => self.give_up(Unkillable::OtherUser, cannot_end),
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

    /// Acts on the state of the lease: sends SIGTERM when only the grace period is left, and
    /// SIGKILL shortly before the end, since a killed process takes a moment to be gone.
    ///
    /// # Errors
    ///
    /// [`OutOfReach`] if the lease has ended and the command cannot be killed.
    fn enforce_lease(&mut self) -> Result<(), OutOfReach> {
        match self.lease.check() {
            State::Lost => {
                self.loss.get_or_insert(self.lease.loss());
                self.group.kill_with_leader()
            }
            _ if self.kill_at.is_some_and(|at| Instant::now() >= at) => {
                // If it is out of reach, try again: the lease has not ended yet.
                let _ = self.group.kill_with_leader();
                Ok(())
            }
            State::AtRisk if self.loss.is_none() => {
                self.end_early();
                Ok(())
            }
            State::AtRisk | State::Lasts => {
                let is_over = self.end_at.is_some_and(|at| Instant::now() >= at);
                if is_over && !self.took_too_long && self.loss.is_none() {
                    self.end_after_max_hold();
                }
                Ok(())
            }
        }
    }

    fn end_after_max_hold(&mut self) {
        // A command that has just ended by itself keeps its own status. Its end is handled next.
        if self.reap_children().is_some() {
            return;
        }
        if self.group.signal(Signal::TERM).is_err() {
            // dlock does not end it, so its status is its own. It is tried again at the next check.
            return self.report_once("the command cannot be asked to end: it runs as another user");
        }
        self.took_too_long = true;
        self.kill_at = Some(Instant::now() + self.grace);
        let _ = self.group.signal(Signal::CONT);
    }

    fn end_early(&mut self) {
        if self.group.signal(Signal::TERM).is_err() {
            // The command runs on while the lease lasts: a renewal may still succeed.
            return self.report_once("the command cannot be asked to end: it runs as another user");
        }
        self.loss = Some(self.lease.loss());
        let kill_at = self.lease.kill_at();
        self.kill_at = Some(self.kill_at.map_or(kill_at, |at| at.min(kill_at)));
        // A stopped process handles a signal only when it is continued.
        let _ = self.group.signal(Signal::CONT);
    }

    fn next_check(&self) -> Instant {
        let now = Instant::now();
        let end_at = self.end_at.filter(|_| !self.took_too_long);
        let due = [self.kill_at, end_at].into_iter().flatten();
        due.filter(|at| *at > now)
            .fold(self.lease.next_check(), Instant::min)
    }

    fn handle(&mut self, event: Option<Event>) {
        match event {
            // The loop checks for changes after each event.
            None | Some(Event::Lost | Event::Signal(Signal::CHILD)) => {}
            Some(Event::Signal(Signal::CONT)) => self.resume(),
            Some(Event::Signal(Signal::TSTP)) => {
                // If the command waits for the terminal, continue it for that first: a later
                // continue would discard this signal.
                self.reap_children();
                self.suspending = true;
                let _ = self.group.signal(Signal::TSTP);
            }
            Some(Event::Signal(signal)) => {
                self.asked_to_end |= ASKS_TO_END.contains(&signal);
                if self.group.signal(signal).is_err() && self.reap_children().is_none() {
                    self.report_once(
                        "a signal could not be passed to the command: it runs as another user",
                    );
                }
            }
        }
    }

    fn report_once(&mut self, message: &str) {
        if !self.reported_unreachable {
            self.reported_unreachable = true;
            report_if_writable(message);
        }
    }

    /// Reaps children, and handles a stop of the command. Returns how the command ended, if it did.
    fn reap_children(&mut self) -> Option<Change> {
        while let Ok(Some((child, change))) = sys::next_change() {
            match change {
                Change::Exited(_) | Change::Killed(_) if child == self.leader => {
                    return Some(change);
                }
                Change::Stopped(signal) if child == self.leader => {
                    reap(child);
                    self.stopped(signal);
                }
                // As process 1, dlock inherits all orphans.
                _ => reap(child),
            }
        }
        None
    }

    /// Handles a stop of the command. If the command were the shell's own child, the shell would
    /// take the terminal and wait for `fg` or `bg`. So dlock stops too, with its group, and the
    /// shell does that.
    fn stopped(&mut self, signal: i32) {
        let (Some(terminal), Some(signal)) = (&mut self.terminal, Signal::from_named_raw(signal))
        else {
            return;
        };
        let signal = if self.suspending {
            Signal::TSTP
        } else {
            signal
        };
        match signal {
            Signal::TTIN | Signal::TTOU if terminal.lend_on_request(self.leader) => {
                return self.resume();
            }
            Signal::TTIN | Signal::TTOU | Signal::TSTP => {}
            // A user has stopped the command and will continue it. Its lease is renewed meanwhile.
            _ => return,
        }
        terminal.take_back(self.leader);
        let before = Instant::now();
        let _ = sys::take_default_action_with_group(signal);
        let _ = sys::catch(Signal::TSTP.as_raw());
        // Without a shell that could continue it, the system does not stop the group at all. The
        // pause keeps the command from being stopped and continued in a busy loop.
        if signal != Signal::TSTP && before.elapsed() < Duration::from_millis(10) {
            thread::sleep(Duration::from_millis(200));
        }
        self.resume();
    }

    /// Continues the command if the lease lasts. It was not renewed while dlock was stopped; if it
    /// has ended, the loop ends the command.
    fn resume(&mut self) {
        if self.lease.check() == State::Lost {
            return;
        }
        if let Some(terminal) = &self.terminal {
            terminal.lend(self.leader);
        }
        let _ = self.group.signal(Signal::CONT);
    }

    fn take_back_terminal(&self) -> bool {
        self.terminal.as_ref().is_some_and(|terminal| {
            let had_it = terminal.belongs_to(self.leader);
            terminal.take_back(self.leader);
            had_it
        })
    }

    /// Returns although the command runs: the lease is over, and dlock cannot end the command.
    fn give_up(
        mut self,
        why: Unkillable,
        cannot_end: &dyn Fn(Loss, Unkillable),
    ) -> (Ended, Option<Watcher>) {
        self.take_back_terminal();
        self.watcher.dismiss();
        let loss = self.loss.unwrap_or(self.lease.loss());
        cannot_end(loss, why);
        (Ended::RunsOn, Some(self.watcher))
    }

    fn finish(
        mut self,
        change: Change,
        cannot_end: &dyn Fn(Loss, Unkillable),
    ) -> (Ended, Option<Watcher>) {
        let had_terminal = self.take_back_terminal();
        let killed = matches!(change, Change::Killed(_));
        if killed || self.asked_to_end || self.took_too_long || self.loss.is_some() {
            reap(self.leader);
            if let Err(why) = self.wait_for_group() {
                return self.give_up(why, cannot_end);
            }
        }
        self.watcher.dismiss();
        reap(self.leader);
        let ended = match (self.loss, change) {
            (Some(loss), _) => Ended::Lost(loss),
            (None, _) if self.took_too_long => Ended::TookTooLong,
            (None, Change::Killed(signal) | Change::Stopped(signal)) => Ended::Killed {
                signal,
                had_terminal,
            },
            (None, Change::Exited(status)) => {
                Ended::Exited(u8::try_from(status & 0xff).unwrap_or(u8::MAX))
            }
        };
        (ended, Some(self.watcher))
    }

    /// Waits for the rest of the command's group, and holds the lock meanwhile. In `sh -c 'a; b'` a
    /// signal ends the shell at once, while `a` may still be cleaning up.
    ///
    /// The leader was reaped already, but its number is not reused while the group has members.
    ///
    /// # Errors
    ///
    /// If the lease was lost and the rest of the group could not be ended.
    fn wait_for_group(&mut self) -> Result<(), Unkillable> {
        const STEP: Duration = Duration::from_millis(20);
        /// How long a killed process may take to be gone.
        const DYING: Duration = Duration::from_secs(1);
        let wait_until = Instant::now() + self.grace;
        let mut killed = None;
        while self.group.runs() {
            let now = Instant::now();
            match self.lease.check() {
                State::Lost => {
                    self.loss.get_or_insert(self.lease.loss());
                    let killed = *killed.get_or_insert(now);
                    if self.group.signal(Signal::KILL).is_err() && self.group.runs() {
                        return Err(Unkillable::OtherUser);
                    }
                    if now >= killed + DYING {
                        return Err(Unkillable::Hangs);
                    }
                }
                _ if self.kill_at.is_some_and(|at| now >= at) => {
                    let killed = *killed.get_or_insert(now);
                    let reached = self.group.signal(Signal::KILL);
                    // The lease may be renewed for ever, but nothing more can be done.
                    if now >= killed + self.grace.max(DYING) && self.group.runs() {
                        return match (self.loss, reached) {
                            (None, _) => {
                                report(STILL_RUN);
                                Ok(())
                            }
                            (Some(_), Err(OutOfReach)) => Err(Unkillable::OtherUser),
                            (Some(_), Ok(())) => Err(Unkillable::Hangs),
                        };
                    }
                }
                State::AtRisk if self.loss.is_none() => self.end_early(),
                _ if self.loss.is_none() && now >= wait_until => {
                    report(STILL_RUN);
                    return Ok(());
                }
                _ => {}
            }
            if let Some(event) = self.signals.next(Some(now + STEP)) {
                self.handle(Some(event));
                self.reap_children();
            }
        }
        Ok(())
    }
}

/// Acknowledges a child's change of state to the system. A child that has ended disappears.
fn reap(child: Pid) {
    let _ = waitpid(Some(child), WaitOptions::NOHANG | WaitOptions::UNTRACED);
}
