//! What the options of `dlock run` beside the lock's own do.

use std::fs::{self, File};
use std::process::{Child, Output};

use serde_json::Value;

use crate::support::{
    Place, await_end_of, code, kill_child, output, remove, runs, spawn, stderr, take_store_away,
};
use rustix::process::Signal;

fn held(place: &Place) -> Child {
    let child = spawn(&mut place.run("job", "echo $$ >holder; exec sleep 60"));
    place.await_pid("holder");
    child
}

fn ended(mut child: Child) {
    kill_child(&child, Signal::TERM);
    child.wait().unwrap();
}

#[test]
fn a_line_is_run_by_a_shell() {
    let place = Place::new();
    let ran = output(
        place
            .dlock("job")
            .args(["-c", "echo a && echo \"$0 $DLOCK_KEY\"; exit 3"]),
    );
    assert_eq!(code(&ran), 3, "{}", stderr(&ran));
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), "a\nsh dlock:job\n");
}

#[test]
fn for_cron_a_lock_that_is_held_and_a_job_that_is_done_are_silent_successes() {
    let place = Place::new();
    let holder = held(&place);
    let refused = output(&mut place.run("--cron job", "touch ran"));
    assert_eq!((code(&refused), stderr(&refused)), (0, String::new()));
    ended(holder);
    for _ in 0..2 {
        let run = output(&mut place.run("--cron --once monday job", "echo ran >>log"));
        assert_eq!((code(&run), stderr(&run)), (0, String::new()));
    }
    assert_eq!(place.read("log"), "ran\n");
    assert!(!place.path("ran").exists());
    let failed = output(&mut place.run("--cron job", "exit 7"));
    assert_eq!(code(&failed), 7);
}

#[test]
fn a_command_that_takes_too_long_is_asked_to_end_and_the_lock_is_free() {
    let place = Place::new();
    let script = "trap 'echo asked >>log; exit 3' TERM; echo $$ >pid; while :; do sleep 0.02; done";
    let run = output(&mut place.run("--max-hold 8s job", script));
    assert_eq!(code(&run), 124, "{}", stderr(&run));
    // The shell may report that its `sleep` was ended.
    assert_eq!(
        stderr(&run).lines().last(),
        Some("dlock: the command held job for longer than --max-hold 8s and was ended")
    );
    assert_eq!(place.read("log"), "asked\n");
    assert!(!runs(place.await_pid("pid")));
    assert_eq!(code(&output(&mut place.run("job", "true"))), 0);
}

#[test]
fn a_command_that_takes_too_long_and_does_not_end_is_killed_with_all_it_started() {
    let place = Place::new();
    let script =
        "trap '' TERM; sleep 60 & echo $! >child; echo $$ >pid; while :; do sleep 0.02; done";
    let run = output(&mut place.run("--max-hold 8s --kill-after 200ms job", script));
    assert_eq!(code(&run), 124, "{}", stderr(&run));
    assert!(!runs(place.await_pid("pid")));
    await_end_of(place.await_pid("child"));
}

#[test]
fn a_job_that_took_too_long_is_not_done() {
    let place = Place::new();
    let run = output(&mut place.run("--max-hold 200ms --once monday job", "sleep 60"));
    assert_eq!(code(&run), 124, "{}", stderr(&run));
    let again = output(&mut place.run("--max-hold 60s --once monday job", "true"));
    assert_eq!(code(&again), 0, "{}", stderr(&again));
}

#[test]
fn a_verbose_run_says_when_it_got_the_lock_and_how_it_ended() {
    let place = Place::new();
    let run = output(&mut place.run("--verbose job", "echo $DLOCK_FENCING_TOKEN; exit 4"));
    let token = String::from_utf8(run.stdout.clone()).unwrap();
    let token = token.trim();
    let said = stderr(&run);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with("dlock: acquired job after "), "{said}");
    assert!(lines[0].ends_with(&format!(", token {token}")), "{said}");
    assert!(lines[1].starts_with("dlock: job: waited "), "{said}");
    assert!(
        lines[1].contains(", ran ") && lines[1].contains(", exit status 4, token "),
        "{said}"
    );
}

