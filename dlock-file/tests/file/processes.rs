//! Many processes, killed processes, forked processes.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Scratch, acquire, claim, forking, held};
use dlock_core::{
    AcquireOutcome, Claim, Datastore, ErrorKind, Extension, FencingToken, Lease, ReleaseOutcome,
};
use dlock_file::FileDatastore;

const TTL: Duration = Duration::from_secs(30);
const CYCLES: u64 = 150;
const PROCESSES: u64 = 8;

/// Another process of this binary that runs one of the `#[ignore]`d tests.
fn spawn(test: &str, scratch: &Scratch) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("DLOCK_TEST_PLACE", scratch.place())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// In such a process: the folder that it was given.
fn given_folder() -> Scratch {
    Scratch::at(
        env::var_os("DLOCK_TEST_PLACE")
            .expect("run by another test")
            .into(),
    )
}

fn counter(scratch: &Scratch) -> PathBuf {
    scratch.place().join("counter")
}

fn number_in(file: &Path) -> u64 {
    fs::read_to_string(file).map_or(0, |text| text.trim().parse().unwrap())
}

/// Claims until it is granted.
fn acquire_in_time(store: &FileDatastore, key: &str, ttl: Duration, time: Duration) -> Lease {
    let start = Instant::now();
    loop {
        let wish = claim(key);
        match store.acquire(&wish, ttl) {
            Ok(AcquireOutcome::Granted(grant)) => return Lease::new(wish, grant),
            Ok(AcquireOutcome::Held(held)) => assert!(start.elapsed() < time, "{held}"),
            Err(error) => assert!(error.kind() == ErrorKind::Timeout, "{error:?}"),
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// Not a test by itself: counts in a file that only the lock protects.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn counting() {
    let scratch = given_folder();
    let store = scratch.open();
    let counter = counter(&scratch);
    let fence_file = counter.with_extension("fence");
    for _ in 0..CYCLES {
        let ours = acquire_in_time(&store, "x", TTL, Duration::from_secs(120));
        let fence = ours.fence().map(FencingToken::get).unwrap();
        assert!(fence > number_in(&fence_file), "tokens rise in grant order");
        let count = number_in(&counter);
        fs::write(&fence_file, fence.to_string()).unwrap();
        fs::write(&counter, (count + 1).to_string()).unwrap();
        assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
    }
}

#[test]
fn processes_exclude_each_other() {
    let scratch = Scratch::new();
    let children: Vec<_> = (0..PROCESSES)
        .map(|_| spawn("processes::counting", &scratch))
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    assert_eq!(number_in(&counter(&scratch)), PROCESSES * CYCLES);
}

const KEYS: [&str; 3] = ["a", "b", "c"];
const SHORT: Duration = Duration::from_millis(50);

/// Not a test by itself: acquires, extends and releases for ever, and prints each token that it was
/// granted.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn busy() {
    let store = given_folder().open();
    let mut stdout = std::io::stdout();
    loop {
        for (number, key) in KEYS.into_iter().enumerate() {
            let ours = acquire_in_time(&store, key, SHORT, TTL);
            let fence = ours.fence().unwrap();
            stdout
                .write_all(format!("{number} {fence}\n").as_bytes())
                .unwrap();
            let extended = store.extend(&ours.for_call(1, ours.not_after()), SHORT * 2);
            if let Extension::Extended(_) = extended.unwrap() {
                let _released = store.release(&ours).unwrap();
            }
        }
    }
}

#[test]
fn a_process_killed_at_any_moment_leaves_the_folder_usable() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let mut highest = [0; KEYS.len()];
    let mut grants = 0;
    let rounds = 40;
    for round in 0..rounds {
        let mut victim = spawn("processes::busy", &scratch);
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        // Wait until it works, then kill it at a different moment each time.
        let first = lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| grant_in(&line));
        thread::sleep(Duration::from_micros(137 * round));
        victim.kill().unwrap();
        victim.wait().unwrap();
        let rest = lines
            .map_while(Result::ok)
            .filter_map(|line| grant_in(&line));
        for (key, fence) in first.into_iter().chain(rest) {
            assert!(fence > highest[key], "tokens rise in grant order");
            highest[key] = fence;
            grants += 1;
        }
        for (number, key) in KEYS.into_iter().enumerate() {
            // The victim's lease lasts at most as long as its last extend.
            let ours = acquire_in_time(&store, key, TTL, SHORT * 2 + Duration::from_secs(5));
            let fence = ours.fence().unwrap().get();
            assert!(fence > highest[number]);
            highest[number] = fence;
            assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
        }
    }
    assert!(grants >= rounds, "{grants}");
    assert_eq!(scratch.files(".lease"), KEYS.len());
    assert!(
        scratch.files(".spare") <= KEYS.len(),
        "at most one for each shard"
    );
}

/// Parses `0 1795476271000000`: the key's number and its token.
fn grant_in(line: &str) -> Option<(usize, u64)> {
    let (key, fence) = line.split_once(' ')?;
    Some((key.parse().ok()?, fence.parse().ok()?))
}

#[test]
fn a_forked_child_uses_the_inherited_store() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "parents", TTL);
    let (inherited, childs): (_, Claim) = (store.clone(), claim("childs"));
    let refused = claim("parents");
    let mut child = forking(move || {
        let refused = matches!(
            inherited.acquire(&refused, TTL),
            Ok(AcquireOutcome::Held(_))
        );
        let granted = matches!(
            inherited.acquire(&childs, TTL),
            Ok(AcquireOutcome::Granted(_))
        );
        if refused && granted {
            return Ok(());
        }
        Err(std::io::ErrorKind::Other.into())
    });
    assert!(child.status().unwrap().success());
    held(store.acquire(&claim("childs"), TTL));
    assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
}

#[test]
fn a_child_forked_in_the_middle_of_a_call_does_not_keep_the_shard_locked() {
    let scratch = Scratch::new();
    // With the usual time for a call.
    let store = FileDatastore::open(scratch.path()).unwrap();
    let forkers: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(|| {
                // Each child keeps copies of all open files for longer than a call may take.
                let mut child = forking(|| {
                    thread::sleep(Duration::from_millis(2500));
                    Ok(())
                });
                assert!(child.status().unwrap().success());
            })
        })
        .collect();
    let mut cycles = 0;
    while !forkers.iter().all(thread::JoinHandle::is_finished) {
        let ours = acquire(&store, "x", TTL);
        assert_eq!(store.release(&ours).unwrap(), ReleaseOutcome::Released);
        cycles += 1;
    }
    for forker in forkers {
        forker.join().unwrap();
    }
    assert!(cycles > 100, "{cycles}");
}
