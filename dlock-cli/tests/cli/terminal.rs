//! On a terminal a command behaves as if dlock were not there.
//!
//! The jobs `exec` the program that is to get a Ctrl-C: a shell that is about to start a program
//! may handle the Ctrl-C itself.

use crate::support::pty::{CTRL_C, CTRL_Z, Shell};
use crate::support::{Place, spawn, status_of};
use rustix::process::Signal;

/// `dlock run` in a shell script, with this store.
fn run(place: &Place, arguments: &str, script: &str) -> String {
    let store = place.store();
    format!("dlock run --store {store} {arguments} -- sh -c '{script}'")
}

#[test]
fn ctrl_c_ends_the_command() {
    let place = Place::new();
    let job = run(&place, "job", "echo ready; exec sleep 60");
    let mut shell = Shell::run(&format!("{job}; echo status=$?"));
    shell.shows("ready");
    shell.types(CTRL_C);
    shell.shows("status=130");
}

#[test]
fn ctrl_c_ends_the_script_around_dlock_too() {
    let place = Place::new();
    let job = run(&place, "job", "echo ready; exec sleep 60");
    std::fs::write(
        place.path("loop.sh"),
        format!("{job}\necho next\n{job}\necho next\n"),
    )
    .unwrap();
    let script = place.path("loop.sh");
    let mut shell = Shell::run(&format!("sh {}; echo status=$?", script.display()));
    shell.shows("ready");
    shell.types(CTRL_C);
    shell.shows("status=130");
    assert!(!shell.screen().contains("next"), "{}", shell.screen());
}

#[test]
fn a_command_that_catches_ctrl_c_decides_itself() {
    let place = Place::new();
    let script = "trap \"echo caught; exit 5\" INT; echo ready; while :; do sleep 0.05; done";
    let job = run(&place, "job", script);
    let mut shell = Shell::run(&format!("{job}; echo status=$?"));
    shell.shows("ready");
    shell.types(CTRL_C);
    shell.shows("caught");
    shell.shows("status=5");
}

#[test]
fn a_command_reads_the_terminal() {
    let place = Place::new();
    let job = run(&place, "job", "echo ready; read word; echo got=$word");
    let mut shell = Shell::run(&format!("{job}; echo status=$?"));
    shell.shows("ready");
    shell.types("hello\n");
    shell.shows("got=hello");
    shell.shows("status=0");
}

#[test]
fn a_command_in_a_pipeline_reads_the_terminal() {
    let place = Place::new();
    let job = run(&place, "job", "echo ready; read word; echo got=$word");
    let mut shell = Shell::run(&format!("{job} | cat; echo status=$?"));
    shell.shows("ready");
    shell.types("hello\n");
    shell.shows("got=hello");
    shell.shows("status=0");
}

#[test]
fn ctrl_c_in_a_pipeline_ends_the_command() {
    let place = Place::new();
    let pid = place.path("pid").display().to_string();
    let job = run(
        &place,
        "job",
        &format!("echo $$ >{pid}; echo ready; exec sleep 60"),
    );
    let mut shell = Shell::run(&format!("{job} | cat; echo after"));
    shell.shows("ready");
    shell.types(CTRL_C);
    shell.shows("after");
    crate::support::await_end_of(place.await_pid("pid"));
}

#[test]
fn ctrl_z_stops_and_fg_continues() {
    let place = Place::new();
    let job = run(&place, "job", "echo ready; read word; echo got=$word");
    let mut shell = Shell::run(&format!("{job}; echo stopped=$?; fg; echo status=$?"));
    shell.shows("ready");
    shell.types(CTRL_Z);
    shell.shows("stopped=148");
    shell.types("hello\n");
    shell.shows("got=hello");
    shell.shows("status=0");
}

#[test]
fn ctrl_z_in_a_pipeline_stops_and_fg_continues() {
    let place = Place::new();
    let job = run(&place, "job", "echo ready; read word; echo got=$word");
    let mut shell = Shell::run(&format!("{job} | cat; echo stopped=$?; fg; echo status=$?"));
    shell.shows("ready");
    shell.types(CTRL_Z);
    shell.shows("stopped=148");
    shell.types("hello\n");
    shell.shows("got=hello");
    shell.shows("status=0");
}

#[test]
fn a_stopped_command_whose_lease_ended_is_not_continued() {
    let place = Place::new();
    let job = run(
        &place,
        "--ttl 9s job",
        "echo ready; read word; echo got=$word",
    );
    let other = run(&place, "--wait 60s job", "echo other");
    let script = format!("{job}; echo stopped=$?; {other}; echo other=$?; fg; echo status=$?");
    let mut shell = Shell::run(&script);
    shell.shows("ready");
    shell.types(CTRL_Z);
    shell.shows("stopped=148");
    // The lease of a stopped dlock is not renewed.
    shell.shows("other=0");
    shell.types("hello\n");
    shell.shows("dlock: lost job");
    shell.shows("status=70");
    assert!(!shell.screen().contains("got=hello"), "{}", shell.screen());
}

#[test]
fn a_command_in_the_background_gets_the_terminal_with_fg() {
    let place = Place::new();
    let job = run(&place, "job", "echo ready; read word; echo got=$word");
    let mut shell = Shell::run(&format!("{job} & sleep 1; fg; echo status=$?"));
    shell.shows("ready");
    shell.types("hello\n");
    shell.shows("got=hello");
    shell.shows("status=0");
}

#[test]
fn a_wait_shows_who_holds_the_lock() {
    let place = Place::new();
    let mut holder = spawn(&mut place.run("--label nightly job", "echo $$ >pid; exec sleep 60"));
    place.await_pid("pid");
    let job = run(&place, "--wait forever job", "echo mine");
    let mut shell = Shell::run(&format!("{job}; echo status=$?"));
    shell.shows("dlock: waiting for job, held by ");
    shell.shows(&format!("pid {} (nightly) since ", holder.id()));
    crate::support::kill_child(&holder, Signal::TERM);
    status_of(&mut holder);
    shell.shows("mine");
    shell.shows("status=0");
    let lines = shell.screen().matches("waiting for").count();
    assert_eq!(lines, 1, "{}", shell.screen());
}

#[test]
fn ctrl_c_ends_the_wait() {
    let place = Place::new();
    let mut holder = spawn(&mut place.run("job", "echo $$ >pid; exec sleep 60"));
    place.await_pid("pid");
    let job = run(&place, "--wait forever job", "echo mine");
    let mut shell = Shell::run(&format!("{job}; echo status=$?"));
    shell.shows("dlock: waiting for job");
    shell.types(CTRL_C);
    shell.shows("status=130");
    crate::support::kill_child(&holder, Signal::TERM);
    status_of(&mut holder);
}
