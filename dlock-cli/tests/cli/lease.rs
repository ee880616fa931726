//! The command outlives neither its lease nor dlock.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{
    Place, await_end_of, break_lock, code, dlock, ended, kill_child, output, runs, spawn,
    status_of, stderr, take_store_away, wait_until,
};
use rustix::process::Signal;

#[test]
fn a_command_whose_lease_cannot_be_renewed_is_asked_to_end() {
    let place = Place::new();
    let script = "trap 'echo told >>log; exit 0' TERM; echo $$ >pid; while :; do sleep 0.02; done";
    let child = spawn(&mut place.run("--ttl 20s --kill-after 8s job", script));
    place.await_pid("pid");
    take_store_away(&place);
    let output = ended(child);
    assert_eq!(code(&output), 70, "whatever the command's own status");
    // The shell may print something about its own children first.
    let said = stderr(&output);
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("dlock: lost job in file:"), "{said}");
    assert!(last.contains("could not be renewed"), "{said}");
    assert_eq!(place.read("log"), "told\n");
}

#[test]
fn a_command_that_ignores_sigterm_is_killed_before_the_lease_ends() {
    let place = Place::new();
    let script = "trap '' TERM; (trap '' TERM; echo $$ >inner; while :; do sleep 0.02; done) & \
                  echo $$ >pid; while :; do sleep 0.02; done";
    let child = spawn(&mut place.run("--ttl 9s --lost-exit-code 9 job", script));
    let (pid, inner) = (place.await_pid("pid"), place.await_pid("inner"));
    take_store_away(&place);
    let output = ended(child);
    assert_eq!(code(&output), 9, "{}", stderr(&output));
    assert!(!runs(pid) && !runs(inner));
}

#[test]
fn the_children_of_a_command_get_the_grace_period_too() {
    let place = Place::new();
    let cleaning = "trap 'sleep 0.3; echo cleaned >>log; exit' TERM; echo $$ >pid; while :; do sleep 0.02; done";
    let mut command = place.run("--ttl 20s --kill-after 8s job", "sh -c \"$CLEANING\"; true");
    let child = spawn(command.env("CLEANING", cleaning));
    place.await_pid("pid");
    take_store_away(&place);
    assert_eq!(code(&ended(child)), 70);
    assert_eq!(place.read("log"), "cleaned\n");
}

#[test]
fn a_command_whose_lock_was_taken_away_is_killed_at_once() {
    let place = Place::new();
    let script = "trap '' TERM; echo $$ >pid; while :; do sleep 0.02; done";
    let start = Instant::now();
    let child = spawn(&mut place.run("--ttl 20s --once j job", script));
    let pid = place.await_pid("pid");
    break_lock(&place);
    let output = ended(child);
    let said = stderr(&output);
    assert_eq!(code(&output), 70, "{said}");
    assert_eq!(
        said.lines().last().unwrap(),
        key_was_deleted(&place, "the command was ended")
    );
    assert!(!runs(pid));
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "the next renewal was due at a third of the lease"
    );
}

#[test]
fn a_lock_that_was_taken_away_unnoticed_is_reported_at_the_end() {
    let place = Place::new();
    let script = "echo $$ >pid; while [ ! -e go ]; do sleep 0.02; done";
    let child = spawn(&mut place.run("job", script));
    place.await_pid("pid");
    break_lock(&place);
    fs::write(place.path("go"), "").unwrap();
    let output = ended(child);
    assert_eq!(code(&output), 70);
    let said = stderr(&output);
    let fate = "the command had already ended, with exit code 0; another one may have run at the same time";
    assert_eq!(said.trim_end(), key_was_deleted(&place, fate));
}

/// The message for a key that was deleted. It is the same however the deletion was noticed.
fn key_was_deleted(place: &Place, fate: &str) -> String {
    format!(
        "dlock: lost job in {}: its key dlock:job was deleted before the lease ended, \
         and nobody holds it now; {fate}",
        place.store()
    )
}

#[test]
fn a_key_that_another_process_took_is_reported_with_its_holder() {
    let place = Place::new();
    let script = "trap '' TERM; echo $$ >pid; while :; do sleep 0.02; done";
    let robbed = spawn(&mut place.run("--ttl 20s job", script));
    place.await_pid("pid");
    // It must not look before the taker has the key.
    kill_child(&robbed, Signal::STOP);
    break_lock(&place);
    let taker = spawn(&mut place.run("--label taker job", "echo $$ >taker; exec sleep 60"));
    place.await_pid("taker");
    kill_child(&robbed, Signal::CONT);
    let output = ended(robbed);
    let said = stderr(&output);
    assert_eq!(code(&output), 70, "{said}");
    let by = format!(" pid {} (taker) since ", taker.id());
    assert!(
        said.contains("key dlock:job was taken away before the lease ended, and is now held by ")
            && said.contains(&by),
        "{said}"
    );
    kill_child(&taker, Signal::TERM);
    ended(taker);
}

