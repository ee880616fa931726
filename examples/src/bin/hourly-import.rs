//! The hourly import: every server's cron starts it, one server does it.
//!
//! ```sh
//! cargo run -p dlock-examples --bin hourly-import                     # locks in a temporary folder
//! cargo run -p dlock-examples --bin hourly-import redis://127.0.0.1/  # or memcache://127.0.0.1, file:/some/folder
//! ```
//!
//! 1. Five servers start at the full hour: one imports.
//! 2. The one that imports is killed in the midst of it: another takes over when the lease has ended.
//! 3. A server whose clock is slow comes when all is done: it finds the job done and does not import again.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use dlock_core::{AcquireError, Lock, LockGuard, Once, Wait};
use dlock_examples::{Outcome, Part, Stage, exit, say};

const DAY: Duration = Duration::from_secs(86_400);

/// What cron starts on each server.
fn import_of(hour: &str, patience: Duration, part: &Part) -> Outcome {
    // A server that crashes bars the others for at most 2 s. The default of 30 s is better where nobody looks on.
    let options = part.options().with_ttl(Duration::from_secs(2));
    let lock = Lock::with_options(part.store()?, "hourly-import", options)?;
    // The hour names the job. Without that, a server that comes late would find the lock free and import once more.
    let outcome = lock.once_with(&Wait::within(patience), hour, DAY, |guard| {
        import(hour, guard, part)
    });
    match outcome {
        Ok(done) => match done? {
            Once::Ran(rows) => say(format_args!("has imported {rows} rows of {hour}")),
            Once::RanUnmarked(rows) => say(format_args!(
                "has imported {rows} rows of {hour}, and could not leave a mark of it: it may be done again"
            )),
            Once::AlreadyDone { .. } => say(format_args!("finds {hour} done")),
        },
        Err(AcquireError::Held(held)) => say(format_args!("skips {hour}: {held}")),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// The import itself: ten batches, then a line in the log.
fn import(hour: &str, guard: &LockGuard, part: &Part) -> Result<u32, String> {
    say(format_args!("imports {hour}"));
    let mut rows = 0;
    for _batch in 0..10 {
        // Before each step that must not be done twice: a look at the clock, no I/O.
        if !guard.is_valid() {
            return Err(format!("lost the lock in the midst of {hour}"));
        }
        sleep(Duration::from_millis(300));
        rows += 100;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(part.folder.join("imports"));
    log.and_then(|mut log| writeln!(log, "{hour}"))
        .map_err(|error| format!("{hour}: {error}"))?;
    Ok(rows)
}

fn main() -> ExitCode {
    exit(play())
}

fn play() -> Outcome {
    if let Some(part) = Part::of_this_process() {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let [hour, patience] = &arguments[..] else {
            return Err("a server is told the hour and how long to wait".into());
        };
        let patience = dlock_core::duration::parse(patience)?;
        return import_of(hour, patience, &part);
    }

    let stage = Stage::from_arguments()?;
    say("Five servers start at 19:00.");
    let servers = ["web-1", "web-2", "web-3", "web-4", "web-5"];
    let started = servers.map(|server| stage.start(server, &["2026-11-24T19", "0s"]));
    stage.end(started.into_iter().collect::<Outcome<Vec<_>>>()?)?;

    say("Three servers start at 20:00, and wait if they have to. The one that imports is killed.");
    let mut servers = Vec::new();
    for server in ["web-1", "web-2", "web-3"] {
        let started = stage.start(server, &["2026-11-24T20", "30s"])?;
        servers.push((server, started));
    }
    let first = stage.until("imports 2026-11-24T20")?.server;
    let place = servers.iter().position(|(server, _)| *server == first);
    let (_, killed) = servers.swap_remove(place.ok_or("who was that?")?);
    sleep(Duration::from_millis(300));
    killed.kill()?;
    say(format_args!("  {first} is dead."));
    stage.end(servers.into_iter().map(|(_, server)| server))?;

    say("The clock of web-6 is slow: for it, it is 20:00 only now.");
    stage.end([stage.start("web-6", &["2026-11-24T20", "30s"])?])?;

    let imports = fs::read_to_string(stage.folder().join("imports"))?;
    let imports: Vec<&str> = imports.lines().collect();
    say(format_args!("Imported: {}", imports.join(", ")));
    if imports != ["2026-11-24T19", "2026-11-24T20"] {
        return Err("each hour should have been imported exactly once".into());
    }
    Ok(())
}
