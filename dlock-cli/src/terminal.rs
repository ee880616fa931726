//! Job control: which process group has the terminal.
//!
//! The command is a process group of its own, so that all of it can be killed. But a terminal
//! serves only one group: Ctrl-C and Ctrl-Z go to that group, and other groups that read from it
//! are stopped. So dlock lends the terminal to the command, as a shell does, and takes it back when
//! the command stops or ends.
//!
//! If dlock's standard input and output are the terminal, the command gets it from the start.
//! Otherwise dlock may be part of a pipeline, `dlock run … | less`, whose other members need the
//! terminal. Then it stays with dlock's group, and dlock passes Ctrl-C and Ctrl-Z on, until the
//! command is stopped because it reads or changes the terminal.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::process::{Pid, getpgrp};
use rustix::termios::{isatty, tcgetpgrp};

use crate::sys;

/// The terminal that controls dlock.
pub(crate) struct Terminal {
    tty: File,
    /// dlock's own group, to which the shell gives the terminal.
    own_group: Pid,
    /// Whether the command gets the terminal whenever dlock has it to lend.
    wanted: bool,
}

impl Terminal {
    /// The controlling terminal; `None` if there is none, as under cron.
    pub(crate) fn controlling() -> Option<Self> {
        let tty = File::open("/dev/tty").ok()?;
        Some(Terminal {
            tty,
            own_group: getpgrp(),
            wanted: isatty(rustix::stdio::stdin()) && isatty(rustix::stdio::stdout()),
        })
    }

    /// The terminal, if a command that is started now is to take it.
    pub(crate) fn to_lend(&self) -> Option<BorrowedFd<'_>> {
        (self.wanted && self.belongs_to(self.own_group)).then(|| self.tty.as_fd())
    }

    /// Returns whether the group has the terminal.
    pub(crate) fn belongs_to(&self, group: Pid) -> bool {
        tcgetpgrp(&self.tty) == Ok(group)
    }

    /// Lends the terminal to a group that cannot continue without it. Returns whether dlock had it
    /// to lend.
    pub(crate) fn lend_on_request(&mut self, group: Pid) -> bool {
        self.wanted = true;
        self.lend(group)
    }

    /// Lends the terminal if dlock has it and the command is to have it. Returns whether the group
    /// has it now.
    pub(crate) fn lend(&self, group: Pid) -> bool {
        self.wanted
            && self.belongs_to(self.own_group)
            && sys::set_foreground(&self.tty, group).is_ok()
    }

    /// Takes the terminal back, unless the shell gave it to another group meanwhile.
    pub(crate) fn take_back(&self, group: Pid) {
        if self.belongs_to(group) {
            let _ = sys::set_foreground(&self.tty, self.own_group);
        }
    }

    /// Takes the terminal back from a command that could not be executed but may have taken it
    /// before.
    pub(crate) fn take_back_from_failed(&self, lent: bool) {
        if lent {
            let _ = sys::set_foreground(&self.tty, self.own_group);
        }
    }
}
