//! The lines for a crontab do what cron makes of them.

use dlock_test_servers::RedisServer;

use crate::pages::{Block, blocks};
use crate::sandbox::Sandbox;
use crate::support::code;

/// The command of a line, as cron passes it to the shell: behind the five fields of the time, with
/// a percent sign for each escaped one.
fn command(line: &str, place: &str) -> String {
    let mut rest = line;
    for _ in 0..5 {
        let (field, after) = rest.split_once(char::is_whitespace).unwrap();
        let is_time = field.bytes().all(|b| b"0123456789*/,-".contains(&b));
        assert!(is_time, "{place}: no field of a time: {field}");
        rest = after.trim_start();
    }
    let command = rest.replace("\\%", "\0");
    // Cron ends the command at a plain one, and makes the rest its input.
    assert!(!command.contains('%'), "{place}: a % without \\: {line}");
    command.replace('\0', "%")
}

fn run(redis: &RedisServer, prefix: usize, block: &Block) {
    let sandbox = Sandbox::new(redis, prefix);
    // The dlock of this test comes first, also with a PATH of the page.
    let bin = sandbox.path("bin");
    let path = format!("export PATH={}:$PATH\n", bin.display());
    let mut environment = String::new();
    for line in block.text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with(|c: char| c.is_ascii_uppercase()) {
            environment.push_str(&format!("export {line}\n"));
            continue;
        }
        let command = command(line, &block.place);
        let run = sandbox.run(&format!("{environment}{path}{command}"));
        let printed = [run.stdout.as_slice(), &run.stderr].concat();
        let printed = String::from_utf8_lossy(&printed);
        // Cron would mail it.
        assert_eq!((code(&run), &*printed), (0, ""), "{}: {line}", block.place);
    }
}

#[test]
fn each_line_for_a_crontab_runs_its_job_and_prints_nothing() {
    let redis = RedisServer::start();
    let mut crontabs = blocks();
    crontabs.retain(|block| block.language == "cron");
    assert!(crontabs.len() >= 3, "{} were found", crontabs.len());
    for (number, block) in crontabs.iter().enumerate() {
        run(&redis, number, block);
    }
}
