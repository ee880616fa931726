//! The exit codes of `dlock run`, and its messages.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Place, code, dlock, output, spawn, status_of, stderr};
use rustix::process::Signal;

#[test]
fn the_commands_own_status_is_passed_on() {
    let place = Place::new();
    for status in [0, 1, 64, 75, 125, 255] {
        let run = output(&mut place.run("job", &format!("exit {status}")));
        assert_eq!((code(&run), stderr(&run)), (status, String::new()));
    }
}

#[test]
fn a_command_that_a_signal_ended_gives_128_and_its_number() {
    let place = Place::new();
    for (name, number) in [("TERM", 15), ("KILL", 9), ("INT", 2), ("SEGV", 11)] {
        let run = output(&mut place.run("job", &format!("ulimit -c 0; kill -{name} $$")));
        assert_eq!(code(&run), 128 + number, "{}", stderr(&run));
    }
}

#[test]
fn a_command_that_is_not_there_gives_127() {
    let place = Place::new();
    let run = output(place.dlock("job").args(["--", "no-such-command"]));
    assert_eq!(code(&run), 127);
    let said = stderr(&run);
    assert!(
        said.starts_with("dlock: cannot run no-such-command: "),
        "{said}"
    );
    assert!(said.contains("PATH"), "{said}");
}

#[test]
fn a_command_that_needs_a_shell_is_reported_as_such() {
    let place = Place::new();
    for command in [
        &["true && touch ran"] as &[&str],
        &["cd", "x"],
        &["echo hello"],
        &["export", "A=1"],
        &["A=1", "true"],
    ] {
        let run = output(place.dlock("job").arg("--").args(command));
        let said = stderr(&run);
        assert_eq!(code(&run), 127, "{said}");
        assert!(said.contains("-- sh -c '"), "{said}");
    }
    assert!(!place.path("ran").exists());
}

#[test]
fn invisible_characters_and_text_direction_are_escaped_in_every_message() {
    let odd = "a\u{202e}b\u{200b}c\u{2028}d\u{9b}e\u{feff}";
    let place = Place::new();
    let mut holder = place.dlock("");
    holder.args([
        odd,
        "--label",
        odd,
        "--",
        "sh",
        "-c",
        "echo $$ >pid; exec sleep 60",
    ]);
    let mut holder = spawn(&mut holder);
    place.await_pid("pid");
    let refused = output(place.dlock("").args([odd, "--", "true"]));
    let no_command = output(place.dlock("other").args(["--", odd]));
    let no_store = output(dlock().args(["run", "--store", odd, "job", "--", "true"]));
    let odd_file = format!("file:/proc/{odd}");
    let no_folder = output(dlock().args(["run", "--store", &odd_file, "job", "--", "true"]));
    let no_flag = output(dlock().args(["run", &format!("--{odd}"), "job", "--", "true"]));
    let no_time = output(dlock().args(["run", "--ttl", odd, "job", "--", "true"]));
    for run in [refused, no_command, no_store, no_folder, no_flag, no_time] {
        let said = stderr(&run);
        // Nothing is shown of an invalid URL: any part of it may be a password.
        assert!(
            said.contains("\\u{202e}") || said.contains("`***` is not a store"),
            "{said:?}"
        );
        assert!(
            said.chars()
                .all(|c| c.is_ascii_graphic() || " \n…".contains(c)),
            "{said:?}"
        );
    }
    crate::support::kill_child(&holder, Signal::TERM);
    status_of(&mut holder);
}

#[test]
fn a_command_that_cannot_be_executed_gives_126() {
    let place = Place::new();
    fs::write(place.path("data"), "text").unwrap();
    fs::set_permissions(place.path("data"), fs::Permissions::from_mode(0o644)).unwrap();
    for command in ["./data", "/"] {
        let run = output(place.dlock("job").args(["--", command]));
        assert_eq!(code(&run), 126, "{}", stderr(&run));
        assert!(stderr(&run).starts_with(&format!("dlock: cannot run {command}: ")));
    }
}

#[test]
fn a_script_without_an_interpreter_line_runs_as_in_a_shell() {
    let place = Place::new();
    fs::write(place.path("script"), "exit 7\n").unwrap();
    fs::set_permissions(place.path("script"), fs::Permissions::from_mode(0o755)).unwrap();
    let run = output(place.dlock("job").args(["--", "./script"]));
    assert_eq!(code(&run), 7, "{}", stderr(&run));
}

#[test]
fn the_lock_is_free_after_a_command_that_could_not_run() {
    let place = Place::new();
    output(place.dlock("job").args(["--", "no-such-command"]));
    assert_eq!(code(&output(&mut place.run("job", "true"))), 0);
}

