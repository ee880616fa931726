//! What the command inherits from dlock: environment, descriptors, arguments.

use std::io::Write as _;
use std::process::Stdio;

use crate::support::{Place, code, dlock, ended, output, stderr};

fn stdout(output: &std::process::Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn it_learns_the_key_and_a_token_that_rises() {
    let place = Place::new();
    let run = || {
        let run =
            output(&mut place.run("--prefix app job", "echo $DLOCK_KEY $DLOCK_FENCING_TOKEN"));
        let text = stdout(&run);
        let (key, token) = text.trim().split_once(' ').unwrap();
        assert_eq!(key, "app:job");
        token.parse::<u64>().unwrap()
    };
    let first = run();
    assert!(run() > first);
}

#[test]
fn it_learns_the_store_only_with_pass_store() {
    let place = Place::new();
    let script = "echo ${DLOCK_STORE-none}";
    let from_flag = output(
        place
            .run("job", script)
            .env("DLOCK_STORE", "redis://:secret@host/"),
    );
    assert_eq!(stdout(&from_flag), "none\n");
    let run = |flags: &[&str]| {
        let mut command = dlock();
        command
            .env("DLOCK_STORE", place.store())
            .arg("run")
            .args(flags);
        stdout(&output(command.args(["job", "--", "sh", "-c", script])))
    };
    assert_eq!(run(&[]), "none\n");
    assert_eq!(run(&["--pass-store"]), format!("{}\n", place.store()));
}

#[test]
fn the_store_comes_from_the_environment_without_the_flag() {
    let place = Place::new();
    let mut command = dlock();
    command
        .env("DLOCK_STORE", place.store())
        .args(["run", "job", "--"]);
    let run = output(command.args(["sh", "-c", &format!("ls {}", place.path("locks").display())]));
    assert!(stdout(&run).contains("layout"), "{}", stderr(&run));
    assert_eq!(stderr(&run), "");
}

#[test]
fn without_a_store_dlock_says_that_it_locks_this_host_only() {
    let place = Place::new();
    let run = |flags: &[&str]| {
        let mut command = dlock();
        command
            .env("XDG_STATE_HOME", place.path("state"))
            .arg("run")
            .args(flags);
        output(command.args(["job", "--", "true"]))
    };
    let silent = run(&["--store", "file:"]);
    assert_eq!((code(&silent), stderr(&silent)), (0, String::new()));
    assert!(place.path("state/dlock").is_dir());
    let told = run(&[]);
    assert_eq!(code(&told), 0);
    let said = stderr(&told);
    assert!(
        said.starts_with("dlock: ") && said.contains("this host only"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
}

#[test]
fn it_reads_standard_input_to_its_end() {
    let place = Place::new();
    let mut command = place.run("job", "cat");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = "line\n".repeat(100_000);
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn({
        let text = text.clone();
        move || stdin.write_all(text.as_bytes()).unwrap()
    });
    let output = ended(child);
    writer.join().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
}

#[test]
fn it_gets_arguments_as_they_are_and_nothing_is_run_by_a_shell() {
    let place = Place::new();
    let odd = [
        "",
        "a b",
        "$(touch ran)",
        "--",
        "--help",
        "\u{1b}[2J",
        "'",
        "ß",
    ];
    let run = output(place.dlock("job").args(["--", "printf", "[%s]"]).args(odd));
    let expected: String = odd.iter().map(|word| format!("[{word}]")).collect();
    assert_eq!(stdout(&run), expected);
    assert!(!place.path("ran").exists());
}

#[test]
fn arguments_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = Place::new();
    let word = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    let run = output(place.dlock("job").args(["--", "printf", "%s"]).arg(word));
    assert_eq!(run.stdout, b"\xff\xfe");
}

#[test]
fn a_reader_of_its_output_does_not_wait_for_the_watcher() {
    // The output ends when the command and dlock have ended. The reader would wait for a watcher
    // that held it open.
    let place = Place::new();
    let run = output(&mut place.run(
        "job",
        "echo one; exec 1>&- 2>&-; echo $$ >pid; exec sleep 0.2",
    ));
    assert_eq!((code(&run), stdout(&run)), (0, "one\n".to_owned()));
}

#[test]
fn a_closed_standard_error_is_no_reason_to_fail() {
    let place = Place::new();
    let binary = env!("CARGO_BIN_EXE_dlock");
    let script = format!("{binary} run job -- true 2>&-; echo $?");
    let mut shell = std::process::Command::new("sh");
    let run = output(
        shell
            .args(["-c", &script])
            .env("XDG_STATE_HOME", place.path("state"))
            .env_remove("DLOCK_STORE"),
    );
    assert_eq!(stdout(&run), "0\n", "{}", stderr(&run));
}

#[test]
fn unusual_names_are_distinct_locks_and_are_escaped_in_messages() {
    let place = Place::new();
    let long = "x".repeat(10_000);
    for name in [
        "a b",
        "a%20b",
        "../../etc",
        "{x}",
        "a\r\nflush_all",
        "\u{1b}[2J",
        "e\u{301}",
        "\u{e9}",
        &long,
    ] {
        let nested = "\"$0\" run --store \"$1\" \"$2\" -- true";
        let mut command = dlock();
        command.args([
            "run",
            "--store",
            &place.store(),
            name,
            "--",
            "sh",
            "-c",
            nested,
        ]);
        let run = output(command.args([env!("CARGO_BIN_EXE_dlock"), &place.store(), name]));
        assert_eq!(code(&run), 75, "{}", stderr(&run));
        let said = stderr(&run);
        assert!(
            said.lines().count() == 1 && !said.contains('\u{1b}'),
            "{said:?}"
        );
    }
    let mut command = dlock();
    command.args([
        "run",
        "--store",
        &place.store(),
        "e\u{301}",
        "--",
        env!("CARGO_BIN_EXE_dlock"),
    ]);
    let other = output(command.args(["run", "--store", &place.store(), "\u{e9}", "--", "true"]));
    assert_eq!(code(&other), 0, "{}", stderr(&other));
}

#[test]
fn a_name_with_a_zero_byte_cannot_be_given_and_an_empty_one_is_refused() {
    let place = Place::new();
    let run = output(dlock().args(["run", "--store", &place.store(), "", "--", "true"]));
    assert_eq!(code(&run), 64);
    assert!(stderr(&run).contains("no name"));
}
