//! Job control: who has the terminal.
//!
//! The command is a process group of its own, so that all of it can be killed, and a terminal serves only one group: others that read
//! from it are stopped, and its Ctrl-C and Ctrl-Z go to that one. So dlock lends the terminal to the command, as a shell does, and takes
//! it back when the command stops or ends.
//!
//! If dlock's standard input and output are the terminal, the command gets it from the start. Otherwise dlock may be part of a pipeline,
//! `dlock run … | less`, whose other members need the terminal. Then it stays with dlock's group (Ctrl-C and Ctrl-Z come to dlock,
//! which passes them on) until the command asks for it by being stopped for reading or changing it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::process::{Pid, getpgrp};
use rustix::termios::{isatty, tcgetpgrp};

use crate::sys;

/// The terminal that controls dlock.
pub(crate) struct Terminal {
    tty: File,
    /// Dlock's group, to which the shell gives the terminal.
    home: Pid,
    /// Whether the command shall have the terminal whenever it is dlock's to lend.
    wanted: bool,
}

impl Terminal {
    /// The controlling terminal; `None` if there is none, as under cron.
    pub(crate) fn controlling() -> Option<Self> {
        let tty = File::open("/dev/tty").ok()?;
        Some(Terminal {
            tty,
            home: getpgrp(),
            wanted: isatty(rustix::stdio::stdin()) && isatty(rustix::stdio::stdout()),
        })
    }

    /// The terminal, if a command that is started now shall take it.
    pub(crate) fn to_lend(&self) -> Option<BorrowedFd<'_>> {
        (self.wanted && self.belongs_to(self.home)).then(|| self.tty.as_fd())
    }

    /// Whether the group has it.
    pub(crate) fn belongs_to(&self, group: Pid) -> bool {
        tcgetpgrp(&self.tty) == Ok(group)
    }

    /// Lends it to a group that could not go on without; whether it was there to lend.
    pub(crate) fn lend_on_request(&mut self, group: Pid) -> bool {
        self.wanted = true;
        self.lend(group)
    }

    /// Lends it if it is dlock's to lend and the command shall have it; whether the group has it now.
    pub(crate) fn lend(&self, group: Pid) -> bool {
        self.wanted && self.belongs_to(self.home) && sys::set_foreground(&self.tty, group).is_ok()
    }

    /// Takes it back, unless the shell gave it to somebody else meanwhile.
    pub(crate) fn take_back(&self, group: Pid) {
        if self.belongs_to(group) {
            let _ = sys::set_foreground(&self.tty, self.home);
        }
    }

    /// Takes it back from a command that could not be executed but may have taken it first.
    pub(crate) fn take_back_from_failed(&self, lent: bool) {
        if lent {
            let _ = sys::set_foreground(&self.tty, self.home);
        }
    }
}
