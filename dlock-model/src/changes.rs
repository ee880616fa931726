//! Changes to the source text of the flows. A property must detect each of them.
//!
//! One copy of the sources contains all changes, each behind a switch. In the text of a change,
//! `CHANGED` is true if the process was started for that change. The copy is compiled once, and a
//! separate process explores each change.

mod core;
mod stores;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use super::explored;
use super::explorer::Explored;
use super::jobs::{JobBounds, Jobs};
use super::memcache::Memcached;
use super::redis::Redis;
use super::scenarios::{NO_FAULTS, plain};
use super::types::Property;
use super::world::{Bounds, Faults};

/// More states than any change needs.
const MOST: usize = 1_000_000;
/// Enough states to show that a property holds without the change.
const ENOUGH: usize = 100_000;
/// The environment variable that selects the change in a process of the copy.
const CHANGE: &str = "DLOCK_MODEL_CHANGE";

/// A placeholder for the expression that is true if the change is on.
const SWITCH: &str = "CHANGED";

struct Change {
    name: &'static str,
    /// In the workspace.
    file: &'static str,
    before: &'static str,
    /// With [`SWITCH`] where the change is.
    after: &'static str,
    property: Property,
    world: OfWorld,
}

/// In which world it shows.
enum OfWorld {
    Redis(Bounds),
    Memcached(Bounds),
    Jobs(JobBounds),
}

fn with(faults: Faults) -> Bounds {
    Bounds { faults, ..plain() }
}

fn losses(losses: u8) -> Bounds {
    with(Faults {
        losses,
        ..NO_FAULTS
    })
}

