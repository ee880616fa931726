//! The examples that the package installs do what the page of recipes says. The guide's own tests
//! compare the page with these files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{
    Place, copy_program, ended, kill, kill_child, output, spawn, stderr, wait_until,
    with_default_signals,
};
use rustix::process::Signal;

/// The hour of the hourly job, so that a test may run across the end of an hour.
const HOUR: (&str, &str) = ("$(date -u +%FT%H)", "2026-11-24T12");

fn packaged(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A program of the test in this folder.
fn program(place: &Place, name: &str, text: &str) {
    let text_file = place.path(&format!("{name}.text"));
    fs::write(&text_file, text).unwrap();
    fs::set_permissions(&text_file, fs::Permissions::from_mode(0o755)).unwrap();
    // Not written here: a test that forks meanwhile would keep it open, and it could not be run.
    copy_program(&text_file, &place.path(name));
}

/// A program that notes its start in `log`, and waits for the file `go`.
fn waiting_program(place: &Place, name: &str) {
    let text = "#!/bin/sh\necho started >>log\nuntil [ -e go ]; do sleep 0.02; done\n";
    program(place, name, text);
}

/// A command with the environment that cron or a service manager gives it, and nothing else.
fn bare(place: &Place, program: &str) -> Command {
    let mut command = Command::new(program);
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_dlock"));
    let path = format!("{}:/usr/bin:/bin", binary.parent().unwrap().display());
    command
        .env_clear()
        .envs([("HOME", place.path("")), ("PATH", path.into())])
        .current_dir(place.path(""))
        .stdin(Stdio::null());
    // SAFETY: system calls, nothing else.
    #[allow(unsafe_code)]
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, with_default_signals)
    };
    command
}

/// The end of a command that succeeds and prints nothing, since cron mails whatever is printed.
fn ends_in_silence(child: Child) {
    let output = ended(child);
    assert!(output.status.success(), "{output:?}");
    assert_eq!((&*output.stdout, &*output.stderr), (&b""[..], &b""[..]));
}

/// The commands of a crontab, as cron passes them to a shell.
fn commands_of(crontab: &str) -> Vec<String> {
    let lines = crontab.lines().filter(|line| line.starts_with(['*', '0']));
    let command = |line: &str| {
        let mut rest = line;
        for _ in 0..5 {
            rest = rest.split_once(char::is_whitespace).unwrap().1.trim_start();
        }
        let bare = rest.replace("\\%", "");
        assert!(!bare.contains('%'), "cron ends the line here: {line}");
        rest.replace("\\%", "%")
    };
    lines.map(command).collect()
}

#[test]
fn each_line_of_the_crontab_runs_on_one_of_two_servers() {
    let commands = commands_of(&packaged("examples/crontab"));
    assert_eq!(commands.len(), 3);
    for (line, waits) in commands.iter().zip([true, false, false]) {
        let place = Place::new();
        for name in ["import.sh", "report.sh", "work.sh"] {
            waiting_program(&place, name);
        }
        let start = || {
            let mut shell = bare(&place, "/bin/sh");
            let line = line.replace(HOUR.0, HOUR.1);
            shell.args(["-c", &line]).env("DLOCK_STORE", place.store());
            spawn(&mut shell)
        };
        let first = start();
        place.await_text("log");
        let mut second = Some(start());
        if !waits {
            second.take().into_iter().for_each(ends_in_silence);
        }
        fs::write(place.path("go"), "").unwrap();
        ends_in_silence(first);
        second.into_iter().for_each(ends_in_silence);
        assert_eq!(place.read("log"), "started\n", "{line}");
    }
}

/// The words of `ExecStart=`, as systemd reads them for this instance of the unit.
fn command_of(unit: &str, instance: &str) -> Vec<String> {
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let pieces = line.unwrap().split('\'').enumerate();
    let words = pieces.flat_map(|(number, piece)| match number % 2 {
        0 => piece.split_whitespace().map(str::to_owned).collect(),
        _ => vec![piece.to_owned()],
    });
    let resolved = |word: String| {
        let word = word.replace("%i", instance).replace("%%", "%");
        word.replace("$$", "$").replace(HOUR.0, HOUR.1)
    };
    words.map(resolved).collect()
}

/// A process of a unit, with our paths in place of those of the package.
fn started_by(place: &Place, command: &[String], paths: &[(&str, String); 2]) -> Command {
    let ours = |word: &String| {
        let replaced = |word: String, (from, to): &(&str, String)| word.replace(from, to);
        paths.iter().fold(word.clone(), replaced)
    };
    let words: Vec<String> = command.iter().map(ours).collect();
    let mut command = bare(place, &words[0]);
    command.args(&words[1..]);
    command
}

#[test]
fn the_hourly_unit_runs_its_job_on_one_of_two_servers() {
    let place = Place::new();
    fs::create_dir(place.path("jobs")).unwrap();
    waiting_program(&place, "jobs/hourly-import");
    let command = command_of(&packaged("dlock@.service"), "hourly-import");
    let start = || {
        let paths = [
            ("/usr/bin/dlock", env!("CARGO_BIN_EXE_dlock").to_owned()),
            ("/etc/dlock/jobs", place.path("jobs").display().to_string()),
        ];
        spawn(started_by(&place, &command, &paths).env("DLOCK_STORE", place.store()))
    };
    let servers = [start(), start()];
    place.await_text("log");
    fs::write(place.path("go"), "").unwrap();
    servers.into_iter().for_each(ends_in_silence);
    ends_in_silence(start());
    assert_eq!(place.read("log"), "started\n");
}

