//! The hourly import: cron starts it on every server, and one server runs it.
//!
//! ```sh
//! cargo run -p dlock-examples --bin hourly-import                     # locks in a temporary folder
//! cargo run -p dlock-examples --bin hourly-import redis://127.0.0.1/  # or memcache://127.0.0.1, file:/some/folder
//! ```
//!
//! 1. Five servers start at the full hour: one imports.
//! 2. The importing server is killed in the middle: another one takes over when the lease has
//!    ended.
//! 3. A server whose clock is slow comes late: it finds the job done and does not import again.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use dlock_core::{AcquireError, Lock, LockGuard, OnceOutcome, Wait};
use dlock_examples::{Cluster, Outcome, Role, exit, report};

const DAY: Duration = Duration::from_secs(86_400);

/// The command that cron starts on each server.
fn import_of(hour: &str, patience: Duration, role: &Role) -> Outcome {
    // If a server crashes, the lock stays taken for at most 6 s. For real use the default of 30 s
    // is better.
    let options = role.options().ttl(Duration::from_secs(6));
    let lock = Lock::with_options(role.store()?, "hourly-import", options)?;
    // The hour names the job. Otherwise a late server would find the lock free and import again.
    let outcome = lock.once_with(&Wait::within(patience), hour, DAY, |guard| {
        import(hour, guard, role)
    });
    match outcome {
        Ok(done) => match done? {
            OnceOutcome::Ran(rows) => report(format_args!("has imported {rows} rows of {hour}")),
            OnceOutcome::RanUnmarked(rows) => report(format_args!(
                "has imported {rows} rows of {hour}, but could not mark the job as done: it may run again"
            )),
            OnceOutcome::AlreadyDone { .. } => report(format_args!("finds {hour} done")),
        },
        Err(AcquireError::Held(held)) => report(format_args!("skips {hour}: {held}")),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The import itself: ten batches, then a line in the log.
fn import(hour: &str, guard: &LockGuard, role: &Role) -> Result<u32, String> {
    report(format_args!("imports {hour}"));
    let mut rows = 0;
    for _batch in 0..10 {
        // Check before each step that must not be done twice. This reads the clock, without I/O.
        if !guard.is_valid() {
            return Err(format!("lost the lock in the middle of {hour}"));
        }
        sleep(Duration::from_millis(600));
        rows += 100;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(role.folder.join("imports"));
    log.and_then(|mut log| writeln!(log, "{hour}"))
        .map_err(|error| format!("{hour}: {error}"))?;
    Ok(rows)
}

fn main() -> ExitCode {
    exit(run_servers())
}

fn run_servers() -> Outcome {
    if let Some(role) = Role::of_this_process() {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let [hour, patience] = &arguments[..] else {
            return Err("a server needs two arguments: the hour and how long to wait".into());
        };
        let patience = dlock_core::duration::parse(patience)?;
        return import_of(hour, patience, &role);
    }

    let cluster = Cluster::from_arguments()?;
    report("Five servers start at 19:00.");
    let servers = ["web-1", "web-2", "web-3", "web-4", "web-5"];
    let started = servers.map(|server| cluster.start(server, &["2026-11-24T19", "0s"]));
    cluster.end(started.into_iter().collect::<Outcome<Vec<_>>>()?)?;

    report(
        "Three servers start at 20:00, and wait if they have to. The one that imports is killed.",
    );
    let mut servers = Vec::new();
    for server in ["web-1", "web-2", "web-3"] {
        let started = cluster.start(server, &["2026-11-24T20", "30s"])?;
        servers.push((server, started));
    }
    let first = cluster.until("imports 2026-11-24T20")?.server;
    let place = servers.iter().position(|(server, _)| *server == first);
    let (_, killed) = servers.swap_remove(place.ok_or("who was that?")?);
    sleep(Duration::from_millis(300));
    killed.kill()?;
    report(format_args!("  {first} is dead."));
    cluster.end(servers.into_iter().map(|(_, server)| server))?;

    report("The clock of web-6 is slow: for it, it is 20:00 only now.");
    cluster.end([cluster.start("web-6", &["2026-11-24T20", "30s"])?])?;

    let imports = fs::read_to_string(cluster.folder().join("imports"))?;
    let imports: Vec<&str> = imports.lines().collect();
    report(format_args!("Imported: {}", imports.join(", ")));
    if imports != ["2026-11-24T19", "2026-11-24T20"] {
        return Err("each hour should have been imported exactly once".into());
    }
    Ok(())
}