#[test]
fn a_lock_that_cannot_be_released_is_reported_and_the_status_stays() {
    let place = Place::new();
    let script = "echo $$ >pid; while [ ! -e go ]; do sleep 0.02; done; exit 3";
    let child = spawn(&mut place.run("job", script));
    place.await_pid("pid");
    take_store_away(&place);
    fs::write(place.path("go"), "").unwrap();
    let output = ended(child);
    assert_eq!(code(&output), 3);
    let said = stderr(&output);
    assert!(
        said.starts_with("dlock: could not release job in file:"),
        "{said}"
    );
    assert!(
        said.contains("others have to wait for at most 30s"),
        "{said}"
    );
}

#[test]
fn a_renewed_lease_lasts_longer_than_its_ttl() {
    let place = Place::new();
    let script = "echo $$ >pid; while [ ! -e go ]; do sleep 0.02; done";
    let child = spawn(&mut place.run("--ttl 9s job", script));
    place.await_pid("pid");
    for _ in 0..12 {
        sleep(Duration::from_secs(1));
        assert_eq!(code(&output(&mut place.run("job", "true"))), 75);
    }
    fs::write(place.path("go"), "").unwrap();
    let output = ended(child);
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
}

#[test]
fn a_dlock_that_was_stopped_beyond_its_lease_ends_the_command_when_it_continues() {
    let place = Place::new();
    let child = spawn(&mut place.run("--ttl 9s job", "echo $$ >pid; exec sleep 60"));
    let pid = place.await_pid("pid");
    kill_child(&child, Signal::STOP);
    // Only the fencing token protects what the first command does from here on.
    assert_eq!(code(&output(&mut place.run("--wait 60s job", "true"))), 0);
    assert!(runs(pid));
    kill_child(&child, Signal::CONT);
    let output = ended(child);
    let said = stderr(&output);
    assert_eq!(code(&output), 70, "{said}");
    assert!(
        said.contains("its lease ended before it was renewed; the command was ended"),
        "{said}"
    );
    assert!(!runs(pid));
}

#[test]
fn kill_9_of_dlock_ends_the_command_and_its_grandchildren() {
    let place = Place::new();
    let script = "echo $$ >outer; sh -c 'echo $$ >inner; sleep 60; true'; true";
    let mut child = spawn(&mut place.run("job", script));
    let (outer, inner) = (place.await_pid("outer"), place.await_pid("inner"));
    kill_child(&child, Signal::KILL);
    status_of(&mut child);
    await_end_of(outer);
    await_end_of(inner);
}

#[test]
fn kill_9_at_any_moment_leaves_no_command_behind() {
    let place = Place::new();
    for round in 0..60u64 {
        // The command writes its process id and never ends. The kill comes around the time of its
        // start.
        let script = "echo $$ >>pids; exec sleep 60";
        let mut child = spawn(&mut place.run(&format!("job-{round}"), script));
        sleep(Duration::from_micros(round * 150));
        kill_child(&child, Signal::KILL);
        status_of(&mut child);
    }
    // Every command that was started was started before the last watcher ended.
    sleep(Duration::from_millis(300));
    let pids = place.read("pids");
    for pid in pids.lines() {
        await_end_of(pid.parse().unwrap());
    }
}

#[test]
fn a_stopped_command_dies_with_dlock_too() {
    let place = Place::new();
    let mut child = spawn(&mut place.run("job", "echo $$ >pid; exec sleep 60"));
    let pid = place.await_pid("pid");
    crate::support::kill(pid, Signal::STOP);
    kill_child(&child, Signal::KILL);
    status_of(&mut child);
    await_end_of(pid);
}

#[test]
fn the_watcher_is_gone_when_dlock_is() {
    let place = Place::new();
    let script = "ps -o pid= --ppid $PPID >children 2>/dev/null || true; true";
    output(&mut place.run("job", script));
    for pid in place.read("children").split_whitespace() {
        assert!(!runs(pid.parse().unwrap()), "{pid} is left");
    }
}

/// Ended: its number is free again, so that nothing of it is left.
#[cfg(target_os = "linux")]
#[test]
fn a_command_is_reaped_before_the_end_of_a_lease_that_cannot_be_renewed() {
    let place = Place::new();
    let options = "--ttl 16s --kill-after 8s job";
    let child = spawn(&mut place.run(options, "echo $$ >pid; exec sleep 60"));
    let process = format!("/proc/{}", place.await_pid("pid"));
    take_store_away(&place);
    wait_until("the end of the command", || {
        (!fs::exists(&process).unwrap()).then_some(())
    });
    // The lease stands where the store was moved to.
    let store = format!("file:{}", place.path("locks-away").display());
    let shown = output(dlock().args(["status", "--json", "--store", &store, "job"]));
    let entries: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(entries[0]["state"], "held", "{}", entries[0]);
    assert!(entries[0]["expires_in_ms"].as_u64().unwrap() > 0);
    assert_eq!(code(&ended(child)), 70);
}