#[test]
fn the_service_finds_the_store_in_its_credential_and_is_asked_to_end_once() {
    let unit = packaged("examples/payouts.service");
    assert!(unit.contains("\nKillMode=mixed\n"));
    assert!(unit.contains("\nLoadCredential=dlock.store:"));
    let place = Place::new();
    let job = "#!/bin/sh\ntrap 'echo asked >>asked' TERM\necho $$ >pid\n\
               until [ -e asked ]; do sleep 0.02; done\nexit 3\n";
    program(&place, "payouts", job);
    fs::write(place.path("dlock.store"), place.store()).unwrap();
    let paths = [
        ("/usr/bin/dlock", env!("CARGO_BIN_EXE_dlock").to_owned()),
        (
            "/usr/local/bin/payouts",
            place.path("payouts").display().to_string(),
        ),
    ];
    let mut command = started_by(&place, &command_of(&unit, ""), &paths);
    let service = spawn(command.env("CREDENTIALS_DIRECTORY", place.path("")));
    place.await_pid("pid");
    assert!(place.path("locks").exists());
    kill_child(&service, Signal::TERM);
    let output = ended(service);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert_eq!(place.read("asked"), "asked\n");
}

#[test]
fn a_script_that_takes_its_own_lock_runs_alone_however_it_is_started() {
    let place = Place::new();
    program(&place, "report", &packaged("examples/nightly-report.sh"));
    waiting_program(&place, "other");
    fs::write(
        place.path("config"),
        format!("store = \"{}\"\n", place.store()),
    )
    .unwrap();
    let start = |program: &str, arguments: &str| {
        let mut command = bare(&place, program);
        command.args(arguments.split_whitespace());
        spawn(command.env("DLOCK_CONFIG", place.path("config")))
    };
    let script = place.path("report").display().to_string();
    let binary = env!("CARGO_BIN_EXE_dlock");

    let alone = ended(start(&script, ""));
    assert!(alone.status.success(), "{}", stderr(&alone));
    assert!(alone.stdout.starts_with(b"reporting with token 1"));

    let holder = start(binary, "run nightly-report -- ./other");
    place.await_text("log");
    for (program, arguments) in [(&*script, ""), (binary, "run elsewhere -- ./report")] {
        let refused = ended(start(program, arguments));
        assert_eq!(refused.status.code(), Some(75), "{}", stderr(&refused));
        assert!(refused.stdout.is_empty());
    }
    fs::write(place.path("go"), "").unwrap();
    assert!(ended(holder).status.success());
}

/// The command line of the image, with dlock as process 1 and this script as its command.
#[cfg(target_os = "linux")]
fn container(place: &Place, script: &str) -> Child {
    let image = packaged("examples/Dockerfile");
    let words_after = |instruction: &str| -> Vec<String> {
        let line = image
            .lines()
            .find_map(|line| line.strip_prefix(instruction));
        serde_json::from_str(line.unwrap()).unwrap()
    };
    assert_eq!(words_after("CMD "), ["/usr/local/bin/payouts"]);
    let mut unshare = bare(place, "unshare");
    unshare
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .args(words_after("ENTRYPOINT "))
        .args(["sh", "-c", script])
        .env("DLOCK_STORE", place.store());
    spawn(&mut unshare)
}

/// Sends the signal to process 1 of a container, as its runtime does from outside.
#[cfg(target_os = "linux")]
fn signal_process_1(container: &Child, signal: Signal) {
    let id = container.id();
    let first = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    kill(first.trim().parse().unwrap(), signal);
}

#[cfg(target_os = "linux")]
#[test]
fn process_1_of_a_container_reaps_orphans() {
    let place = Place::new();
    let script = "[ $PPID = 1 ] || exit 8; (sh -c 'echo $$ >orphan; exec sleep 0.1' &) \n\
                  until grep -q . orphan; do sleep 0.02; done; n=0\n\
                  while [ -e /proc/$(cat orphan) ]; do\n\
                    n=$((n+1)); [ $n -lt 1500 ] || exit 9; sleep 0.02\n\
                  done; exit 4";
    let output = ended(container(&place, script));
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
}

#[cfg(target_os = "linux")]
#[test]
fn process_1_of_a_container_passes_signals_on() {
    let place = Place::new();
    let script = "trap 'echo asked >>asked' TERM; echo ready >ready\n\
                  until [ -e asked ]; do sleep 0.02; done; exit 5";
    let container = container(&place, script);
    place.await_text("ready");
    signal_process_1(&container, Signal::TERM);
    let output = ended(container);
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert_eq!(place.read("asked"), "asked\n");
}

/// The system ignores signals to process 1 that it has no handler for.
#[cfg(target_os = "linux")]
#[test]
fn process_1_of_a_container_ends_its_wait_on_a_signal() {
    let place = Place::new();
    waiting_program(&place, "holder");
    let holder = spawn(place.dlock("payouts").args(["--", "./holder"]));
    place.await_text("log");
    let waiter = container(&place, "echo ran >ran");
    wait_until("the waiter", || {
        let status = output(bare(&place, env!("CARGO_BIN_EXE_dlock")).args([
            "status",
            "--store",
            &place.store(),
            "payouts",
        ]));
        String::from_utf8(status.stdout)
            .unwrap()
            .contains("1 waiting")
            .then_some(())
    });
    signal_process_1(&waiter, Signal::TERM);
    let waited = ended(waiter);
    assert_eq!(waited.status.code(), Some(143), "{}", stderr(&waited));
    assert_eq!(place.read("ran"), "");
    fs::write(place.path("go"), "").unwrap();
    assert!(ended(holder).status.success());
}
