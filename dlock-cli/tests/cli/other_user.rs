//! A dlock that is not root cannot signal a command that became another user. dlock reports that.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use crate::support::{
    self, Place, code, copy_program, dlock_as_user, kill, kill_child, output, runs, spawn, stderr,
    take_store_away, wait_until,
};
use rustix::process::Signal;

/// A program that becomes root, as `sudo` does: a copy of `setpriv` that is set-user-id.
fn sudo(place: &Place) -> String {
    let program = Command::new("sh")
        .args(["-c", "command -v setpriv"])
        .output()
        .unwrap();
    let program = String::from_utf8(program.stdout).unwrap();
    let copy = place.path("sudo");
    assert!(
        !program.is_empty(),
        "setpriv is missing: install util-linux"
    );
    copy_program(Path::new(program.trim()), &copy);
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
    format!("{} --reuid=0 --clear-groups", copy.display())
}

/// Starts the script under dlock. `$SUDO` in it is a program that becomes root.
fn start(place: &Place, arguments: &str, script: &str) -> Child {
    let mut command = dlock_as_user(place, arguments);
    command
        .env("SUDO", sudo(place))
        .args(["--", "sh", "-c", script]);
    spawn(&mut command)
}

/// Waits until the process runs as root, and returns its id.
fn await_root(place: &Place, file: &str) -> i32 {
    let pid = place.await_pid(file);
    let uids = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(
        uids.contains("Uid:\t0\t0\t0\t0"),
        "set-user-id does nothing here: a `nosuid` mount or no_new_privs forbids this test to work: {uids}"
    );
    pid
}

fn ended(child: Child) -> Output {
    let mut child = child;
    wait_until("the end of dlock", || child.try_wait().unwrap());
    support::ended(child)
}

#[test]
fn a_command_that_cannot_be_killed_is_reported_to_run_on() {
    let place = Place::new();
    let child = start(
        &place,
        "--ttl 9s job",
        "exec $SUDO sh -c 'echo $$ >pid; exec sleep 60 >/dev/null 2>&1'",
    );
    let pid = await_root(&place, "pid");
    take_store_away(&place);
    let output = ended(child);
    let said = stderr(&output);
    assert_eq!(code(&output), 70, "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("dlock: lost job in file:"), "{said}");
    assert!(
        last.contains("could not be ended: it runs as another user"),
        "{said}"
    );
    assert!(!said.contains("the command was ended"), "{said}");
    assert!(runs(pid), "the message is true");
    kill(pid, Signal::KILL);
}

#[test]
fn the_child_of_a_killed_command_that_runs_as_another_user_is_reported_to_run_on() {
    let place = Place::new();
    let script = "$SUDO sh -c 'echo $$ >pid; exec sleep 60 >/dev/null 2>&1'; true";
    let child = start(&place, "--ttl 9s job", script);
    let pid = await_root(&place, "pid");
    take_store_away(&place);
    let output = ended(child);
    let said = stderr(&output);
    assert_eq!(code(&output), 70, "{said}");
    assert!(
        said.contains("could not be ended: it runs as another user"),
        "{said}"
    );
    assert!(!said.contains("the command was ended"), "{said}");
    assert!(runs(pid));
    kill(pid, Signal::KILL);
}

#[test]
fn a_signal_that_cannot_be_passed_on_is_reported_and_the_lock_stays_held() {
    let place = Place::new();
    let child = start(
        &place,
        "--ttl 9s job",
        "exec $SUDO sh -c 'echo $$ >pid; exec sleep 60'",
    );
    let pid = await_root(&place, "pid");
    kill_child(&child, Signal::TERM);
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(code(&output(&mut place.run("job", "true"))), 75);
    assert!(runs(pid));
    kill(pid, Signal::KILL);
    let output = ended(child);
    let said = stderr(&output);
    assert_eq!(code(&output), 128 + 9, "{said}");
    assert!(
        said.contains("could not be passed to the command: it runs as another user"),
        "{said}"
    );
}

#[test]
fn a_renewal_that_succeeds_at_the_last_moment_keeps_the_lock() {
    let place = Place::new();
    let script = "exec $SUDO sh -c 'echo $$ >pid; exec sleep 60'";
    let start = Instant::now();
    let (ttl, log) = (Duration::from_secs(20), place.path("log"));
    let mut command = dlock_as_user(&place, "--ttl 20s --kill-after 8s job");
    command
        .env("SUDO", sudo(&place))
        .args(["--", "sh", "-c", script])
        .stderr(fs::File::create(log).unwrap());
    let mut child = command.spawn().unwrap();
    let pid = await_root(&place, "pid");
    take_store_away(&place);
    let said = place.await_lines("log", 2);
    let lines: Vec<_> = said.lines().collect();
    assert!(
        lines[0].contains("the lease of job cannot be renewed"),
        "{said}"
    );
    assert!(
        lines[1].contains("cannot be asked to end: it runs as another user"),
        "{said}"
    );
    support::remove(&place.path("locks"));
    fs::rename(place.path("locks-away"), place.path("locks")).unwrap();
    // Wait beyond the end of the lease that was not renewed.
    std::thread::sleep((ttl + Duration::from_secs(2)).saturating_sub(start.elapsed()));
    assert_eq!(
        code(&output(&mut place.run("job", "true"))),
        75,
        "the lock is held"
    );
    kill(pid, Signal::KILL);
    let status = wait_until("the end of dlock", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(128 + 9), "{}", place.read("log"));
    let said = place.read("log");
    let last = "dlock: the lease of job is renewed again\n";
    assert!(said.ends_with(last) && said.lines().count() == 3, "{said}");
}

#[test]
fn a_command_that_may_not_be_signalled_after_max_hold_keeps_its_status() {
    let place = Place::new();
    let mut command = dlock_as_user(&place, "--max-hold 8s job");
    let script = "exec $SUDO sh -c 'echo $$ >pid; while [ ! -e go ]; do sleep 0.02; done; exit 5'";
    let mut child = command
        .env("SUDO", sudo(&place))
        .args(["--", "sh", "-c", script])
        .stderr(fs::File::create(place.path("messages")).unwrap())
        .spawn()
        .unwrap();
    await_root(&place, "pid");
    let said = place.await_text("messages");
    assert_eq!(
        said,
        "dlock: the command cannot be asked to end: it runs as another user\n"
    );
    fs::write(place.path("go"), "").unwrap();
    assert_eq!(support::status_of(&mut child).code(), Some(5));
    assert_eq!(place.read("messages"), said);
}

#[test]
fn a_process_that_cannot_be_killed_after_max_hold_is_reported_and_dlock_exits() {
    let place = Place::new();
    let mut command = dlock_as_user(&place, "--max-hold 8s --kill-after 1s job");
    let script = "$SUDO sh -c 'echo $$ >pid; exec sleep 600' & while :; do sleep 0.02; done";
    let mut child = command
        .env("SUDO", sudo(&place))
        .args(["--", "sh", "-c", script])
        .stderr(fs::File::create(place.path("messages")).unwrap())
        .spawn()
        .unwrap();
    let pid = await_root(&place, "pid");
    let status = wait_until("the end of dlock", || child.try_wait().unwrap());
    kill(pid, Signal::KILL);
    assert_eq!(status.code(), Some(124), "{}", place.read("messages"));
    let said = place.read("messages");
    assert!(
        said.contains("still run; the lock is released anyway"),
        "{said}"
    );
}
