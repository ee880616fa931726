//! The command while it runs: passes signals on, and ends it before the lease ends.

use std::io;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::LockGuard;
use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use crate::exit_code;
use crate::group::Group;
use crate::say::{plain, say};
use crate::signals::{Event, Signals};
use crate::sys::{self, Change};
use crate::terminal::Terminal;
use crate::watcher::Watcher;

/// What people send when they want a command to end.
const ASKS_TO_END: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// How a command ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself, with this status.
    Exited(u8),
    /// By a signal; and whether the command had the terminal, from which the signal then probably came.
    Killed { signal: i32, had_terminal: bool },
    /// A signal came before it was started.
    NotStarted(i32),
    /// It could not be started; exit code and reason.
    CannotRun(u8, String),
    /// The lease was lost or about to be, and the command was ended for it.
    Lost,
}

/// Runs the command under the lock that `guard` holds; returns when it ended. `grace` is how long what is left of a command
/// that was told to end may take.
///
/// The watcher, if it came to one, is on its way home; dropping it waits for it.
pub(crate) fn run(
    mut command: Command,
    guard: &LockGuard,
    grace: Duration,
    signals: &Signals,
) -> (Ended, Option<Watcher>) {
    match start(&mut command, guard, grace, signals) {
        Ok(running) => running.watch(),
        Err(ended) => (ended, None),
    }
}

fn start<'a>(
    command: &mut Command,
    guard: &'a LockGuard,
    grace: Duration,
    signals: &'a Signals,
) -> Result<Running<'a>, Ended> {
    let cannot = |what: &str, error: &io::Error| {
        Ended::CannotRun(exit_code::LOST, format!("cannot {what}: {error}"))
    };
    if let Some(signal) = signals.first() {
        return Err(Ended::NotStarted(signal.as_raw()));
    }
    signals
        .command_starts()
        .map_err(|error| cannot("catch signals", &error))?;
    let watcher = Watcher::start().map_err(|error| cannot("start the watcher process", &error))?;
    let terminal = Terminal::controlling();
    let tty = terminal.as_ref().and_then(Terminal::to_lend);
    if let Some(line) = watcher.line() {
        sys::prepare(command, line, tty);
    }
    let lent = tty.is_some();
    // The process may have been stopped since the grant.
    if !guard.is_valid() {
        return Err(Ended::Lost);
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
        return Err(cannot_execute(command, &error));
    };
    let group = Arc::new(Group::new(leader));
    guard.on_at_risk(Signals::at_risk);
    guard.on_lost({
        let group = Arc::clone(&group);
        move || {
            // Here and not in the main thread, which could be busy, writing to a full pipe for example.
            group.signal(Signal::KILL);
            Signals::lost();
        }
    });
    Ok(Running {
        guard,
        grace,
        signals,
        leader,
        group,
        watcher,
        terminal,
        kill_at: None,
        told_to_end: false,
        lost: false,
    })
}

