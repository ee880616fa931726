//! The units of systemd on the pages have the settings that systemd knows, in the right sections,
//! and their commands run.

use dlock_test_servers::RedisServer;

use crate::pages::{Block, blocks};
use crate::sandbox::Sandbox;
use crate::support::{code, ended, spawn};

/// The settings that the pages use, each with its section.
const SETTINGS: [(&str, &[&str]); 4] = [
    ("Unit", &["Description", "Documentation", "After", "Wants"]),
    (
        "Service",
        &[
            "Type",
            "Environment",
            "ExecStart",
            "KillMode",
            "LoadCredential",
            "Restart",
            "RestartSec",
            "SuccessExitStatus",
            "User",
        ],
    ),
    ("Timer", &["OnCalendar", "AccuracySec"]),
    ("Install", &["WantedBy"]),
];
/// The instance of a unit whose name has one.
const INSTANCE: &str = "hourly-import";
/// The programs of the pages, and what takes their place here.
const PROGRAMS: [(&str, &str); 4] = [
    ("/usr/local/bin/dlock", "bin/dlock"),
    ("/usr/bin/dlock", "bin/dlock"),
    ("/usr/local/bin/payouts", "./payouts"),
    ("/etc/dlock/jobs/$0", "./$0"),
];

/// A setting with its section, in the order of the unit.
type Setting<'a> = (&'a str, &'a str, &'a str);

fn settings(block: &Block) -> Vec<Setting<'_>> {
    let place = &block.place;
    let (mut section, mut found) = ("", Vec::new());
    for line in block.text.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name;
            continue;
        }
        let (name, value) = line
            .split_once('=')
            .unwrap_or_else(|| panic!("{place}: neither a section nor a setting: {line}"));
        let known = SETTINGS.iter().find(|(known, _)| *known == section);
        let is_known = known.is_some_and(|(_, names)| names.contains(&name));
        assert!(is_known, "{place}: {name} in [{section}]");
        found.push((section, name, value));
    }
    found
}

/// The words of a command, as systemd reads them.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in command.chars() {
        match (quote, letter) {
            (Some(open), letter) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    let resolved = words.iter().map(|word: &String| {
        let word = word.replace("%i", INSTANCE).replace("%%", "%");
        word.replace("$$", "$")
    });
    resolved.collect()
}

#[test]
fn words_are_split_as_systemd_splits_them() {
    for (command, expected) in [
        ("a  b", &["a", "b"][..]),
        ("a 'b \"$$c\" d' %i", &["a", "b \"$c\" d", INSTANCE]),
        ("a \"\" b%%c", &["a", "", "b%c"]),
    ] {
        assert_eq!(words(command), expected, "{command}");
    }
}

/// Runs what the unit starts, whose job must have been run.
fn run(redis: &RedisServer, prefix: usize, block: &Block, command: &str) {
    let sandbox = Sandbox::new(redis, prefix);
    for job in ["payouts", INSTANCE] {
        sandbox.script(job);
    }
    let ours = |word: String| {
        let replaced = |word: String, (from, to): &(&str, &str)| word.replace(from, to);
        PROGRAMS.iter().fold(word, replaced)
    };
    let words: Vec<String> = words(command).into_iter().map(ours).collect();
    let mut started = sandbox.command(&words[0]);
    let run = ended(spawn(started.args(&words[1..])));
    assert_eq!(code(&run), 0, "{}: {run:?}", block.place);
    assert_eq!(sandbox.started(), 1, "{}: {run:?}", block.place);
}

#[test]
fn each_unit_has_known_settings_and_its_command_runs_the_job() {
    let redis = RedisServer::start();
    let mut units = blocks();
    units.retain(|block| block.language == "ini");
    assert!(units.len() >= 4, "{} were found", units.len());
    let mut services = 0;
    for (number, block) in units.iter().enumerate() {
        let settings = settings(block);
        let value = |wanted: &str| {
            let mut found = settings.iter().filter(|(_, name, _)| *name == wanted);
            found.next().map(|(.., value)| *value)
        };
        match value("ExecStart") {
            Some(command) => {
                services += 1;
                // By default the command would get SIGTERM twice.
                assert_eq!(value("KillMode"), Some("mixed"), "{}", block.place);
                assert_eq!(value("SuccessExitStatus"), Some("75"), "{}", block.place);
                run(&redis, number, block, command);
            }
            None => assert!(value("OnCalendar").is_some(), "{}", block.place),
        }
    }
    assert!(services >= 3, "{services}");
}