#[test]
fn a_lock_that_is_held_gives_75_and_says_by_whom() {
    let place = Place::new();
    let mut holder = spawn(&mut place.run("--label nightly job", "echo $$ >pid; exec sleep 60"));
    place.await_pid("pid");

    let refused = output(&mut place.run("job", "touch ran"));
    assert_eq!(code(&refused), 75);
    let said = stderr(&refused);
    let by = format!(" pid {} (nightly) since ", holder.id());
    assert!(said.starts_with("dlock: job is held by "), "{said}");
    assert!(said.contains(&by) && said.contains(", at most "), "{said}");
    let place_of_key = format!(" more (key dlock:job in {})\n", place.store());
    assert!(said.ends_with(&place_of_key), "{said}");

    let after_a_wait = output(&mut place.run("--wait 2s job", "touch ran"));
    assert_eq!(code(&after_a_wait), 75);
    assert_eq!(
        stderr(&after_a_wait).lines().count(),
        1,
        "quiet without a terminal"
    );

    let other = output(&mut place.run("--conflict-exit-code 3 job", "touch ran"));
    assert_eq!(code(&other), 3);

    let for_cron = output(&mut place.run("--conflict-exit-code 0 job", "touch ran"));
    assert_eq!((code(&for_cron), stderr(&for_cron)), (0, String::new()));

    assert!(!place.path("ran").exists());
    crate::support::kill_child(&holder, Signal::TERM);
    status_of(&mut holder);
}

#[test]
fn a_job_that_is_done_gives_75_and_says_since_when() {
    let place = Place::new();
    let first = output(&mut place.run("--once monday job", "echo ran >>log"));
    assert_eq!((code(&first), stderr(&first)), (0, String::new()));

    let again = output(&mut place.run("--once monday job", "echo ran >>log"));
    assert_eq!(code(&again), 75);
    let said = stderr(&again);
    assert!(
        said.starts_with("dlock: job monday of job was done ") && said.ends_with(" ago\n"),
        "{said}"
    );

    let for_cron = output(&mut place.run("--done-exit-code 0 --once monday job", "echo ran >>log"));
    assert_eq!((code(&for_cron), stderr(&for_cron)), (0, String::new()));

    let tuesday = output(&mut place.run("--once tuesday job", "echo ran >>log"));
    assert_eq!(code(&tuesday), 0);
    assert_eq!(place.read("log"), "ran\nran\n");
}

#[test]
fn a_job_that_failed_is_not_done() {
    let place = Place::new();
    for attempt in 1..=3 {
        let run = output(&mut place.run("--once monday job", "echo ran >>log; exit 5"));
        assert_eq!((code(&run), stderr(&run)), (5, String::new()), "{attempt}");
    }
    let killed = output(&mut place.run("--once monday job", "echo ran >>log; kill -TERM $$"));
    assert_eq!(code(&killed), 143);
    assert_eq!(
        code(&output(
            &mut place.run("--once monday job", "echo ran >>log")
        )),
        0
    );
    assert_eq!(place.read("log").lines().count(), 5);
}

#[test]
fn a_job_is_remembered_for_as_long_as_keep_says() {
    let place = Place::new();
    let run = "--once monday --keep 300ms --wait 0s job";
    assert_eq!(code(&output(&mut place.run(run, "echo ran >>log"))), 0);
    crate::support::wait_until("the mark's end", || {
        (code(&output(&mut place.run(run, "echo ran >>log"))) == 0).then_some(())
    });
    assert_eq!(place.read("log"), "ran\nran\n");
}

#[test]
fn min_hold_keeps_the_lock_after_a_command_that_was_quick() {
    let place = Place::new();
    let start = std::time::Instant::now();
    assert_eq!(
        code(&output(&mut place.run("--min-hold 1500ms job", "true"))),
        0
    );
    let refused = output(&mut place.run("job", "true"));
    if start.elapsed().as_millis() < 1500 {
        assert_eq!(code(&refused), 75);
    }
    if code(&refused) == 75 {
        let said = stderr(&refused);
        assert!(said.starts_with("dlock: job is kept until "), "{said}");
        assert!(said.contains(" UTC by the minimum hold time of "), "{said}");
        assert!(said.contains(", whose work is over "), "{said}");
        assert!(!said.contains("held by"), "{said}");
    }
    assert_eq!(code(&output(&mut place.run("--wait 20s job", "true"))), 0);
    assert!(start.elapsed().as_millis() >= 1500);
}

