//! The command inherits the signal handling that dlock inherited, and dlock works with any of it.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use crate::support::{
    Place, code, kill_child, output, spawn, status_of, stderr, wait_until, with_default_signals,
};
use rustix::process::Signal;

/// Makes the command start with some signals blocked and others ignored.
fn with_signals<'a>(
    command: &'a mut Command,
    blocked: &'static [Signal],
    ignored: &'static [Signal],
) -> &'a mut Command {
    let before_exec = move || {
        // SAFETY: the set is initialised by `sigemptyset`; no handler is installed.
        #[allow(unsafe_code)]
        unsafe {
            let mut set = std::mem::MaybeUninit::uninit();
            libc::sigemptyset(set.as_mut_ptr());
            for signal in blocked {
                libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
            for signal in ignored {
                libc::signal(signal.as_raw(), libc::SIG_IGN);
            }
        }
        Ok(())
    };
    // SAFETY: system calls, nothing else.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(before_exec)
    }
}

const WAITED_FOR: [Signal; 11] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::CHILD,
    Signal::TSTP,
    Signal::CONT,
    Signal::WINCH,
];

/// What `/proc` shows of the signals of the process that reads it.
#[cfg(target_os = "linux")]
fn signals_of(command: &mut Command) -> String {
    let output = output(command.args(["--", "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_command_that_ends_is_noticed_though_its_signal_was_blocked_or_ignored_at_start() {
    for (blocked, ignored) in [
        (&[Signal::CHILD] as &[Signal], &[] as &[Signal]),
        (&WAITED_FOR, &[]),
        (&[], &[Signal::CHILD]),
        (&[Signal::CHILD], &[Signal::CHILD]),
    ] {
        let place = Place::new();
        let mut child = spawn(with_signals(
            &mut place.run("job", "exit 3"),
            blocked,
            ignored,
        ));
        let status = wait_until("the end of dlock", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(3), "{blocked:?} {ignored:?}");
    }
}

#[test]
fn a_signal_that_was_blocked_at_start_still_ends_a_wait() {
    let place = Place::new();
    let mut holder = spawn(&mut place.run("job", "echo $$ >pid; exec sleep 60"));
    place.await_pid("pid");
    let mut waiter = place.run("--wait forever job", "touch ran");
    let mut waiter = spawn(with_signals(&mut waiter, &WAITED_FOR, &[]));
    std::thread::sleep(Duration::from_millis(300));
    kill_child(&waiter, Signal::TERM);
    let status = wait_until("the end of the wait", || waiter.try_wait().unwrap());
    assert_eq!(status.code(), Some(128 + 15));
    assert!(!place.path("ran").exists());
    kill_child(&holder, Signal::TERM);
    status_of(&mut holder);
}

#[test]
#[cfg(target_os = "linux")]
fn the_command_gets_the_mask_and_the_dispositions_that_dlock_found() {
    for (blocked, ignored) in [
        (&[] as &'static [Signal], &[] as &'static [Signal]),
        (&[Signal::CHILD, Signal::TERM], &[Signal::PIPE]),
        (&[Signal::USR1, Signal::PIPE], &[Signal::CHILD, Signal::HUP]),
        (&WAITED_FOR, &WAITED_FOR),
    ] {
        let place = Place::new();
        let mut alone = Command::new("env");
        // Both inherit what the test process ignores, but for what `dlock` sets to its default.
        // SAFETY: system calls, nothing else.
        #[allow(unsafe_code)]
        unsafe {
            alone.pre_exec(with_default_signals)
        };
        let alone = signals_of(with_signals(&mut alone, blocked, ignored));
        let mut under_dlock = place.dlock("job");
        let under_dlock = signals_of(with_signals(&mut under_dlock, blocked, ignored));
        assert_eq!(under_dlock, alone);
    }
}

#[test]
fn a_writer_whose_reader_is_gone_fails_or_dies_as_without_dlock() {
    let script = "yes | head -n 1 >/dev/null; echo \"${PIPESTATUS[0]}\"";
    for (ignored, expected) in [(&[] as &[Signal], "141\n"), (&[Signal::PIPE], "1\n")] {
        let place = Place::new();
        let mut command = place.dlock("job");
        command.args(["--", "bash", "-c", script]);
        let output = output(with_signals(&mut command, &[], ignored));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}
