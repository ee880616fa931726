use std::time::Duration;

use super::*;

fn parsed(line: &str) -> Result<Invocation, UsageError> {
    parse(line.split_whitespace().map(OsString::from))
}

fn run(line: &str) -> Run {
    match parsed(line) {
        Ok(Invocation::Verb(Verb::Run(run))) => *run,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn every_flag_is_read_before_and_after_the_name() {
    let flags = "--config c.toml --store file: --prefix p --label l --ttl 1m --wait forever --min-hold 5m --once J \
                 --keep 2h --kill-after 3s --pass-store --conflict-exit-code 0 --done-exit-code 1 \
                 --unreachable-exit-code 2 --lost-exit-code=3 --cron \
                 --max-hold 9m --verbose --log json --metrics-file m.prom";
    let before = run(&format!("run {flags} n -- cmd --ttl x -- y"));
    let after = run(&format!("run n {flags} -- cmd --ttl x -- y"));
    assert_eq!(before, after);
    let minutes = |n: u64| Some(Duration::from_secs(60 * n));
    assert_eq!(
        before,
        Run {
            name: "n".into(),
            command: ["cmd", "--ttl", "x", "--", "y"]
                .map(OsString::from)
                .to_vec(),
            line: None,
            store: StoreArgs {
                place: PlaceArgs {
                    store: Some("file:".into()),
                    prefix: Some("p".into()),
                },
                config: Some("c.toml".into()),
            },
            options: RunOptions {
                lock: LockArgs {
                    wait: Some(Patience::Forever),
                    label: Some("l".into()),
                    ttl: minutes(1),
                    min_hold: minutes(5),
                },
                kill_after: Some(Duration::from_secs(3)),
                max_hold: minutes(9),
                once: OnceArgs {
                    job: Some("J".into()),
                    keep: Some(Duration::from_secs(7200)),
                },
                pass_store: true,
                report: ReportArgs {
                    verbose: true,
                    log: Some(LogFormat::Json),
                    metrics_file: Some("m.prom".into()),
                },
                codes: CodeArgs {
                    cron: true,
                    conflict_exit_code: Some(0),
                    done_exit_code: Some(1),
                    unreachable_exit_code: Some(2),
                    lost_exit_code: Some(3),
                },
            },
        }
    );
    let work = before.work().unwrap();
    assert_eq!(work.program, "cmd");
    assert_eq!(work.arguments, ["--ttl", "x", "--", "y"]);
    let codes = Codes {
        held: 0,
        done: 1,
        unreachable: 2,
        lost: 3,
    };
    assert_eq!(before.options.codes(), codes);
}

/// What the whole table makes of a command line.
fn by_whole_table(line: &str) -> Option<Run> {
    match by_table(line.split_whitespace().map(OsString::from).collect()) {
        Ok(Verb::Run(run)) => Some(*run),
        _ => None,
    }
}

#[test]
fn a_line_of_run_is_read_as_the_whole_table_reads_it() {
    for (line, is_right) in [
        ("run n -- true", true),
        ("run -- n -- true", false),
        ("run n -c true", true),
        ("run n -c -x", true),
        ("run n -c true --wait 5s", true),
        ("run n", true),
        ("run --wait 1s --wait 2s n -- a", true),
        ("run --ttl=1m --verbose --verbose n -- a --ttl b -- c", true),
        ("run --label -x --store -y n -- a", true),
        ("run n --", true),
        ("run run -- run", true),
        ("run help -- a", true),
        ("run", false),
        ("run --", false),
        ("run -- true", false),
        ("run n true", false),
        ("run n m -- true", false),
        ("run --wait n -- true", false),
        ("run --wait 1s", false),
        ("run --no-such n -- true", false),
        ("run --no-such=1 n -- true", false),
        ("run --version n -- true", false),
        ("run -V", false),
        ("run --help", false),
        ("run n --help -- true", false),
        ("run -h n", false),
        ("run --ver n -- true", false),
        ("run --log xml n -- true", false),
        ("run n -c true -- false", false),
        ("run -cx n", true),
        ("run --verbose=1 n -- true", false),
    ] {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        let read = run_alone(&words);
        assert_eq!(read, by_whole_table(line), "{line}");
        assert_eq!(read.is_some(), is_right, "{line}");
    }
    for line in [
        "",
        "hold n",
        "status n",
        "ru n -- true",
        "--help run",
        "-- run n",
    ] {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        assert_eq!(run_alone(&words), None, "{line}");
    }
    let odd = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
    let words = ["run".into(), "n".into(), "--".into(), odd];
    let whole = by_table(words.to_vec()).unwrap();
    let alone = Box::new(run_alone(&words).unwrap());
    assert_eq!(Verb::Run(alone), whole);
}

#[test]
fn without_flags_it_tries_once_and_dlock_has_its_own_exit_codes() {
    let default = run("run n -- true");
    let once = Patience::AtMost(Duration::ZERO);
    assert_eq!(default.options, RunOptions::default());
    assert_eq!(default.options.lock.patience(), once);
    let wait = run("run --wait 0 n -- true").options.lock.wait;
    assert_eq!(wait, Some(once));
    let codes = default.options.codes();
    assert_eq!((codes.held, codes.done), (75, 75));
    assert_eq!((codes.unreachable, codes.lost), (69, 70));
}

#[test]
fn help_and_version_need_nothing_else() {
    let version = concat!("dlock ", env!("CARGO_PKG_VERSION"), "\n");
    let help = "Usage: dlock <COMMAND>";
    let run_help = "dlock run [OPTIONS] NAME -- COMMAND";
    for (line, expected) in [
        ("--help", help),
        ("-h", help),
        ("help", help),
        ("help run", run_help),
        ("run --help", run_help),
        ("run n -h", run_help),
        ("--version", version),
        ("-V", version),
    ] {
        match parsed(line) {
            Ok(Invocation::Text(text)) => assert!(text.contains(expected), "{line}: {text}"),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn a_line_is_run_by_a_shell() {
    let line = run("run n -c true").work().unwrap();
    assert_eq!(line.program, "sh");
    assert_eq!(line.arguments, ["-c", "true"]);
    let both = parsed("run n -c true -- false").unwrap_err().to_string();
    assert!(both.contains("exclude each other"), "{both}");
}

#[test]
fn for_cron_held_and_done_are_no_failure_unless_an_option_says_otherwise() {
    let codes = run("run --cron n -- true").options.codes();
    assert_eq!((codes.held, codes.done), (0, 0));
    assert_eq!((codes.unreachable, codes.lost), (69, 70));
    let codes = run("run --cron --done-exit-code 3 n -- true")
        .options
        .codes();
    assert_eq!((codes.held, codes.done), (0, 3));
}

/// Options that only one verb has are found wrong when the table is built, in debug builds alone.
#[test]
fn the_table_makes_sense() {
    table().debug_assert();
}

#[test]
fn each_error_names_the_mistake_and_what_to_write() {
    for (line, expected) in [
        ("", "dlock run NAME -- COMMAND"),
        ("lock n", "there is no subcommand `lock`"),
        ("--frob", "--frob"),
        ("run", "the lock has no name"),
        ("run -- true", "the lock has no name"),
        ("run n", "no command to run; write: dlock run n -- COMMAND"),
        ("run n --", "no command to run"),
        ("run n true", "found `true` where `--` was expected"),
        ("run --frob n -- true", "--frob"),
        ("run --ttl", "--ttl needs a value"),
        ("run --ttl 30 n -- true", "--ttl: `30` is not a duration"),
        ("run --max-hold 0 n -- true", "must be more than 0"),
        ("run --max-hold 0s n -- true", "must be more than 0"),
        ("run --wait 30 n -- true", "or `forever`"),
        ("run --lost-exit-code 256 n -- true", "number from 0 to 255"),
        ("run --pass-store=1 n -- true", "--pass-store"),
    ] {
        let error = parsed(line).unwrap_err().to_string();
        assert!(error.contains(expected), "{line}: {error}");
    }
}
