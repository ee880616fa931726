//! Signals go to the whole group of the command, and end a wait at once.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{
    Place, await_handler, code, ended, kill, kill_child, output, runs, spawn, status_of, stderr,
};
use rustix::process::Signal;

#[test]
fn each_signal_is_passed_on_and_the_commands_status_reported() {
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::ALARM, "ALRM"),
        (Signal::WINCH, "WINCH"),
    ] {
        let place = Place::new();
        let script = format!(
            "trap 'echo {name}; exit 9' {name}; echo $$ >pid; while :; do sleep 0.02; done"
        );
        let child = spawn(&mut place.run("job", &script));
        place.await_pid("pid");
        kill_child(&child, signal);
        let output = ended(child);
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(
            (code(&output), text),
            (9, format!("{name}\n")),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_signal_reaches_grandchildren_too() {
    let place = Place::new();
    let script = "sh -c 'echo $$ >inner; sleep 60; true'; true";
    let child = spawn(&mut place.run("job", &format!("echo $$ >outer; {script}")));
    let (outer, inner) = (place.await_pid("outer"), place.await_pid("inner"));
    kill_child(&child, Signal::TERM);
    let output = ended(child);
    assert_eq!(code(&output), 128 + 15);
    assert!(!runs(outer) && !runs(inner));
}

#[test]
fn the_lock_is_held_until_what_the_command_started_has_cleaned_up() {
    let place = Place::new();
    // The shell ends at once; the process that it waits for ends later.
    let cleaning = "trap 'sleep 0.5; echo cleaned >>log; exit' TERM; echo $$ >pid; while :; do sleep 0.02; done";
    let script = "sh -c \"$CLEANING\"; true";
    let child = spawn(place.run("job", script).env("CLEANING", cleaning));
    place.await_pid("pid");
    kill_child(&child, Signal::TERM);
    let next = output(&mut place.run("--wait 20s job", "echo next >>log"));
    assert_eq!(code(&next), 0);
    assert_eq!(code(&ended(child)), 128 + 15);
    assert_eq!(place.read("log"), "cleaned\nnext\n");
}

#[test]
fn the_wait_for_processes_that_do_not_end_is_bounded() {
    let place = Place::new();
    let script = "(trap '' TERM; sh -c 'echo $$ >pid; exec sleep 60' >/dev/null 2>&1) & wait";
    let child = spawn(&mut place.run("--kill-after 200ms job", script));
    let pid = place.await_pid("pid");
    kill_child(&child, Signal::TERM);
    let output = ended(child);
    assert_eq!(code(&output), 128 + 15);
    let said = stderr(&output);
    assert!(
        said.contains("processes that it started still run"),
        "{said}"
    );
    assert!(runs(pid));
    kill(pid, Signal::KILL);
}

#[test]
fn a_wait_ends_at_once_and_the_command_does_not_run() {
    let place = Place::new();
    let mut holder = spawn(&mut place.run("job", "echo $$ >pid; exec sleep 60"));
    let pid = place.await_pid("pid");
    for (signal, number) in [
        (Signal::TERM, 15),
        (Signal::INT, 2),
        (Signal::HUP, 1),
        (Signal::USR1, 10),
    ] {
        let waiter = spawn(&mut place.run("--wait forever job", "touch ran"));
        await_handler(&waiter, signal);
        let start = Instant::now();
        kill_child(&waiter, signal);
        let output = ended(waiter);
        assert_eq!(code(&output), 128 + number, "{}", stderr(&output));
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    assert!(runs(pid) && !place.path("ran").exists());
    kill_child(&holder, Signal::TERM);
    status_of(&mut holder);
}

#[test]
fn a_signal_that_is_ignored_from_the_start_stays_ignored() {
    let place = Place::new();
    let binary = env!("CARGO_BIN_EXE_dlock");
    let store = place.store();
    let job = "echo $$ >pid; while [ ! -e go ]; do sleep 0.02; done; echo survived >>log";
    let script = format!("trap '' HUP; exec {binary} run --store {store} job -- sh -c '{job}'");
    let mut shell = Command::new("sh");
    let mut child = shell
        .args(["-c", &script])
        .current_dir(place.path(""))
        .spawn()
        .unwrap();
    let pid = place.await_pid("pid");
    kill_child(&child, Signal::HUP);
    kill(pid, Signal::HUP);
    std::fs::write(place.path("go"), "").unwrap();
    assert_eq!(status_of(&mut child).code(), Some(0));
    assert_eq!(place.read("log"), "survived\n");
}

#[test]
fn a_command_that_a_user_stops_keeps_its_lock() {
    let place = Place::new();
    let mut child = spawn(&mut place.run("--ttl 8s job", "echo $$ >pid; exec sleep 60"));
    let pid = place.await_pid("pid");
    kill(pid, Signal::STOP);
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(code(&output(&mut place.run("job", "true"))), 75);
    kill(pid, Signal::CONT);
    kill_child(&child, Signal::TERM);
    assert_eq!(status_of(&mut child).code(), Some(128 + 15));
}

#[test]
#[cfg(target_os = "linux")]
fn orphans_that_dlock_inherits_are_reaped() {
    // Process 1 of a container inherits orphans, and so does a process that asks for it (a
    // subreaper).
    let place = Place::new();
    // The command looks for at most 20 seconds.
    let script = "(sleep 0.1 & echo $! >orphan); looks=0; \
                  while cat /proc/$(cat orphan)/stat >state 2>/dev/null && [ $looks -lt 200 ]; \
                  do sleep 0.1; looks=$((looks + 1)); done; true";
    let mut command = place.run("job", script);
    let become_heir = || {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(())
    };
    // SAFETY: one system call, nothing else.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(become_heir)
    };
    assert_eq!(code(&output(&mut command)), 0);
    assert!(place.path("state").exists());
    assert_eq!(place.read("state"), "", "a zombie was left");
}
