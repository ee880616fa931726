//! `dlock hold`, for scripts that hold a lock without being wrapped in it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::support::{
    PATIENCE, Place, await_end_of, break_lock, code, dlock, ended, kill_child, output, spawn,
    status_of, stderr, wait_until,
};
use rustix::process::Signal;

fn hold(place: &Place, arguments: &str) -> Command {
    let mut command = dlock();
    command
        .args(["hold", "--store", &place.store()])
        .args(arguments.split_whitespace())
        .current_dir(place.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A process that holds the lock, and its token.
fn holding(place: &Place, arguments: &str) -> (Child, u64, BufReader<ChildStdout>) {
    let mut child = hold(place, arguments).spawn().unwrap();
    let (token, out) = token_of(&mut child);
    (child, token, out)
}

/// The token that it prints when it holds the lock, and the rest of its output.
fn token_of(child: &mut Child) -> (u64, BufReader<ChildStdout>) {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let (send, line) = mpsc::channel();
    // The thread stays behind if nothing is printed.
    thread::spawn(move || {
        let mut line = String::new();
        let read = out.read_line(&mut line).map(|_| line);
        send.send((read, out))
    });
    let (line, out) = line.recv_timeout(PATIENCE).expect("no token is printed");
    let line = line.unwrap();
    let token = line.trim().parse();
    (token.unwrap_or_else(|_| panic!("no token: {line:?}")), out)
}

/// A script with the binary in `DLOCK` and the store in `STORE`.
fn script_with(place: &Place, script: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .env("DLOCK", env!("CARGO_BIN_EXE_dlock"))
        .env("STORE", place.store())
        .current_dir(place.path(""));
    command
}

fn is_free(place: &Place) -> bool {
    code(&output(&mut place.run("job", "true"))) == 0
}

#[test]
fn the_lock_is_held_until_the_input_ends() {
    let place = Place::new();
    let (mut child, token, _out) = holding(&place, "job");
    assert!(token > 0);
    let refused = output(&mut place.run("job", "true"));
    assert_eq!(code(&refused), 75);
    assert!(stderr(&refused).contains(&format!(" pid {} since ", child.id())));
    drop(child.stdin.take());
    let over = ended(child);
    assert_eq!((code(&over), stderr(&over)), (0, String::new()));
    assert!(is_free(&place));
}

#[test]
fn what_is_written_to_it_is_read_and_means_nothing() {
    use std::io::Write as _;
    let place = Place::new();
    let (mut child, _, _out) = holding(&place, "job");
    let mut input = child.stdin.take().unwrap();
    input.write_all(&[b'x'; 200_000]).unwrap();
    assert!(!is_free(&place));
    drop(input);
    assert_eq!(code(&ended(child)), 0);
}

#[test]
fn the_lock_is_released_when_the_parent_dies_though_the_input_stays_open() {
    let place = Place::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, place.path("input"), 0o600.into()).unwrap();
    let script = "\"$DLOCK\" hold --store \"$STORE\" job <>input >token & \
                  echo $! >pid; while ! grep -q . token; do kill -0 $! || exit 9; sleep 0.02; done; \
                  echo $$ >parent; exec sleep 60";
    let mut parent = script_with(&place, script).spawn().unwrap();
    place.await_pid("parent");
    assert!(!is_free(&place));
    kill_child(&parent, Signal::KILL);
    status_of(&mut parent);
    await_end_of(place.await_pid("pid"));
    assert!(is_free(&place));
}

/// As the help shows it.
#[test]
fn a_script_in_bash_holds_the_lock_and_releases_it() {
    let place = Place::new();
    let migrate = "echo \"$1 $2\" >ran; \"$DLOCK\" run migrate -c true; echo $? >>ran\n";
    let ran = output(&mut example(&place, migrate, ""));
    assert_eq!(code(&ran), 0, "{}", stderr(&ran));
    let said = place.read("ran");
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with("--fence 1"), "{said}");
    assert_eq!(lines[1], "75", "it was held meanwhile");
}

/// Bash forgets a coprocess as soon as it has ended.
#[test]
fn a_script_in_bash_learns_how_a_hold_ended_before_it_waited_for_that() {
    let place = Place::new();
    let ran = output(&mut example(&place, "true", "sleep 0.3"));
    assert_eq!((code(&ran), stderr(&ran)), (0, String::new()));
    let killed = "kill -9 $(cat pid); sleep 0.3";
    let ran = output(&mut example(&place, killed, "echo its output goes on"));
    assert_eq!(code(&ran), 128 + 9, "{}", stderr(&ran));
    assert_eq!(ran.stdout, b"its output goes on\n");
}

