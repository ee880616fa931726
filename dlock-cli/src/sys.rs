//! The few calls that Rust has no safe form for: signal handlers, `fork`, and what runs between `fork` and `exec`.
//!
//! All of the command's unsafe code is in this file. What runs in a forked child, or in a signal handler, makes system calls only: other
//! threads may have been in the middle of anything, an allocation for example, when the process was copied or interrupted.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::sync::OnceLock;

use rustix::process::Pid;

/// What happens to this process, one byte an event: the signals that it catches, and what [`note`] is told.
pub(crate) struct Pipe {
    pub(crate) reader: OwnedFd,
    writer: OwnedFd,
}

static PIPE: OnceLock<Pipe> = OnceLock::new();

/// Makes the pipe; once in the life of the process.
///
/// # Errors
///
/// No descriptor is left.
pub(crate) fn signal_pipe() -> io::Result<&'static Pipe> {
    use rustix::pipe::{PipeFlags, pipe_with};
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // A handler must not wait for a reader. A signal that finds 64 KiB of unread ones is dropped.
    rustix::io::ioctl_fionbio(&writer, true)?;
    let pipe = Pipe { reader, writer };
    if PIPE.set(pipe).is_err() {
        return Err(io::Error::other("signals are listened to already"));
    }
    PIPE.get().ok_or_else(|| io::Error::other("no pipe"))
}

/// Puts an event into the pipe. System calls only.
pub(crate) fn note(event: u8) {
    if let Some(pipe) = PIPE.get() {
        let _ = rustix::io::write(&pipe.writer, &[event]);
    }
}

/// It leaves `errno` alone: on Linux the call is made without the C library, and elsewhere it fails only if the pipe is full.
extern "C" fn on_signal(signal: libc::c_int) {
    let [number, ..] = signal.to_le_bytes();
    note(number);
}

/// Catches a signal: it is written to the [`signal_pipe`]. One that the process was started to ignore stays ignored, as `nohup` wants it.
pub(crate) fn catch(signal: libc::c_int) -> io::Result<()> {
    if is_ignored(signal)? && signal != libc::SIGCHLD {
        return Ok(());
    }
    let handler: extern "C" fn(libc::c_int) = on_signal;
    // System calls of the other threads go on instead of failing.
    set_action(signal, handler as libc::sighandler_t, libc::SA_RESTART)
}

