//! Calls on a shard that another process has locked: they wait until their deadline, name that
//! process, and do nothing late.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{AllShards, CALL, Scratch, acquire, claim, held};
use dlock_core::{Claim, Clock, Datastore, DatastoreError, ErrorKind, Extension, Lease};
use dlock_file::FileError;

const TTL: Duration = Duration::from_secs(30);

fn short_claim(key: &str, call: Duration) -> Claim {
    Claim::new(key, &Clock::BOOTTIME, call).unwrap()
}

fn busy(error: &DatastoreError) -> Option<u32> {
    let source = std::error::Error::source(error).unwrap();
    match source.downcast_ref() {
        Some(FileError::Busy { pid, .. }) => *pid,
        _ => panic!("{source}"),
    }
}

#[test]
fn a_call_ends_at_its_deadline_and_names_the_process_that_blocks_it() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    let before = scratch.record("x");
    let shards = AllShards::lock(&scratch.path());
    // Each call has time of its own, and more than a busy machine keeps a process from running: one
    // that comes after its end has met nobody.
    let call = Duration::from_secs(3);
    let end = || Clock::BOOTTIME.now().saturating_add(call);
    let start = Instant::now();
    let errors = [
        store.acquire(&short_claim("x", call), TTL).unwrap_err(),
        store.extend(&ours.for_call(1, end()), TTL).unwrap_err(),
        store.release(&ours.for_call(2, end())).unwrap_err(),
    ];
    assert!(start.elapsed() >= call * 3 && start.elapsed() < Duration::from_secs(20));
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed());
        assert_eq!(busy(&error), Some(std::process::id()));
    }
    drop(shards);
    assert_eq!(scratch.record("x"), before);
}

#[test]
fn a_call_waits_no_longer_than_the_store_allows() {
    let scratch = Scratch::new();
    drop(scratch.open());
    let store = dlock_file::FileDatastore::builder(scratch.path())
        .call_timeout(Duration::from_millis(50))
        .open()
        .unwrap();
    assert_eq!(
        store.characteristics().call_timeout,
        Duration::from_millis(50)
    );
    let _shards = AllShards::lock(&scratch.path());
    let start = Instant::now();
    let error = store
        .acquire(&short_claim("x", Duration::from_secs(3600)), TTL)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn another_process_that_blocks_a_call_is_named() {
    let scratch = Scratch::new();
    let store = scratch.open();
    acquire(&store, "x", TTL);
    let mut sitter = sit_in_every_shard(&scratch);
    let error = store
        .acquire(&short_claim("x", Duration::from_millis(50)), TTL)
        .unwrap_err();
    let named = (busy(&error), sitter.id());
    sitter.kill().unwrap();
    sitter.wait().unwrap();
    assert_eq!(named.0, Some(named.1));
    let text = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        text.contains(&format!("process {}", named.1)) && text.contains("continue or end it"),
        "{text}"
    );
    // When the process ends, so do its locks.
    held(store.acquire(&claim("x"), TTL));
}

/// Starts another process that locks every shard and keeps the locks.
fn sit_in_every_shard(scratch: &Scratch) -> Child {
    let mut sitter = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "waiting::sitter", "--ignored", "--nocapture"])
        .env("DLOCK_TEST_FOLDER", scratch.place())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(sitter.stdout.take().unwrap());
    let ready = std::io::BufRead::lines(output).any(|line| line.unwrap().contains("sitting"));
    assert!(ready);
    sitter
}

/// Not a test by itself.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn sitter() {
    let folder = std::env::var_os("DLOCK_TEST_FOLDER").expect("run by another test");
    let _shards = AllShards::lock(&Scratch::at(folder.into()).path());
    writeln!(std::io::stdout(), "sitting").unwrap();
    loop {
        thread::park();
    }
}

#[test]
fn a_call_that_gets_the_shard_after_its_end_does_nothing() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ours = acquire(&store, "x", TTL);
    let before = scratch.record("x");
    // The shard is free, but the call's `not_after` has passed.
    let error = store
        .acquire(&short_claim("new", Duration::ZERO), TTL)
        .unwrap_err();
    let over = Clock::BOOTTIME.now();
    let errors = [
        error,
        store.extend(&ours.for_call(1, over), TTL).unwrap_err(),
        store.release(&ours.for_call(2, over)).unwrap_err(),
        store
            .abandon(&ours.claim().clone().with_not_after(over))
            .unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Stale);
        assert!(!error.may_have_executed());
    }
    assert_eq!(scratch.record("x"), before);
    assert_eq!(scratch.files(".lease"), 1);
}

#[test]
fn an_extend_that_waits_past_the_end_of_its_lease_does_not_revive_it() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ttl = Duration::from_millis(100);
    let ours = acquire(&store, "x", ttl);
    let shards = AllShards::lock(&scratch.path());
    let (sent, received) = mpsc::channel();
    let extending = store.clone();
    let call = ours.for_call(1, Clock::BOOTTIME.now().saturating_add(CALL));
    thread::spawn(move || sent.send(extending.extend(&call, TTL)));
    thread::sleep(ttl + Duration::from_millis(20));
    drop(shards);
    let extension = received.recv().unwrap().unwrap();
    assert!(matches!(extension, Extension::Lost), "{extension:?}");
    acquire(&store, "x", TTL);
}

#[test]
fn a_lease_counts_from_its_grant_even_if_the_claim_had_to_wait() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let ttl = Duration::from_secs(5);
    let shards = AllShards::lock(&scratch.path());
    let waiting = thread::spawn({
        let store = store.clone();
        move || acquire(&store, "x", ttl)
    });
    thread::sleep(Duration::from_millis(300));
    let released = Clock::BOOTTIME.now();
    drop(shards);
    let ours: Lease = waiting.join().unwrap();
    let left = held(store.acquire(&claim("x"), TTL)).expires_in().unwrap();
    let end = Clock::BOOTTIME.now().saturating_add(left);
    assert!(end >= released.saturating_add(ttl), "{:?}", ours.grant());
}

#[test]
fn a_blocked_shard_does_not_block_the_others() {
    let scratch = Scratch::new();
    let store = scratch.open();
    acquire(&store, "x", TTL);
    let shards = AllShards::lock(&scratch.path());
    let mut shards = shards.0;
    shards.truncate(1);
    let outcomes = (0..200).map(|n| {
        let claim = short_claim(&format!("key-{n}"), Duration::from_millis(250));
        store.acquire(&claim, TTL).is_ok()
    });
    let granted = outcomes.filter(|granted| *granted).count();
    // Two hundred keys over 64 shards: about three of them are blocked.
    assert!((150..200).contains(&granted), "{granted}");
}