fn objects(output: &Output) -> Vec<Value> {
    let text = stderr(output);
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn messages_are_json_if_that_is_wanted() {
    let place = Place::new();
    let run = output(&mut place.run("--verbose --log json job", "exit 4"));
    let said = objects(&run);
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(
        (&said[0]["event"], &said[0]["lock"]),
        (&"acquired".into(), &"job".into())
    );
    assert!(said[0]["token"].is_u64() && said[0]["waited_ms"].is_u64());
    assert!(said[0]["unix_ms"].is_u64());
    assert_eq!(
        (&said[1]["event"], &said[1]["exit_status"]),
        (&"ended".into(), &4.into())
    );

    let holder = held(&place);
    let refused = output(&mut place.run("--log json job", "true"));
    let said = objects(&refused);
    assert_eq!((code(&refused), said.len()), (75, 1));
    assert_eq!(said[0]["source"], "dlock");
    assert!(
        said[0]["message"]
            .as_str()
            .unwrap()
            .starts_with("job is held by "),
        "{said:?}"
    );
    ended(holder);
}

fn figure(place: &Place, name: &str) -> Option<f64> {
    let start = format!("dlock_run_last_{name}{{lock=\"job\"}} ");
    let text = place.read("dlock.prom");
    text.lines()
        .find_map(|line| line.strip_prefix(&start)?.parse().ok())
}

#[test]
fn the_metrics_file_shows_a_run_that_hangs_and_the_last_one_that_succeeded() {
    let place = Place::new();
    let flags = "--metrics-file dlock.prom job";
    assert_eq!(code(&output(&mut place.run(flags, "true"))), 0);
    let success = figure(&place, "success_time_seconds").unwrap();
    assert!(success > 1.7e9);
    assert_eq!(figure(&place, "exit_status"), Some(0.0));
    assert!(figure(&place, "duration_seconds").is_some());
    assert!(figure(&place, "wait_seconds").is_some());

    assert_eq!(code(&output(&mut place.run(flags, "exit 9"))), 9);
    assert_eq!(figure(&place, "exit_status"), Some(9.0));
    assert_eq!(figure(&place, "success_time_seconds"), Some(success));

    let hangs = spawn(&mut place.run(flags, "echo $$ >pid; exec sleep 60"));
    place.await_pid("pid");
    let (start, end) = (
        figure(&place, "start_time_seconds"),
        figure(&place, "end_time_seconds"),
    );
    assert!(start > end, "{start:?} {end:?}");
    ended(hangs);
    assert_eq!(figure(&place, "exit_status"), Some(143.0));
}

#[test]
fn a_metrics_file_that_cannot_be_written_is_reported_and_hinders_nothing() {
    let place = Place::new();
    let run = output(&mut place.run("--metrics-file none/dlock.prom job", "exit 5"));
    assert_eq!(code(&run), 5);
    let said = stderr(&run);
    assert!(
        said.contains("cannot write the metrics file none/dlock.prom: "),
        "{said}"
    );
}

#[test]
fn a_line_says_that_renewals_fail_and_one_that_they_work_again() {
    let place = Place::new();
    let messages = File::create(place.path("messages")).unwrap();
    let mut command = place.run(
        "--ttl 20s --kill-after 1s job",
        "echo $$ > holds; while [ ! -e go ]; do sleep 0.02; done",
    );
    let mut child = command.stderr(messages).spawn().unwrap();
    place.await_pid("holds");
    take_store_away(&place);
    let said = place.await_text("messages");
    assert!(
        said.starts_with("dlock: the lease of job cannot be renewed ("),
        "{said}"
    );
    assert!(
        said.contains("; unless it can be renewed before, it ends in "),
        "{said}"
    );
    remove(&place.path("locks"));
    fs::rename(place.path("locks-away"), place.path("locks")).unwrap();
    let said = place.await_lines("messages", 2);
    assert!(
        said.ends_with("dlock: the lease of job is renewed again\n"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 2, "{said}");
    fs::write(place.path("go"), "").unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_metrics_count_a_lost_lease_as_no_success() {
    let place = Place::new();
    let flags = "--ttl 9s --lost-exit-code 0 --metrics-file dlock.prom job";
    assert_eq!(code(&output(&mut place.run(flags, "true"))), 0);
    let success = figure(&place, "success_time_seconds").unwrap();
    // The first is ended, and the loss of the second is noticed at its release.
    for script in ["rm locks/*.lease; exec sleep 60", "rm locks/*.lease"] {
        let lost = output(&mut place.run(flags, script));
        assert!(stderr(&lost).starts_with("dlock: lost job in "), "{lost:?}");
        assert_eq!(code(&lost), 0, "{lost:?}");
        assert_eq!(
            figure(&place, "success_time_seconds"),
            Some(success),
            "{script}"
        );
    }
    let flags = "--metrics-file dlock.prom job";
    assert_eq!(code(&output(&mut place.run(flags, "rm locks/*.lease"))), 70);
    assert_eq!(figure(&place, "exit_status"), Some(70.0));
    assert_eq!(figure(&place, "success_time_seconds"), Some(success));
}

#[test]
fn a_command_that_cannot_be_started_has_an_end_too() {
    let place = Place::new();
    let mut command = place.dlock("--verbose --metrics-file dlock.prom job -- /nonexistent");
    let failed = output(&mut command);
    assert_eq!(code(&failed), 127, "{}", stderr(&failed));
    assert_eq!(figure(&place, "exit_status"), Some(127.0));
    assert!(figure(&place, "end_time_seconds") >= figure(&place, "start_time_seconds"));
    assert_eq!(figure(&place, "success_time_seconds"), None);
    let said = stderr(&failed);
    assert!(said.contains(", exit status 127, token "), "{said}");
}
