//! A process that makes sure that the command does not outlive dlock.
//!
//! It holds the reading end of a pipe. Only dlock has the writing end, and for a moment the command
//! before it is executed. However dlock ends, even by `kill -9`, the pipe ends, and the watcher
//! kills the command's process group.
//!
//! It is a fork of dlock without an `exec`, so it costs one `fork`. Signals to dlock or the command
//! must not end it, so it has a session of its own and blocks all signals. It keeps no descriptor
//! but the pipe: a pipepipe must not wait for its copy of standard output, a file system must not
//! stay busy, and a file lock of dlock must not stay held.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::sys;

/// dlock's end of the pipe, and the process at the other end.
pub(crate) struct Watcher {
    process: Pid,
    /// `None` once the watcher was dismissed.
    pipe: Option<OwnedFd>,
}

/// The byte that says that the command has ended and its group must not be killed.
const DISMISSED: u8 = 0;

impl Watcher {
    /// Starts the watcher.
    ///
    /// # Errors
    ///
    /// If the system cannot create a pipe or a process.
    pub(crate) fn start() -> io::Result<Self> {
        let (reader, pipe) = pipe_with(PipeFlags::CLOEXEC)?;
        let process = sys::fork(|| watch(&reader))?;
        Ok(Watcher {
            process,
            pipe: Some(pipe),
        })
    }

    /// The pipe into which the command writes its process id before it is executed, see
    /// [`sys::prepare`]. dlock could not do that reliably: it could be killed between the fork of
    /// the command and the write. `None` once the watcher was dismissed.
    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Dismisses the watcher. Call it while the command's process id cannot be reused yet.
    pub(crate) fn dismiss(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            let _ = rustix::io::write(pipe, &[DISMISSED]);
        }
    }
}

impl Drop for Watcher {
    /// Dismisses the watcher and waits for its end, which comes at once.
    fn drop(&mut self) {
        self.dismiss();
        let wait = || rustix::process::waitpid(Some(self.process), WaitOptions::empty());
        while matches!(wait(), Err(rustix::io::Errno::INTR)) {}
    }
}

/// The code of the watcher process. Makes system calls only, see [`sys::fork`].
fn watch(pipe: &OwnedFd) -> sys::Gone {
    sys::set_name(NAME);
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir(c"/");
    let _ = rustix::stdio::dup2_stdin(pipe);
    sys::close_from(1);
    let pipe = rustix::stdio::stdin();
    let mut group = [0; size_of::<i32>()];
    if let Ok(Some(())) = read_whole(pipe, &mut group)
        && let Ok(None) = read_whole(pipe, &mut [DISMISSED])
        && let Some(group) = Pid::from_raw(i32::from_ne_bytes(group))
    {
        // One signal is enough: a process that is forking either gets it first, or its child is
        // already a member and gets it too.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    sys::Gone
}

/// It does not begin with `dlock`, so that `killall -9 dlock` and `pkill -9 dlock` do not hit the
/// watcher.
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