fn all() -> Vec<Change> {
    [
        core::of_the_user(),
        core::of_the_worker(),
        stores::of_the_pool(),
        stores::of_the_conversation(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Change {
    fn explored(&self, most: usize) -> Explored {
        let properties = vec![self.property];
        match &self.world {
            OfWorld::Jobs(bounds) => {
                let bounds = bounds.clone();
                Jobs::explored(
                    &JobBounds {
                        properties,
                        ..bounds
                    },
                    most,
                )
            }
            OfWorld::Redis(bounds) => {
                let bounds = bounds.clone();
                explored::<Redis>(
                    &Bounds {
                        properties,
                        ..bounds
                    },
                    most,
                )
            }
            OfWorld::Memcached(bounds) => {
                let bounds = bounds.clone();
                explored::<Memcached>(
                    &Bounds {
                        properties,
                        ..bounds
                    },
                    most,
                )
            }
        }
    }

    fn apply(&self, text: &str) -> String {
        let places = text.matches(self.before).count();
        assert_eq!(places, 1, "{}: places in {}", self.name, self.file);
        assert!(self.after.contains(SWITCH), "{}: a switch", self.name);
        let is_on = format!(
            "({{ static IS_ON: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| \
             std::env::var({CHANGE:?}).is_ok_and(|name| name == {:?})); *IS_ON }})",
            self.name
        );
        text.replace(self.before, &self.after.replace(SWITCH, &is_on))
    }
}

/// Where the sources are, and a folder for a copy of them that stays from run to run: compiling is
/// most of the work.
fn folders() -> (PathBuf, PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let exe = env::current_exe().expect("a path");
    let target = exe.ancestors().nth(3).expect("target/PROFILE/deps/EXE");
    (
        root.expect("the workspace").to_owned(),
        target.join("changed"),
    )
}

/// Writes what differs, so that cargo compiles no more than that.
fn write(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return;
    }
    fs::create_dir_all(path.parent().expect("a folder")).expect("a new folder");
    fs::write(path, text).expect("a file to write");
}

/// Removes the lines that start with `beginning`: the copy has no tests that need servers.
fn without(text: &str, beginning: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with(beginning));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Removes from a folder of the copy what an earlier run left there and the sources lack now.
fn remove_strangers(from: &Path, to: &Path) {
    for entry in fs::read_dir(to).into_iter().flatten().flatten() {
        if !from.join(entry.file_name()).exists() {
            let path = entry.path();
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(path),
                false => fs::remove_file(path),
            };
            removed.expect("what an earlier run made");
        }
    }
}

/// Copies a part of the workspace, with all changes made.
fn copy(from: &Path, to: &Path, part: &str, changes: &[Change]) {
    let path = from.join(part);
    if path.is_dir() {
        remove_strangers(&path, &to.join(part));
        for entry in fs::read_dir(&path).expect("a folder to read") {
            let name = entry.expect("an entry").file_name();
            let part = format!("{part}/{}", name.to_str().expect("a name in UTF-8"));
            copy(from, to, &part, changes);
        }
        return;
    }
    let text = fs::read_to_string(&path).expect("a text");
    let text = match part {
        "dlock-model/Cargo.toml" => without(&text, "dlock-test-servers"),
        "dlock-model/src/lib.rs" | "dlock-model/src/postgres.rs" => without(&text, "mod twins;"),
        _ => text,
    };
    let here = changes.iter().filter(|change| change.file == part);
    let text = here.fold(text, |text, change| change.apply(&text));
    write(&to.join(part), &text);
}

/// The workspace with nothing but the model in it.
fn workspace(text: &str) -> String {
    let (before, rest) = text.split_once("members = [").expect("members");
    let (_, after) = rest.split_once(']').expect("the end of the members");
    let members = [
        "dlock-model",
        "dlock-model/core",
        "dlock-model/memcache",
        "dlock-model/net",
        "dlock-process",
        "dlock-url",
    ];
    format!("{before}members = {members:?}{after}")
}

/// Makes the changed copy; where it is.
fn changed_copy() -> PathBuf {
    let (root, folder) = folders();
    for part in [
        "Cargo.lock",
        "dlock-core/src",
        "dlock-memcache/src",
        "dlock-model/Cargo.toml",
        "dlock-model/core",
        "dlock-model/memcache",
        "dlock-model/net",
        "dlock-model/src",
        "dlock-net/src",
        "dlock-process/Cargo.toml",
        "dlock-process/src",
        "dlock-url/Cargo.toml",
        "dlock-url/src",
    ] {
        copy(&root, &folder, part, &all());
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("a manifest");
    write(&folder.join("Cargo.toml"), &workspace(&manifest));
    folder
}

/// Runs a test of the copy with `change` switched on, if any. The error has what it printed.
fn run_in(copy: &Path, test: &str, change: Option<&str>) -> Result<(), String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["test", "--offline", "--quiet", "-p", "dlock-model"])
        .args([test, "--", "--ignored"])
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", copy.join("target"))
        .env(CHANGE, change.unwrap_or_default());
    let output = cargo.output().expect("cargo");
    let printed = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && printed.contains("1 passed") {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{}:\n{printed}\n{errors}",
        change.unwrap_or("none")
    ))
}

/// What the process that explores the copy does.
#[test]
#[ignore = "it holds in a changed copy only"]
fn the_property_shows_it() {
    let name = env::var(CHANGE).expect("a change's name");
    let change = all().into_iter().find(|change| change.name == name);
    let change = change.expect("a change of that name");
    let explored = change.explored(MOST);
    let property = format!("{:?}:", change.property);
    let broken = explored.broken.as_ref();
    let is_shown = broken.is_some_and(|broken| broken.what.starts_with(&property));
    assert!(is_shown, "{explored}");
}

#[test]
#[ignore = "it is run in the changed copy"]
fn without_a_change_they_hold() {
    for change in all() {
        let explored = change.explored(ENOUGH);
        assert!(explored.broken.is_none(), "{}: {explored}", change.name);
    }
}

#[test]
fn each_change_is_shown_by_its_property() {
    let copy = changed_copy();
    let mut results = vec![run_in(&copy, "changes::without_a_change_they_hold", None)];
    for change in all() {
        let shows = "changes::the_property_shows_it";
        results.push(run_in(&copy, shows, Some(change.name)));
    }
    let missed: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
