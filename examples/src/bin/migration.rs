//! A migration: all servers of a new release start at once. One migrates the schema; the others
//! wait for it and then serve.
//!
//! ```sh
//! cargo run -p dlock-examples --bin migration                     # locks in a temporary folder
//! cargo run -p dlock-examples --bin migration redis://127.0.0.1/  # or memcache://127.0.0.1, file:/some/folder
//! ```
//!
//! The first server to migrate is killed after its first step. Another one continues from there.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use dlock_core::{Lock, LockGuard};
use dlock_examples::{Cluster, Outcome, Role, exit, report};

/// The steps from an empty database to the schema of this release.
const STEPS: [&str; 4] = [
    "create table orders",
    "add column orders.paid",
    "fill orders.paid",
    "create index on orders.paid",
];

/// Each server does this before it serves.
fn start(role: &Role) -> Outcome {
    // If the migrating server is killed, another one continues 5 s later.
    let options = role.options().ttl(Duration::from_secs(5));
    let lock = Lock::with_options(role.store()?, "migration", options)?;
    // The lease is renewed in the background, so a step may take longer than 5 s. A server that has
    // waited finds nothing to do.
    lock.locked_within(Duration::from_secs(60), |guard| migrate(guard, role))??;
    if applied(role) < STEPS.len() {
        return Err("it would serve with the schema of an older release".into());
    }
    report("serves");
    Ok(())
}

/// The number of steps that have been applied.
fn applied(role: &Role) -> usize {
    let schema = fs::read_to_string(role.folder.join("schema")).unwrap_or_default();
    schema.lines().count()
}

/// Applies the steps that are missing.
fn migrate(guard: &LockGuard, role: &Role) -> Outcome {
    let schema = role.folder.join("schema");
    let applied = applied(role);
    if applied == STEPS.len() {
        report("finds the schema up to date");
        return Ok(());
    }
    for step in &STEPS[applied..] {
        // The lease may end between this check and the step. Only a database that checks the
        // fencing token protects against that: see `guarded-resource`.
        if !guard.is_valid() {
            return Err("lost the lock, and leaves the rest to the next".into());
        }
        sleep(Duration::from_secs(2));
        // A database would apply the step and store its number in one transaction.
        let mut file = OpenOptions::new().create(true).append(true).open(&schema)?;
        writeln!(file, "{step}")?;
        report(format_args!("migrates: {step}"));
    }
    Ok(())
}

fn main() -> ExitCode {
    exit(run_servers())
}

fn run_servers() -> Outcome {
    if let Some(role) = Role::of_this_process() {
        return start(&role);
    }

    let cluster = Cluster::from_arguments()?;
    report("Four servers of a new release start.");
    let mut servers = Vec::new();
    for server in ["app-1", "app-2", "app-3", "app-4"] {
        servers.push((server, cluster.start(server, &[])?));
    }
    let first = cluster.until("migrates: create table")?.server;
    let place = servers.iter().position(|(server, _)| *server == first);
    let (_, killed) = servers.swap_remove(place.ok_or("who was that?")?);
    killed.kill()?;
    report(format_args!("  {first} is dead."));
    cluster.end(servers.into_iter().map(|(_, server)| server))?;

    let schema = fs::read_to_string(cluster.folder().join("schema"))?;
    let schema: Vec<&str> = schema.lines().collect();
    report(format_args!("Schema: {}", schema.join("; ")));
    if schema != STEPS {
        return Err("each step should have been applied exactly once, in order".into());
    }
    Ok(())
}
