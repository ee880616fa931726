//! The run that is made on every change: a minute, all stores at once. And runs over stores that are broken on purpose, which must be found.

use std::process::{Command, Output};

fn torture(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dlock-torture"))
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn a_minute_of_faults_in_all_stores_at_once_violates_nothing() {
    // Another seed each time: it is printed, and plans the same faults again.
    let output = torture(&["--seconds", "60", "--backend", "all"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("all: grants "), "{last}");
    assert!(last.ends_with("violations 0"), "{last}");
    for store in ["redis: 2 rounds", "memcached: 2 rounds", "file: 2 rounds"] {
        assert!(text.contains(store), "no line with `{store}`:\n{text}");
    }
    println!("{last}");
}

#[test]
fn what_is_broken_on_purpose_is_found_and_said_readably() {
    for (sabotage, seed, found) in [
        ("grants-too-long", "3", "Exclusion violated"),
        ("extends-what-is-lost", "4", "Exclusion violated"),
        ("tokens-stand-still", "3", "Fencing violated"),
        ("grants-what-is-held", "3", "Exclusion violated"),
    ] {
        let output = torture(&[
            "--seconds",
            "20",
            "--backend",
            "file",
            "--seed",
            seed,
            "--sabotage",
            sabotage,
        ]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{sabotage}: {text}");
        assert!(text.contains(found), "{sabotage}: {text}");
        assert!(text.contains("granted"), "no events: {text}");
        let kept = text
            .lines()
            .find_map(|line| line.strip_prefix("the histories are in "));
        std::fs::remove_dir_all(kept.unwrap()).unwrap();
    }
}
