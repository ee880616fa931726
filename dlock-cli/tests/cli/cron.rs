//! The crontab line of the pages does what the pages say.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use crate::support::{
    Place, await_end_of, code, dlock, ended, kill_child, output, spawn, status_of, stderr,
    wait_until,
};
use rustix::process::Signal;

/// The pages of this crate with the recipe. The guide's own tests compare its pages with the
/// README.
const PAGES: [&str; 4] = [
    "README.md",
    "packaging/examples/crontab",
    "src/help.txt",
    "src/help_run.txt",
];

/// The recipe of a page, from `dlock run` to the name of the job, as cron passes it to a shell.
fn recipe(page: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(folder.join(page)).unwrap();
    let words: Vec<&str> = text
        .split_whitespace()
        .filter(|word| *word != "\\")
        .collect();
    let runs = words
        .windows(2)
        .enumerate()
        .filter(|(_, two)| *two == ["dlock", "run"]);
    let mut recipes = runs.filter_map(|(start, _)| {
        let end = words[start..].iter().position(|word| *word == "--")?;
        let recipe = words[start + 2..start + end].join(" ");
        (recipe.contains("--once") && recipe.ends_with("hourly-import")).then_some(recipe)
    });
    let recipe = recipes
        .next()
        .unwrap_or_else(|| panic!("{page} has no recipe"));
    recipe
        .replace("\\%", "%")
        .replace("--store redis://locks.example/", "")
}

/// The command that cron starts on one server, with a short lease. The hour is fixed, since the
/// test may run across the end of an hour.
fn server(place: &Place, recipe: &str) -> Command {
    let script = "echo $$ >>pids; if [ ! -e go ]; then exec sleep 60; fi; echo imported >>log";
    let hour = "\"$(date -u +%FT%H)\"";
    assert!(recipe.contains(hour), "{recipe}");
    let line = format!(
        "exec \"$DLOCK\" run --ttl 9s {} -- sh -c \"$SCRIPT\"",
        recipe.replace(hour, "2026-11-24T12")
    );
    let mut command = Command::new("sh");
    command
        .args(["-c", &line])
        .env("DLOCK", env!("CARGO_BIN_EXE_dlock"))
        .env("DLOCK_STORE", place.store())
        .env("SCRIPT", script)
        .current_dir(place.path(""));
    command
}

#[test]
fn a_waiter_takes_over_from_a_winner_that_crashes() {
    // Each waits for the end of a lease.
    std::thread::scope(|tests| {
        for page in PAGES {
            tests.spawn(|| a_waiter_takes_over(page));
        }
    });
}

fn a_waiter_takes_over(page: &str) {
    let recipe = recipe(page);
    let place = Place::new();
    let start = || spawn(&mut server(&place, &recipe));
    let mut winner = start();
    let job = place.await_pid("pids");
    let others: Vec<Child> = (0..2).map(|_| start()).collect();
    // They must already wait when the winner crashes: a later one runs the job in any case.
    wait_until("two waiters", || (waiting(&place) == 2).then_some(()));
    fs::write(place.path("go"), "").unwrap();
    kill_child(&winner, Signal::KILL);
    status_of(&mut winner);
    await_end_of(job);
    for other in others {
        let output = ended(other);
        assert!(output.status.success(), "{page}: {}", stderr(&output));
    }
    assert_eq!(place.read("log"), "imported\n", "{page}");
}

/// How many processes wait for the lock.
fn waiting(place: &Place) -> u64 {
    let store = place.store();
    let status = ["status", "--json", "--store", &store, "hourly-import"];
    let shown = output(dlock().args(status));
    let entries: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
    entries[0]["waiting"].as_u64().unwrap_or_default()
}

#[test]
fn a_late_server_finds_the_job_done_and_prints_nothing() {
    let place = Place::new();
    fs::write(place.path("go"), "").unwrap();
    for page in PAGES {
        let late = output(&mut server(&place, &recipe(page)));
        assert_eq!((code(&late), stderr(&late)), (0, String::new()), "{page}");
    }
    assert_eq!(place.read("log"), "imported\n");
}
