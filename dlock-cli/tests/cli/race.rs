//! On each store that the command knows: many processes race for one job, and if the holder is
//! killed the next waiter gets the lock.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{
    PATIENCE, await_end_of, code, dlock, ended, kill_child, status_of, stderr, wait_until,
};
use rustix::process::Signal;

/// Two races at once would need more processes than a small machine starts within the time of a
/// call.
static ONE_RACE_AT_A_TIME: Mutex<()> = Mutex::new(());

const PROCESSES: usize = 20;
const ROUNDS: usize = 25;

fn run(store: &str, folder: &Path, arguments: &[&str], script: &str) -> Command {
    let mut command = dlock();
    command
        .args(["run", "--store", store])
        .args(arguments)
        .args(["--", "sh", "-c", script])
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn lines(file: &Path) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

/// Lets all processes race for a job that appends a line. Asserts that it ran once and that all
/// others were refused with 75.
fn one_round(store: &str, folder: &Path, arguments: &[&str]) {
    let _turn = ONE_RACE_AT_A_TIME
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let log = folder.join("log");
    let before = lines(&log);
    let start = || {
        run(store, folder, arguments, "echo ran >>log")
            .spawn()
            .unwrap()
    };
    let racers: Vec<Child> = (0..PROCESSES).map(|_| start()).collect();
    let codes: Vec<i32> = racers
        .into_iter()
        .map(|racer| {
            let mut output = ended(racer);
            // On an overloaded machine a call can run out of time. dlock reports that, and the test
            // tries again.
            while is_starved(&output) {
                output = ended(start());
            }
            let said = stderr(&output);
            assert!(matches!(code(&output), 0 | 75), "{arguments:?}: {said}");
            code(&output)
        })
        .collect();
    let winners = codes.iter().filter(|code| **code == 0).count();
    assert_eq!(
        (winners, lines(&log) - before),
        (1, 1),
        "{arguments:?}: {codes:?}"
    );
}

fn is_starved(output: &Output) -> bool {
    let said = stderr(output);
    code(output) == 69
        && (said.contains("answer in time") || said.contains("reached the store too late"))
}

fn a_job_runs_once_in_each_round(store: &str) {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..ROUNDS {
        let job = round.to_string();
        one_round(store, folder.path(), &["--once", &job, "race-once"]);
    }
    assert_eq!(lines(&folder.path().join("log")), ROUNDS);
}

fn a_job_runs_once_while_it_is_held(store: &str) {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..ROUNDS {
        let name = format!("race-{round}");
        // Longer than any round takes.
        one_round(store, folder.path(), &["--min-hold", "5m", &name]);
    }
    assert_eq!(lines(&folder.path().join("log")), ROUNDS);
}

fn the_next_waiter_gets_the_lock_of_a_killed_holder_when_its_lease_has_ended(store: &str) {
    const LEASE: Duration = Duration::from_secs(6);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let beat = "echo $$ >$0; while :; do echo $0 >>log; sleep 0.02; done";
    // A child, a grandchild, and a second command that must never start.
    let script =
        "sh -c \"$BEAT\" background & sh -c 'sh -c \"$BEAT\" inner; true'; echo second >>log";
    let takeover = ["--ttl", "6s", "takeover"];

    // The grant comes after this, so the lease cannot end earlier than `LEASE` from here.
    let start = Instant::now();
    let mut holder = run(store, folder.path(), &takeover, script)
        .env("BEAT", beat)
        .spawn()
        .unwrap();
    let pid = |name: &str| -> i32 {
        wait_until(name, || {
            fs::read_to_string(path(name)).ok()?.trim().parse().ok()
        })
    };
    let commands = [pid("background"), pid("inner")];
    kill_child(&holder, Signal::KILL);
    status_of(&mut holder);
    let killed = Instant::now();

    let waiting = ["--wait", "30s", "takeover"];
    let next = run(store, folder.path(), &waiting, "echo next >>log")
        .spawn()
        .unwrap();
    for command in commands {
        await_end_of(command);
    }
    let output = ended(next);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(start.elapsed() >= LEASE, "not before the lease ended");
    assert!(
        killed.elapsed() < LEASE + PATIENCE,
        "by itself, soon after it"
    );

    // By now the command of the killed holder has done all that it will do.
    sleep(Duration::from_millis(200));
    let log = fs::read_to_string(path("log")).unwrap();
    assert!(
        log.ends_with("\nnext\n"),
        "…{}",
        &log[log.len().saturating_sub(60)..]
    );
    assert!(!log.contains("second"));
}

/// The three tests, each on a new store.
macro_rules! races {
    ($store:ident, $open:expr) => {
        mod $store {
            #[test]
            fn a_job_runs_once_in_each_round() {
                let (_keep, url) = $open;
                super::a_job_runs_once_in_each_round(&url);
            }

            #[test]
            fn a_job_runs_once_while_it_is_held() {
                let (_keep, url) = $open;
                super::a_job_runs_once_while_it_is_held(&url);
            }

            #[test]
            fn the_next_waiter_gets_the_lock_of_a_killed_holder_when_its_lease_has_ended() {
                let (_keep, url) = $open;
                super::the_next_waiter_gets_the_lock_of_a_killed_holder_when_its_lease_has_ended(
                    &url,
                );
            }
        }
    };
}

races!(file, {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file:{}", folder.path().join("locks").display());
    (folder, url)
});

#[cfg(feature = "redis")]
races!(redis, {
    let server = dlock_test_servers::RedisServer::start();
    let url = server.url();
    (server, url)
});

#[cfg(feature = "redis")]
races!(redis_unix_socket, {
    let server = dlock_test_servers::RedisServer::start();
    let url = server.unix_url();
    (server, url)
});

#[cfg(feature = "etcd")]
races!(etcd, {
    let server = dlock_test_servers::EtcdServer::start();
    let url = server.url();
    (server, url)
});

#[cfg(feature = "memcache")]
races!(memcache, {
    let server = dlock_test_servers::MemcachedServer::start();
    let url = server.url();
    // A server that has just started grants nothing for two seconds, so wait for longer.
    let mut first = super::dlock();
    first.args([
        "run", "--store", &url, "--wait", "30s", "first", "--", "true",
    ]);
    assert!(super::status_of(&mut first.spawn().unwrap()).success());
    (server, url)
});

#[cfg(feature = "postgres")]
races!(postgres, {
    let server = dlock_test_servers::PostgresServer::start();
    server.sql(dlock_postgres::MIGRATION);
    let url = server.url();
    (server, url)
});
