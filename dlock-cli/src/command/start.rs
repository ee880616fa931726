//! Starts the command, or says why it cannot be started.

use std::io;
use std::process::Command;
use std::time::Instant;

use dlock_core::LockGuard;
use rustix::process::Pid;

use super::{Ended, Running, Times};
use crate::exit_code;
use crate::group::Group;
use crate::lease::{LeaseWatch, State};
use crate::message::escaped;
use crate::signals::Signals;
use crate::sys;
use crate::terminal::Terminal;
use crate::watcher::Watcher;

pub(super) fn start<'a>(
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
        killed: None,
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