fn is_ignored(signal: libc::c_int) -> io::Result<bool> {
    let mut old = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: no new action is given, and the old one is written to memory of its size.
    if unsafe { libc::sigaction(signal, ptr::null(), old.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it wrote the action.
    Ok(unsafe { old.assume_init() }.sa_sigaction == libc::SIG_IGN)
}

fn set_action(
    signal: libc::c_int,
    action: libc::sighandler_t,
    flags: libc::c_int,
) -> io::Result<()> {
    // SAFETY: all zeros is a valid `sigaction`: the default action, no flags, an empty mask.
    let mut new: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    new.sa_sigaction = action;
    new.sa_flags = flags;
    // SAFETY: `new` is initialised; its handler, if it has one, makes one system call and touches no memory but a static that was
    // set before the handler was installed.
    if unsafe { libc::sigaction(signal, &raw const new, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Does to this process and its whole group what the signal does to programs that do not catch it. Where it stops them the call returns
/// when they are continued. It returns at once where the system ignores the signal, and the signal is not caught any more.
pub(crate) fn take_default_action_with_group(signal: rustix::process::Signal) -> io::Result<()> {
    set_action(signal.as_raw(), libc::SIG_DFL, 0)?;
    Ok(rustix::process::kill_current_process_group(signal)?)
}

/// All signals, blocked in this thread until the value is dropped.
struct Blocked(libc::sigset_t);

impl Blocked {
    fn all() -> Self {
        let mut old = MaybeUninit::uninit();
        // SAFETY: both sets have the right size; `sigfillset` initialises the one that is read. The calls fail only for wrong arguments.
        unsafe {
            let mut all = MaybeUninit::uninit();
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
            Blocked(old.assume_init())
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set was written by `pthread_sigmask`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// Makes `group` the foreground group of the terminal. Allowed from the background too: SIGTTOU is blocked meanwhile. System calls only.
pub(crate) fn set_foreground(tty: impl AsFd, group: Pid) -> rustix::io::Result<()> {
    let _blocked = Blocked::all();
    rustix::termios::tcsetpgrp(tty, group)
}

/// Forks a child that runs `life` with all signals blocked and never returns from it. The child has a copy of this process's
/// memory and descriptors, so `life` must make system calls only.
///
/// # Errors
///
/// The system has no room for another process.
pub(crate) fn fork(life: impl FnOnce() -> Gone) -> io::Result<Pid> {
    // Before the fork, so that there is no moment in which the child could be hit.
    let blocked = Blocked::all();
    // SAFETY: the child calls nothing but `life`, whose contract is above, and `_exit`, which runs no destructor.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let Gone = life();
            // SAFETY: ends the process without running anything of the copied program.
            unsafe { libc::_exit(0) }
        }
        child => {
            drop(blocked);
            Pid::from_raw(child).ok_or_else(|| io::Error::other("fork gave no process"))
        }
    }
}

/// What a forked child's life ends with.
pub(crate) struct Gone;

/// Closes every descriptor from `first` on. System calls only.
pub(crate) fn close_from(first: u32) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: closes descriptors of a child whose copied program never uses them again.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
        if closed == 0 {
            return;
        }
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .and_then(|limit| i32::try_from(limit).ok())
        .unwrap_or(65_536);
    let first = i32::try_from(first).unwrap_or(i32::MAX);
    for descriptor in first..limit.min(65_536) {
        // SAFETY: as above.
        unsafe { libc::close(descriptor) };
    }
}

/// Gives a process a name of its own in lists; only Linux has this. System calls only.
pub(crate) fn set_name(name: &'static std::ffi::CStr) {
    #[cfg(target_os = "linux")]
    // SAFETY: the call reads a string that ends with a zero.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
    }
    #[cfg(not(target_os = "linux"))]
    let _ = name;
}

/// Arranges that the command, before it is executed, becomes a process group of its own, tells its process id to `watcher`, and makes its
/// group the foreground group of `tty`.
pub(crate) fn prepare(command: &mut Command, watcher: BorrowedFd<'_>, tty: Option<BorrowedFd<'_>>) {
    let parent = rustix::process::getpid();
    let watcher = watcher.as_raw_fd();
    let tty = tty.map(|tty| tty.as_raw_fd());
    let before_exec = move || {
        // SAFETY: both descriptors are open in the parent when it forks, so they are in the child until it executes the command.
        let (watcher, tty) = unsafe {
            (
                BorrowedFd::borrow_raw(watcher),
                tty.map(|tty| BorrowedFd::borrow_raw(tty)),
            )
        };
        rustix::process::setpgid(None, None)?;
        let me = rustix::process::getpid();
        rustix::io::write(watcher, &me.as_raw_nonzero().get().to_ne_bytes())?;
        if let Some(tty) = tty {
            set_foreground(tty, me)?;
        }
        die_with(parent)
    };
    // SAFETY: between fork and exec the closure makes system calls only.
    unsafe { command.pre_exec(before_exec) };
}

/// The second line behind the watcher, for the day when somebody kills dlock and watcher alike: the kernel kills the command itself when
/// the thread that spawned it ends, which is dlock's main thread. Grandchildren it does not reach. System calls only.
fn die_with(parent: Pid) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(rustix::io::Errno::SRCH.into());
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parent;
    Ok(())
}

/// What became of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It ended by itself, with this status.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
    /// This signal stopped it.
    Stopped(i32),
}

/// The next child of which there is news; `None` if there is none. A child that ended is left as it is, a zombie, so that its process
/// id stays its own.
pub(crate) fn next_change() -> io::Result<Option<(Pid, Change)>> {
    let options = libc::WEXITED | libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT;
    loop {
        // SAFETY: all zeros is a valid `siginfo_t`; the call writes one, and leaves the zeros where there is no news.
        let (result, info) = unsafe {
            let mut info: libc::siginfo_t = MaybeUninit::zeroed().assume_init();
            let result = libc::waitid(libc::P_ALL, 0, &raw mut info, options);
            (result, info)
        };
        if result != 0 {
            match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => return Err(error),
            }
        }
        // SAFETY: `waitid` fills the fields that belong to SIGCHLD; without news they are zero.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        let change = match info.si_code {
            libc::CLD_EXITED => Change::Exited(status),
            libc::CLD_KILLED | libc::CLD_DUMPED => Change::Killed(status),
            _ => Change::Stopped(status),
        };
        return Ok(Pid::from_raw(pid).map(|pid| (pid, change)));
    }
}
