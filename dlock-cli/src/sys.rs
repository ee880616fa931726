//! The few system calls that have no safe form in Rust: signal handlers, `fork`, and what runs
//! between `fork` and `exec`.
//!
//! All unsafe code of the command is in this file. Code in a forked child or a signal handler makes
//! system calls only: when the process was copied or interrupted, another thread may have been in
//! the middle of an allocation, for example.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rustix::process::Pid;

/// The events of this process, one byte each: the signals that it catches, and the calls of
/// [`note`].
pub(crate) struct Pipe {
    pub(crate) reader: OwnedFd,
    writer: OwnedFd,
}

static PIPE: OnceLock<Pipe> = OnceLock::new();

/// Creates the pipe. Call it only once in a process.
///
/// # Errors
///
/// If the process has no free descriptor.
pub(crate) fn signal_pipe() -> io::Result<&'static Pipe> {
    use rustix::pipe::{PipeFlags, pipe_with};
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    // A handler must not wait for the reader. If 64 KiB of signals are unread, further ones are
    // dropped.
    rustix::io::ioctl_fionbio(&writer, true)?;
    let pipe = Pipe { reader, writer };
    if PIPE.set(pipe).is_err() {
        return Err(io::Error::other("signals are already caught"));
    }
    PIPE.get().ok_or_else(|| io::Error::other("no pipe"))
}

/// Writes an event into the pipe. Makes system calls only.
pub(crate) fn note(event: u8) {
    if let Some(pipe) = PIPE.get() {
        let _ = rustix::io::write(&pipe.writer, &[event]);
    }
}

/// The first signal that was caught; 0 if none was.
static FIRST: AtomicI32 = AtomicI32::new(0);

/// The first signal that was caught, if one was.
pub(crate) fn first_signal() -> Option<i32> {
    Some(FIRST.load(Ordering::SeqCst)).filter(|signal| *signal != 0)
}

/// The signal handler. It leaves `errno` unchanged: on Linux the write bypasses the C library, and
/// elsewhere it fails only if the pipe is full.
extern "C" fn on_signal(signal: libc::c_int) {
    let _ = FIRST.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
    let [number, ..] = signal.to_le_bytes();
    note(number);
}

/// Catches a signal, which is then written to the [`signal_pipe`]. A signal that was ignored when
/// the process started stays ignored, as `nohup` wants.
pub(crate) fn catch(signal: libc::c_int) -> io::Result<()> {
    if signal != libc::SIGCHLD && is_ignored(signal)? {
        return Ok(());
    }
    let handler: extern "C" fn(libc::c_int) = on_signal;
    // System calls of other threads are restarted instead of failing.
    set_action(signal, handler as libc::sighandler_t, libc::SA_RESTART)
}

/// How signals were handled when dlock was started. The command is started with the same handling.
#[derive(Clone, Copy)]
pub(crate) struct Inherited {
    blocked: libc::sigset_t,
    ignores_pipe: bool,
    ignores_child: bool,
}

impl Inherited {
    /// Reads the present state. Call it before the first signal is caught or unblocked.
    pub(crate) fn take() -> io::Result<Self> {
        let mut blocked = MaybeUninit::uninit();
        // SAFETY: no new mask is given, and the old one is written to memory of its size. The call
        // fails only for wrong arguments.
        let blocked = unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), blocked.as_mut_ptr());
            blocked.assume_init()
        };
        Ok(Inherited {
            blocked,
            ignores_pipe: IGNORED_PIPE.load(Ordering::Relaxed),
            ignores_child: is_ignored(libc::SIGCHLD)?,
        })
    }

    /// Restores the state. Makes system calls only.
    fn restore(&self) -> io::Result<()> {
        let action = |ignored| {
            if ignored {
                libc::SIG_IGN
            } else {
                libc::SIG_DFL
            }
        };
        set_action(libc::SIGPIPE, action(self.ignores_pipe), 0)?;
        set_action(libc::SIGCHLD, action(self.ignores_child), 0)?;
        // SAFETY: the set was written by `pthread_sigmask`.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.blocked, ptr::null_mut())
        };
        Ok(())
    }
}

/// Sends the signal to this thread: a handler has run when the call returns.
#[cfg(test)]
pub(crate) fn raise(signal: rustix::process::Signal) -> io::Result<()> {
    // SAFETY: the call reads no memory of ours.
    match unsafe { libc::raise(signal.as_raw()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Unblocks signals for this thread and the threads that it starts: the parent process may have
/// left them blocked.
pub(crate) fn unblock(signals: impl Iterator<Item = libc::c_int>) {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set that the other calls read. They fail only for wrong
    // arguments.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut());
    }
}

/// Whether SIGPIPE was ignored at the start of the process, before Rust's runtime set it to be
/// ignored.
static IGNORED_PIPE: AtomicBool = AtomicBool::new(false);

extern "C" fn before_main() {
    IGNORED_PIPE.store(
        is_ignored(libc::SIGPIPE).unwrap_or(false),
        Ordering::Relaxed,
    );
}

// SAFETY: the loader calls the functions of this section before `main`. This one makes one system
// call and sets a static.
#[used]
#[cfg_attr(
    target_vendor = "apple",
    unsafe(link_section = "__DATA,__mod_init_func")
)]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
static BEFORE_MAIN: extern "C" fn() = before_main;

