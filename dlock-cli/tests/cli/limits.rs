//! The system refuses threads, processes or descriptors. The command still ends with its lease, and
//! a command that could not be started is not reported as having lost its lease.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Output};

use crate::support::{
    Place, USER, await_end_of, break_lock, code, dlock_as_user, ended, output, runs, spawn,
    status_of, stderr, take_store_away, wait_until,
};

/// Sets limits for a running dlock, as its own user: root may not do it everywhere.
fn limit(child: &Child, limits: &[&str]) {
    let mut command = Command::new("prlimit");
    command
        .args(["--pid", &child.id().to_string()])
        .args(limits);
    let limited = command
        .gid(USER)
        .uid(USER)
        .status()
        .expect("prlimit is missing: install util-linux");
    assert!(limited.success());
}

const STUBBORN: &str = "trap '' TERM; (trap '' TERM; echo $$ >inner; while :; do sleep 0.02; done) & \
                        echo $$ >pid; while :; do sleep 0.02; done";

fn stubborn(place: &Place, arguments: &str) -> (Child, i32) {
    let mut command = dlock_as_user(place, arguments);
    let child = spawn(command.args(["--", "sh", "-c", STUBBORN]));
    let pid = place.await_pid("pid");
    // No new thread and no new process.
    limit(&child, &["--nproc=0:0"]);
    (child, pid)
}

#[test]
fn a_lease_ends_its_command_though_no_thread_can_be_started() {
    let place = Place::new();
    let (child, pid) = stubborn(&place, "--ttl 9s job");
    take_store_away(&place);
    let output = ended(child);
    assert_eq!(code(&output), 70, "{}", stderr(&output));
    assert!(!runs(pid));
}

#[test]
fn a_deleted_key_ends_its_command_though_no_thread_can_be_started() {
    let place = Place::new();
    let (child, pid) = stubborn(&place, "--ttl 9s job");
    break_lock(&place);
    let output = ended(child);
    assert_eq!(code(&output), 70, "{}", stderr(&output));
    assert!(!runs(pid));
}

#[test]
fn a_lease_ends_its_command_though_dlock_gets_no_more_memory() {
    let place = Place::new();
    let (mut child, pid) = stubborn(&place, "--ttl 9s job");
    limit(&child, &["--as=0:0", "--data=0:0"]);
    take_store_away(&place);
    // dlock may die of it. Then the watcher ends the command.
    wait_until("the end of dlock", || child.try_wait().unwrap());
    await_end_of(pid);
}

fn limited(place: &Place, limit: &str, arguments: &str) -> Output {
    let dlock = dlock_as_user(place, arguments);
    let script = format!("{limit}; exec \"$@\"");
    let mut command = Command::new("bash");
    command.args(["-c", &script, "bash"]);
    command.arg(dlock.get_program()).args(dlock.get_args());
    command.args(["--", "touch", "ran"]).uid(USER);
    output(
        command
            .current_dir(place.path(""))
            .env_remove("DLOCK_STORE"),
    )
}

#[test]
fn without_threads_the_store_cannot_be_used() {
    let mut arguments = vec!["job", "--wait 5s job", "--once j job"];
    if cfg!(feature = "redis") {
        arguments.push("--store redis://127.0.0.1:1/ job");
    }
    if cfg!(feature = "memcache") {
        arguments.push("--store memcache://127.0.0.1:1/ job");
    }
    if cfg!(feature = "etcd") {
        arguments.push("--store etcd://127.0.0.1:1 job");
    }
    if cfg!(feature = "postgres") {
        arguments.push("--store postgres://app@127.0.0.1:1/ job");
    }
    for arguments in arguments {
        let place = Place::new();
        let output = limited(&place, "ulimit -u 1", arguments);
        let said = stderr(&output);
        assert_eq!(code(&output), 69, "{arguments}: {said}");
        assert!(
            said.contains("the command was not started"),
            "{arguments}: {said}"
        );
        assert!(!place.path("ran").exists());
    }
}

#[test]
fn a_command_that_could_not_be_started_is_not_reported_as_having_lost_its_lease() {
    let mut codes = Vec::new();
    for descriptors in 4..=16 {
        let place = Place::new();
        let output = limited(&place, &format!("ulimit -n {descriptors}"), "job");
        let said = stderr(&output);
        let ran = place.path("ran").exists();
        let expected: &[i32] = if ran { &[0] } else { &[69, 71] };
        assert!(expected.contains(&code(&output)), "{descriptors}: {said}");
        assert!(ran || said.starts_with("dlock: "), "{descriptors}: {said}");
        codes.push(code(&output));
        // The lock is free again, even if it was acquired before the failure.
        let again = crate::support::output(&mut place.run("job", "true"));
        assert_eq!(code(&again), 0, "{descriptors}: {}", stderr(&again));
    }
    assert_eq!(codes.first(), Some(&71), "no descriptor for the signals");
    assert_eq!(codes.last(), Some(&0));
}

#[test]
fn the_limit_takes_effect() {
    let place = Place::new();
    let (mut child, _) = stubborn(&place, "job");
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let processes = limits
        .lines()
        .find(|line| line.starts_with("Max processes"));
    assert!(processes.is_some_and(|line| line.split_whitespace().nth(2) == Some("0")));
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let user = status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .unwrap();
    assert!(user.contains("61234"), "root has no such limit: {user}");
    crate::support::kill_child(&child, rustix::process::Signal::KILL);
    status_of(&mut child);
}
