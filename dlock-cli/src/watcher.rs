//! The process that sees to it that a command does not outlive dlock.
//!
//! It holds the reading end of a pipe whose writing end only dlock has, and for a moment the command before it is executed. If dlock ends in
//! whatever way, `kill -9` included, the pipe ends, and the watcher kills the command's process group.
//!
//! It is a fork of dlock that executes nothing, so it costs one `fork`. It must not be hit by what hits dlock or the command: it
//! has a session of its own, and all signals are blocked. It keeps no descriptor but the pipe, so that no pipeline waits for
//! its copy of standard output, no file system stays busy, and no lock that dlock held when it forked stays held.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::sys;

/// Dlock's end of the pipe, and the process at the other one.
pub(crate) struct Watcher {
    process: Pid,
    /// `None` once it was sent home.
    line: Option<OwnedFd>,
}

/// Says that the command ended and its group is nobody's business any more.
const DISMISSED: u8 = 0;

impl Watcher {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// The system has no room for a pipe or a process.
    pub(crate) fn start() -> io::Result<Self> {
        let (reader, line) = pipe_with(PipeFlags::CLOEXEC)?;
        let process = sys::fork(|| watch(&reader))?;
        Ok(Watcher {
            process,
            line: Some(line),
        })
    }

    /// Where the command writes its process id before it is executed, see [`sys::prepare`]. It does so itself, since dlock could be killed
    /// between the fork of the command and a message of its own. `None` once it was sent home.
    pub(crate) fn line(&self) -> Option<BorrowedFd<'_>> {
        self.line.as_ref().map(AsFd::as_fd)
    }

    /// Sends it home. To be called while the command's process id cannot be somebody else's yet.
    pub(crate) fn dismiss(&mut self) {
        if let Some(line) = self.line.take() {
            let _ = rustix::io::write(line, &[DISMISSED]);
        }
    }
}

impl Drop for Watcher {
    /// Sends it home and waits for its end, which comes at once.
    fn drop(&mut self) {
        self.dismiss();
        let wait = || rustix::process::waitpid(Some(self.process), WaitOptions::empty());
        while matches!(wait(), Err(rustix::io::Errno::INTR)) {}
    }
}

/// The watcher's life. System calls only, see [`sys::fork`].
fn watch(line: &OwnedFd) -> sys::Gone {
    sys::set_name(NAME);
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir(c"/");
    let _ = rustix::stdio::dup2_stdin(line);
    sys::close_from(1);
    let line = rustix::stdio::stdin();
    let mut group = [0; size_of::<i32>()];
    if let Ok(Some(())) = read_whole(line, &mut group)
        && let Ok(None) = read_whole(line, &mut [DISMISSED])
        && let Some(group) = Pid::from_raw(i32::from_ne_bytes(group))
    {
        // Once is enough: a fork in the group either sees the signal or has made a member that gets it.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    sys::Gone
}

/// Not `dlock…`, so that `killall -9 dlock` and `pkill -9 dlock` leave it alone to do its work.
const NAME: &std::ffi::CStr = c"lock-watcher";

/// Fills the buffer; `None` if the pipe ended first.
fn read_whole(from: BorrowedFd<'_>, buffer: &mut [u8]) -> rustix::io::Result<Option<()>> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::read(from, &mut buffer[filled..]) {
            Ok(0) => return Ok(None),
            Ok(read) => filled += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(()))
}