fn cannot_execute(command: &Command, error: &io::Error) -> Ended {
    let program = plain(&command.get_program().to_string_lossy());
    match error.kind() {
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

struct Running<'a> {
    guard: &'a LockGuard,
    grace: Duration,
    signals: &'a Signals,
    leader: Pid,
    group: Arc<Group>,
    watcher: Watcher,
    terminal: Option<Terminal>,
    /// When SIGTERM has had its time.
    kill_at: Option<Instant>,
    /// Whether the command was asked to end.
    told_to_end: bool,
    /// Whether the lease was lost, or so near its end that the command was ended for it.
    lost: bool,
}

impl Running<'_> {
    fn watch(mut self) -> (Ended, Option<Watcher>) {
        loop {
            let event = self.signals.next(self.kill_at);
            self.handle(event);
            if event == Some(Event::Signal(Signal::CHILD))
                && let Some(change) = self.news()
            {
                return self.finish(change);
            }
        }
    }

    fn handle(&mut self, event: Option<Event>) {
        match event {
            None => {
                self.group.signal(Signal::KILL);
                self.kill_at = None;
            }
            Some(Event::AtRisk) => self.end_early(),
            Some(Event::Lost) => self.lost = true,
            Some(Event::Signal(Signal::CHILD)) => {}
            Some(Event::Signal(Signal::CONT)) => self.go_on(),
            Some(Event::Signal(signal)) => {
                self.told_to_end |= ASKS_TO_END.contains(&signal);
                self.group.signal(signal);
            }
        }
    }

    /// SIGTERM now, SIGKILL shortly before the lease ends: a killed process takes a moment to be gone.
    fn end_early(&mut self) {
        const MOMENT: Duration = Duration::from_millis(500);
        self.lost = true;
        let left = self.guard.remaining();
        self.kill_at = Some(Instant::now() + left.saturating_sub(MOMENT.min(left / 4)));
        self.group.signal(Signal::TERM);
        // A stopped process takes note of a signal when it is continued.
        self.group.signal(Signal::CONT);
    }

    /// Looks after the children; how the command ended, if it did.
    fn news(&mut self) -> Option<Change> {
        while let Ok(Some((child, change))) = sys::next_change() {
            match change {
                Change::Exited(_) | Change::Killed(_) if child == self.leader => {
                    return Some(change);
                }
                Change::Stopped(signal) if child == self.leader => {
                    take_note_of(child);
                    self.stopped(signal);
                }
                // As process 1 dlock inherits all orphans.
                _ => take_note_of(child),
            }
        }
        None
    }

    /// What a shell would do if the command were its own child: it takes the terminal, and waits for `fg` or `bg`. Here dlock stops
    /// too, with its group, so that the shell does so.
    fn stopped(&mut self, signal: i32) {
        let (Some(terminal), Some(signal)) = (&mut self.terminal, Signal::from_named_raw(signal))
        else {
            return;
        };
        match signal {
            Signal::TTIN | Signal::TTOU if terminal.lend_on_request(self.leader) => {
                return self.go_on();
            }
            Signal::TTIN | Signal::TTOU | Signal::TSTP => {}
            // Somebody stopped the command by hand and will continue it by hand; its lease goes on.
            _ => return,
        }
        terminal.take_back(self.leader);
        let before = Instant::now();
        let _ = sys::take_default_action_with_group(signal);
        let _ = sys::catch(Signal::TSTP.as_raw());
        // Where there is no shell to continue it, the system does not stop a group at all. Without a pause the command would be
        // stopped and continued without end.
        if signal != Signal::TSTP && before.elapsed() < Duration::from_millis(10) {
            thread::sleep(Duration::from_millis(200));
        }
        self.go_on();
    }

    /// Continues the command if the lease lasts. While dlock was stopped nobody renewed it.
    fn go_on(&mut self) {
        if !self.guard.is_valid() {
            self.lost = true;
            self.group.signal(Signal::KILL);
            return;
        }
        if let Some(terminal) = &self.terminal {
            terminal.lend(self.leader);
        }
        self.group.signal(Signal::CONT);
    }

    fn finish(mut self, change: Change) -> (Ended, Option<Watcher>) {
        let had_terminal = self.terminal.as_ref().is_some_and(|terminal| {
            let had_it = terminal.belongs_to(self.leader);
            terminal.take_back(self.leader);
            had_it
        });
        let killed = matches!(change, Change::Killed(_));
        if killed || self.told_to_end || self.lost {
            take_note_of(self.leader);
            self.wait_for_the_rest();
        }
        self.watcher.dismiss();
        self.group.forget();
        take_note_of(self.leader);
        let ended = match change {
            _ if self.lost => Ended::Lost,
            Change::Killed(signal) | Change::Stopped(signal) => Ended::Killed {
                signal,
                had_terminal,
            },
            Change::Exited(status) => Ended::Exited(u8::try_from(status & 0xff).unwrap_or(u8::MAX)),
        };
        (ended, Some(self.watcher))
    }

    /// In `sh -c 'a; b'` a signal ends the shell at once, while `a` may take its time to clean up. The lock is held meanwhile.
    ///
    /// The leader was waited for, but as long as the group has members its number is nobody else's.
    fn wait_for_the_rest(&mut self) {
        const STEP: Duration = Duration::from_millis(20);
        let patience = Instant::now() + self.grace;
        while self.group.runs() {
            let now = Instant::now();
            if self.lost {
                if self.kill_at.is_none_or(|kill_at| now >= kill_at) {
                    return self.group.signal(Signal::KILL);
                }
            } else if now >= patience {
                return say(
                    "the command ended, but processes that it started do not; the lock is released all the same",
                );
            }
            if let Some(event) = self.signals.next(Some(now + STEP)) {
                self.handle(Some(event));
                self.news();
            }
        }
    }
}

/// Takes a child's change of state off the system's list; if it ended it is gone then.
fn take_note_of(child: Pid) {
    let _ = waitpid(Some(child), WaitOptions::NOHANG | WaitOptions::UNTRACED);
}