#[test]
fn a_store_that_cannot_be_used_gives_69_and_says_what_to_do() {
    let place = Place::new();
    fs::write(place.path("locks"), "not a folder").unwrap();
    let run = output(&mut place.run("job", "touch ran"));
    assert_eq!(code(&run), 69);
    let said = stderr(&run);
    assert!(
        said.starts_with("dlock: ") && said.contains("not a folder; choose another"),
        "{said}"
    );
    let other = output(&mut place.run("--unreachable-exit-code 9 job", "touch ran"));
    assert_eq!(code(&other), 9);
    assert!(!place.path("ran").exists());
}

#[test]
fn a_command_line_that_is_wrong_gives_64_and_says_what_to_write() {
    let place = Place::new();
    for (arguments, expected) in [
        ("", "dlock run NAME -- COMMAND"),
        ("run", "no name"),
        ("run job", "there is no command"),
        ("run job true", "found `true` where `--` was expected"),
        ("run --ttl 30 job -- true", "--ttl: `30` is not a duration"),
        (
            "run --store nowhere job -- true",
            "`***` is not a store that this dlock knows; write",
        ),
        ("run --store file://server/x job -- true", "names a host"),
        (
            "run --store FOLDER --ttl 1ms job -- true",
            "ttl 1ms is outside 10ms to",
        ),
        (
            "run --store FOLDER --kill-after 20s job -- true",
            "outside 0s to 15s",
        ),
        (
            "run --store FOLDER --once j --keep 9000d job -- true",
            "keep",
        ),
    ] {
        let arguments = arguments.replace("FOLDER", &place.store());
        let run = output(dlock().args(arguments.split_whitespace()));
        assert_eq!(code(&run), 64, "{arguments}: {}", stderr(&run));
        let said = stderr(&run);
        assert!(
            said.starts_with("dlock: ") && said.contains(expected),
            "{arguments}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn help_tells_about_every_flag_and_exit_code() {
    let help = output(dlock().args(["run", "--help"]));
    assert_eq!(code(&help), 0);
    let text = String::from_utf8(help.stdout).unwrap();
    for word in [
        "--store",
        "--prefix",
        "--label",
        "--ttl",
        "--wait",
        "--min-hold",
        "--once",
        "--keep",
        "--kill-after",
        "--pass-store",
        "--conflict-exit-code",
        "--done-exit-code",
        "--unreachable-exit-code",
        "--lost-exit-code",
        "DLOCK_STORE",
        "DLOCK_KEY",
        "DLOCK_FENCING_TOKEN",
        " 64 ",
        " 69 ",
        " 70 ",
        " 71 ",
        " 75 ",
        " 126 ",
        " 127 ",
        "128+n",
    ] {
        assert!(text.contains(word), "{word}");
    }
    assert!(
        text.lines().all(|line| line.chars().count() <= 100),
        "fits a terminal"
    );
    let short = output(dlock().arg("--help"));
    assert!(
        String::from_utf8(short.stdout)
            .unwrap()
            .contains("dlock help run")
    );
}

#[test]
fn manual_pages_and_completions_know_every_verb_and_option() {
    let text = |arguments: &str| {
        let shown = output(dlock().args(arguments.split_whitespace()));
        assert_eq!(
            (code(&shown), stderr(&shown)),
            (0, String::new()),
            "{arguments}"
        );
        String::from_utf8(shown.stdout).unwrap()
    };
    // Of the help, which is made of the same table.
    let words = |help: String, from: &str| -> Vec<String> {
        let lines = help.lines().map(str::trim_start);
        let words = lines.filter_map(|line| line.split_whitespace().next());
        let words = words.filter(|word| word.starts_with(from) && word.len() > 2);
        words.map(str::to_owned).collect()
    };
    let options = words(text("run --help"), "--");
    assert!(options.len() > 10, "{options:?}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = text(&format!("completions {shell}"));
        for option in &options {
            let option = option.trim_start_matches("--");
            assert!(script.contains(option), "{shell} completes {option}");
        }
    }
    let page = text("man run").replace("\\-", "-");
    for option in &options {
        assert!(page.contains(option.as_str()), "the page shows {option}");
    }
    let title = concat!(".TH DLOCK-RUN 1  \"dlock ", env!("CARGO_PKG_VERSION"), "\"");
    assert!(page.starts_with(".ie") && page.contains(title), "{page}");
    assert!(text("man").contains("dlock\\-run(1)"));
    let unknown = output(dlock().args(["man", "frob"]));
    assert_eq!(code(&unknown), 64);
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_printed_is_a_failure() {
    let full = fs::File::options().write(true).open("/dev/full");
    let mut command = dlock();
    let child = command
        .arg("--help")
        .stdout(full.unwrap())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let failed = crate::support::ended(child.unwrap());
    assert_eq!(code(&failed), 71, "{}", stderr(&failed));
    assert!(stderr(&failed).starts_with("dlock: cannot write to standard output: "));
}
