//! A migration: all servers of a new release start at once, one migrates the schema, the others wait for it and then serve.
//!
//! ```sh
//! cargo run -p dlock-examples --bin migration                     # locks in a temporary folder
//! cargo run -p dlock-examples --bin migration redis://127.0.0.1/  # or memcache://127.0.0.1, file:/some/folder
//! ```
//!
//! The first server to migrate is killed after its first step. Another goes on where it ended.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use dlock_core::{Lock, LockGuard};
use dlock_examples::{Outcome, Part, Stage, exit, say};

/// The steps from an empty database to the schema of this release.
const STEPS: [&str; 4] = [
    "create table orders",
    "add column orders.paid",
    "fill orders.paid",
    "create index on orders.paid",
];

/// What each server does before it serves.
fn start(part: &Part) -> Outcome {
    // A migration that was killed is continued 2 s later.
    let options = part.options().with_ttl(Duration::from_secs(2));
    let lock = Lock::with_options(part.store()?, "migration", options)?;
    // Renewed in the background: a step may take longer than the 2 s. Whoever waited finds nothing to do.
    lock.locked_within(Duration::from_secs(60), |guard| migrate(guard, part))??;
    say("serves");
    Ok(())
}

/// Applies the steps that are missing.
fn migrate(guard: &LockGuard, part: &Part) -> Outcome {
    let schema = part.folder.join("schema");
    let applied = fs::read_to_string(&schema).unwrap_or_default();
    let applied = applied.lines().count();
    if applied == STEPS.len() {
        say("finds the schema up to date");
        return Ok(());
    }
    for step in &STEPS[applied..] {
        // Between this look and the step only a database that checks the fencing token would be safe: see `guarded-resource`.
        if !guard.is_valid() {
            return Err("lost the lock, and leaves the rest to the next".into());
        }
        sleep(Duration::from_secs(1));
        // A database would apply the step and note its number in one transaction.
        let mut file = OpenOptions::new().create(true).append(true).open(&schema)?;
        writeln!(file, "{step}")?;
        say(format_args!("migrates: {step}"));
    }
    Ok(())
}

fn main() -> ExitCode {
    exit(play())
}

fn play() -> Outcome {
    if let Some(part) = Part::of_this_process() {
        return start(&part);
    }

    let stage = Stage::from_arguments()?;
    say("Four servers of a new release start.");
    let mut servers = Vec::new();
    for server in ["app-1", "app-2", "app-3", "app-4"] {
        servers.push((server, stage.start(server, &[])?));
    }
    let first = stage.until("migrates: create table")?.server;
    let place = servers.iter().position(|(server, _)| *server == first);
    let (_, killed) = servers.swap_remove(place.ok_or("who was that?")?);
    killed.kill()?;
    say(format_args!("  {first} is dead."));
    stage.end(servers.into_iter().map(|(_, server)| server))?;

    let schema = fs::read_to_string(stage.folder().join("schema"))?;
    let schema: Vec<&str> = schema.lines().collect();
    say(format_args!("Schema: {}", schema.join("; ")));
    if schema != STEPS {
        return Err("each step should have been applied exactly once, in order".into());
    }
    Ok(())
}