/// Ends the process at once, with all its threads.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: ends the process; nothing of it runs any more.
    unsafe { libc::_exit(code.into()) }
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
    // SAFETY: `new` is initialised; its handler, if it has one, makes one system call and touches
    // no memory but a static that was set before the handler was installed.
    if unsafe { libc::sigaction(signal, &raw const new, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Has all threads allocate from one place. By default the C library of GNU reserves 64 MiB of
/// addresses for each thread at its first allocation, and dlock has several threads that allocate
/// next to nothing. Call it before the first of them starts.
pub(crate) fn allocate_in_one_place() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call sets a number of the allocator, which takes it at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Lets the signal take its default action on this process and its whole group. If it stops them,
/// the call returns when they are continued; if the system ignores the signal, it returns at once.
/// Afterwards the signal is no longer caught.
pub(crate) fn take_default_action_with_group(signal: rustix::process::Signal) -> io::Result<()> {
    set_action(signal.as_raw(), libc::SIG_DFL, 0)?;
    Ok(rustix::process::kill_current_process_group(signal)?)
}

/// Blocks all signals in this thread until it is dropped.
struct Blocked(libc::sigset_t);

impl Blocked {
    fn all() -> Self {
        let mut old = MaybeUninit::uninit();
        // SAFETY: both sets have the right size; `sigfillset` initialises the one that is read. The
        // calls fail only for wrong arguments.
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

/// Makes `group` the foreground group of the terminal. It also works from the background, since
/// SIGTTOU is blocked meanwhile. Makes system calls only.
pub(crate) fn set_foreground(tty: impl AsFd, group: Pid) -> rustix::io::Result<()> {
    let _blocked = Blocked::all();
    rustix::termios::tcsetpgrp(tty, group)
}

/// Forks a child that runs `child`, with all signals blocked, and then exits. The child process has
/// a copy of this process's memory and descriptors, so `child` must make system calls only.
///
/// # Errors
///
/// If the system cannot start another process.
pub(crate) fn fork(child: impl FnOnce() -> Gone) -> io::Result<Pid> {
    // Before the fork, so that no signal can hit the child.
    let blocked = Blocked::all();
    // SAFETY: the child calls nothing but `child`, whose contract is above, and `_exit`, which runs
    // no destructor.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let Gone = child();
            // SAFETY: ends the process without running anything of the copied program.
            unsafe { libc::_exit(0) }
        }
        child => {
            drop(blocked);
            Pid::from_raw(child).ok_or_else(|| io::Error::other("fork gave no process"))
        }
    }
}

/// The end of a forked child: proof that its code has run to its end.
pub(crate) struct Gone;

/// Closes every descriptor from `first` on. Makes system calls only.
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

/// Gives the process its own name in process lists, on Linux only. Makes system calls only.
pub(crate) fn set_name(name: &'static std::ffi::CStr) {
    #[cfg(target_os = "linux")]
    // SAFETY: the call reads a string that ends with a zero.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
    }
    #[cfg(not(target_os = "linux"))]
    let _ = name;
}

/// Prepares the command. Before it is executed, its process becomes a process group of its own,
/// writes its process id to `watcher`, makes its group the foreground group of `tty`, and restores
/// the signal handling of `inherited`.
pub(crate) fn prepare(
    command: &mut Command,
    watcher: BorrowedFd<'_>,
    tty: Option<BorrowedFd<'_>>,
    inherited: Inherited,
) {
    let parent = rustix::process::getpid();
    let watcher = watcher.as_raw_fd();
    let tty = tty.map(|tty| tty.as_raw_fd());
    let before_exec = move || {
        // SAFETY: both descriptors are open in the parent when it forks, so they are in the child
        // until it executes the command.
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
        die_with(parent)?;
        inherited.restore()
    };
    // SAFETY: between fork and exec the closure makes system calls only.
    unsafe { command.pre_exec(before_exec) };
}

/// The second line of defence, in case both dlock and the watcher are killed: the kernel kills the
/// command when the thread that spawned it ends, which is dlock's main thread. It does not reach
/// grandchildren. Makes system calls only.
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

/// A child's change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It ended by itself, with this status.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
    /// This signal stopped it.
    Stopped(i32),
}

/// The next child whose state has changed; `None` if there is none. A child that has ended is left
/// as a zombie, so that its process id is not reused.
pub(crate) fn next_change() -> io::Result<Option<(Pid, Change)>> {
    let options = libc::WEXITED | libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT;
    loop {
        // SAFETY: all zeros is a valid `siginfo_t`; the call writes one, and leaves the zeros if no
        // child has changed.
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
        // SAFETY: `waitid` fills the fields that belong to SIGCHLD; if no child has changed they
        // are zero.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        let change = match info.si_code {
            libc::CLD_EXITED => Change::Exited(status),
            libc::CLD_KILLED | libc::CLD_DUMPED => Change::Killed(status),
            _ => Change::Stopped(status),
        };
        return Ok(Pid::from_raw(pid).map(|pid| (pid, change)));
    }
}