/// It gets the signal, not a shell between.
#[test]
fn a_script_in_bash_is_asked_to_end_when_its_lease_is_lost() {
    let place = Place::new();
    let migrate = "rm locks/*.lease; n=0; \
                   while kill -0 $PPID && [ $n -lt 2000 ]; do n=$((n+1)); sleep 0.02; done\n";
    let mut script = example(&place, migrate, "");
    let script = script.env("DLOCK_CONFIG", place.path("config"));
    fs::write(place.path("config"), "[lock.migrate]\nttl = \"9s\"\n").unwrap();
    // Nobody waits for the end of what `migrate` writes: it goes on until the script is gone.
    let script = script.stdout(Stdio::null()).stderr(Stdio::null());
    let status = status_of(&mut spawn(script));
    assert_eq!(status.signal(), Some(libc::SIGTERM), "{status}");
}

/// The example of the help, with this program as `migrate`. It also does `last` before it waits.
/// `migrate` finds the id of the process that holds the lock in the file `pid`.
fn example(place: &Place, migrate: &str, last: &str) -> Command {
    let help = output(dlock().args(["hold", "--help"]));
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, example) = help.split_once("Example, in bash:\n").unwrap();
    let (example, _) = example.split_once("\n\n").unwrap();
    let example = example.replace("  ./migrate", "echo $pid >pid\n./migrate");
    let example = example.replace("  wait ", &format!("{last}\nwait "));
    let migrate = format!("#!/bin/sh\n{migrate}");
    fs::write(place.path("migrate"), migrate).unwrap();
    fs::set_permissions(place.path("migrate"), fs::Permissions::from_mode(0o755)).unwrap();
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_dlock"))
        .parent()
        .unwrap();
    let path = std::env::join_paths([bin, "/usr/bin".as_ref(), "/bin".as_ref()]).unwrap();
    let mut bash = Command::new("bash");
    bash.args(["-c", &example])
        .env("PATH", path)
        .env("DLOCK", env!("CARGO_BIN_EXE_dlock"))
        .env("DLOCK_STORE", place.store())
        .current_dir(place.path(""));
    bash
}

#[test]
fn a_signal_releases_the_lock() {
    let place = Place::new();
    let (child, _, _out) = holding(&place, "job");
    kill_child(&child, Signal::TERM);
    let over = ended(child);
    assert_eq!((code(&over), stderr(&over)), (143, String::new()));
    assert!(is_free(&place));
}

#[test]
fn a_lock_that_is_held_is_waited_for_or_refused_and_no_token_is_printed() {
    let place = Place::new();
    let (mut first, token, _out) = holding(&place, "job");
    let refused = output(&mut hold(&place, "job"));
    assert_eq!(code(&refused), 75);
    assert!(refused.stdout.is_empty());
    assert!(
        stderr(&refused).starts_with("dlock: job is held by "),
        "{}",
        stderr(&refused)
    );
    let mut waiter = hold(&place, "--wait 60s job").spawn().unwrap();
    drop(first.stdin.take());
    status_of(&mut first);
    let (next, out) = token_of(&mut waiter);
    assert!(next > token);
    drop(out);
    assert_eq!(code(&ended(waiter)), 0);
}

#[test]
fn a_lease_that_is_lost_gives_70() {
    let place = Place::new();
    let (child, _, _out) = holding(&place, "--ttl 9s job");
    break_lock(&place);
    let _input = child.stdin.as_ref();
    let lost = wait_for(child);
    assert_eq!(lost.0, 70, "{}", lost.1);
    assert!(lost.1.starts_with("dlock: lost job in "), "{}", lost.1);
    assert!(lost.1.contains("must stop"), "{}", lost.1);
}

/// The exit code and the messages, without closing the input first.
fn wait_for(mut child: Child) -> (i32, String) {
    let input = child.stdin.take();
    let output = ended(child);
    drop(input);
    (code(&output), stderr(&output))
}

#[test]
fn the_parent_is_asked_to_end_when_the_lease_is_lost() {
    let place = Place::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, place.path("input"), 0o600.into()).unwrap();
    let script = "trap 'echo asked >asked; wait $holder; echo $? >code; exit 3' TERM; \
                  \"$DLOCK\" hold --signal-parent --ttl 9s --store \"$STORE\" job <>input >token & \
                  holder=$!; while ! grep -q . token; do kill -0 $holder || exit 9; sleep 0.02; done; \
                  echo $$ >parent; while kill -0 $holder; do sleep 0.02; done; sleep 60";
    let mut parent = script_with(&place, script)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    place.await_pid("parent");
    break_lock(&place);
    let status = wait_until("the end of the parent", || parent.try_wait().unwrap());
    assert_eq!(status.code(), Some(3));
    assert_eq!(place.read("asked"), "asked\n");
    assert_eq!(place.read("code"), "70\n");
}
