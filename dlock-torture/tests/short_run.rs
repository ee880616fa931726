//! A run of one minute on all stores at once, for every change. And runs with a promise broken on
//! purpose, which must be found.

use std::process::{Command, Output};

fn torture(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dlock-torture"))
        .args(arguments)
        .output()
        .expect("the program is built")
}

#[test]
fn a_minute_of_faults_in_all_stores_at_once_violates_nothing() {
    // The seed of all random tests. `scripts/test-random` selects another, which plans other
    // faults.
    let seed = std::env::var("PROPTEST_RNG_SEED").unwrap_or_else(|_| "0".to_owned());
    let output = torture(&["--seconds", "60", "--backend", "all", "--seed", &seed]);
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("all: grants "), "{last}");
    assert!(last.ends_with("violations 0"), "{last}");
    // The run itself checks that enough happened in each round.
    for store in ["redis: ", "memcached: ", "file: "] {
        let rounds = text.lines().find_map(|line| line.strip_prefix(store));
        let rounds = rounds.and_then(|rest| rest.split_once(" rounds, grants "));
        assert!(
            rounds.is_some_and(|(rounds, _)| rounds != "0"),
            "{store}{rounds:?}"
        );
    }
}

#[test]
fn each_sabotage_is_found_and_reported_readably() {
    for (sabotage, found) in [
        ("grants-too-long", "Exclusion violated"),
        ("frees-for-others", "Own violated"),
        ("tokens-stand-still", "Fencing violated"),
        ("grants-what-is-held", "Exclusion violated"),
    ] {
        let run = ["--seconds", "20", "--backend", "file"];
        is_found(&run, sabotage, found, "granted");
    }
}

#[test]
fn a_waiter_that_is_passed_over_is_found() {
    // The order is checked in the calm at the end of a round. It takes two rounds and many workers.
    let run = ["--seconds", "60", "--workers", "10", "--backend", "redis"];
    is_found(&run, "passes-its-turn", "Order violated", "queued");
}

/// Primaries are replaced without their agreement, and nothing is an excuse. Whether a grant is
/// lost in one of them is a matter of milliseconds, so there are some runs. A lock that is lost has
/// a second holder, or its holder learns of it before its lease ends.
#[test]
fn a_grant_that_no_replica_has_to_acknowledge_is_found() {
    let found = (3..8).find_map(|seed| {
        let seed = seed.to_string();
        let run = ["--seconds", "60", "--backend", "sentinel-replicas"];
        let sabotage = ["--sabotage", "waits-for-none"];
        let output = torture(&[&run[..], &["--seed", &seed], &sabotage].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let shows = ["Exclusion violated", "Own violated"];
        shows
            .iter()
            .any(|found| text.contains(found))
            .then_some((output.status.code(), text))
    });
    let (code, text) = found.expect("five runs find nothing");
    is_kept("waits-for-none", code, &text, "granted");
}

#[test]
fn a_command_that_breaks_its_promises_is_found() {
    for (sabotage, found) in [
        ("escapes", "Outlived violated"),
        ("never-ends", "did not end within"),
        ("changes-signals", "the job found"),
        ("wrong-status", "says that the job was not started"),
    ] {
        let run = ["--seconds", "20", "--backend", "file"];
        is_found(&run, sabotage, found, "exited");
    }
}

#[test]
fn a_healthy_process_that_starves_beside_others_is_found() {
    let run = ["--seconds", "20", "--backend", "file"];
    is_found(&run, "starves", "Thrives violated", "thrives");
}

/// Breaks a promise, and asserts that the run reports it with events of this kind, and that a check
/// of the kept histories reports it again. Too little may happen in a run on a busy machine, so
/// there are some.
fn is_found(run: &[&str], sabotage: &str, found: &str, event: &str) {
    let mut texts = Vec::new();
    for seed in 3..6 {
        let seed = seed.to_string();
        let output = torture(&[run, &["--seed", &seed, "--sabotage", sabotage]].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.contains(found) {
            is_kept(sabotage, output.status.code(), &text, event);
            return;
        }
        if let Some(kept) = kept(&text) {
            std::fs::remove_dir_all(kept).expect("they are there");
        }
        texts.push(text);
    }
    panic!("{sabotage}: {}", texts.join("\nagain:\n"));
}

/// The run failed, showed events, and kept its histories.
fn is_kept(sabotage: &str, code: Option<i32>, text: &str, event: &str) {
    assert_eq!(code, Some(1), "{sabotage}: {text}");
    assert!(text.contains(event), "no events: {text}");
    // The kept histories can be checked again.
    let after = |start: &str| text.lines().find_map(|line| line.split_once(start));
    let (_, round) = after("the histories are in ").expect("the round with the violation");
    let again = torture(&["check", round]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stdout).contains(" violated: "));
    std::fs::remove_dir_all(kept(text).expect("they are kept")).expect("they are there");
}

/// The folder of the histories that a run has kept.
fn kept(text: &str) -> Option<&str> {
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix("the histories are in "))
}
