//! Servers that have been up long enough to grant, and claims on them.

#![allow(
    clippy::needless_pass_by_value,
    reason = "an answer is checked where it is given"
)]

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{
    AcquireOutcome, Claim, Clock, Datastore, DatastoreError, Extension, FencingToken, Grant,
    HeldBy, Lease, ReleaseOutcome,
};
use dlock_memcache::MemcacheDatastore;
use dlock_test_servers::MemcachedServer;

/// The most that one call takes, unless a test says otherwise.
pub(crate) const CALL: Duration = Duration::from_secs(10);
/// A lease of this length does not end during a test.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// The server of all tests that do not disturb it.
pub(crate) fn server() -> &'static MemcachedServer {
    static SERVER: OnceLock<MemcachedServer> = OnceLock::new();
    SERVER.get_or_init(|| may_grant(MemcachedServer::start()))
}

/// Waits until the server has been up long enough to grant.
pub(crate) fn may_grant(server: MemcachedServer) -> MemcachedServer {
    wait_until_grown_up(&server);
    server
}

pub(crate) fn wait_until_grown_up(server: &MemcachedServer) {
    while server.stats()["uptime"].parse::<u64>().unwrap() < 4 {
        thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn store(server: &MemcachedServer) -> MemcacheDatastore {
    store_at(&server.url())
}

pub(crate) fn store_at(url: &str) -> MemcacheDatastore {
    let store = MemcacheDatastore::builder(url).unwrap();
    // A busy machine opens connections slowly.
    store.call_timeout(CALL).connect_timeout(CALL).build()
}

/// A key that no other test uses.
pub(crate) fn key(name: &str) -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("dlock:{name}-{random:016x}")
}

pub(crate) fn claim(key: &str) -> Claim {
    claim_within(key, CALL)
}

pub(crate) fn claim_within(key: &str, call: Duration) -> Claim {
    Claim::new(key, &Clock::BOOTTIME, call).unwrap()
}

/// The same claim for another call.
pub(crate) fn again(claim: &Claim) -> Claim {
    claim
        .clone()
        .with_not_after(Clock::BOOTTIME.now().saturating_add(CALL))
}

pub(crate) fn granted(attempt: Result<AcquireOutcome, DatastoreError>) -> Grant {
    match attempt {
        Ok(AcquireOutcome::Granted(grant)) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

pub(crate) fn held(attempt: Result<AcquireOutcome, DatastoreError>) -> HeldBy {
    match attempt {
        Ok(AcquireOutcome::Held(held)) => held,
        other => panic!("not held: {other:?}"),
    }
}

pub(crate) fn extended(extension: Result<Extension, DatastoreError>) -> Grant {
    match extension {
        Ok(Extension::Extended(grant)) => grant,
        other => panic!("not extended: {other:?}"),
    }
}

pub(crate) fn lost(extension: Result<Extension, DatastoreError>) {
    assert!(matches!(extension, Ok(Extension::Lost)), "{extension:?}");
}

pub(crate) fn ours(released: Result<ReleaseOutcome, DatastoreError>) {
    assert!(
        matches!(released, Ok(ReleaseOutcome::Released)),
        "{released:?}"
    );
}

pub(crate) fn not_ours(released: Result<ReleaseOutcome, DatastoreError>) {
    assert!(
        matches!(released, Ok(ReleaseOutcome::NotHeld)),
        "{released:?}"
    );
}

pub(crate) fn fence(grant: &Grant) -> FencingToken {
    grant.fence.unwrap()
}

/// Claims the key and returns the lease, ready for its first call.
pub(crate) fn take(store: &MemcacheDatastore, key: &str, ttl: Duration) -> Lease {
    let claim = claim(key);
    let grant = granted(store.acquire(&claim, ttl));
    call(&Lease::new(claim, grant), 1)
}

/// The lease for its call numbered `sequence`.
pub(crate) fn call(lease: &Lease, sequence: u64) -> Lease {
    lease.for_call(sequence, Clock::BOOTTIME.now().saturating_add(CALL))
}

pub(crate) fn timed<T>(f: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = f();
    (start.elapsed(), value)
}

/// The text of an error and of all its causes.
pub(crate) fn text(error: &DatastoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Acquires a lock as a foreign client does, with a plain `add`. Returns the server's answer.
pub(crate) fn foreign_add(
    server: &MemcachedServer,
    key: &str,
    value: &str,
    seconds: u32,
) -> String {
    server.command(&format!("add {key} 0 {seconds} {}\r\n{value}", value.len()))
}

/// The value of the key, as a foreign client reads it.
pub(crate) fn value(server: &MemcachedServer, key: &str) -> Option<String> {
    use std::io::{BufRead, BufReader, Write};
    let mut stream = BufReader::new(std::net::TcpStream::connect(server.address()).unwrap());
    let request = format!("get {key}\r\n");
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let mut lines = stream.lines().map(Result::unwrap);
    match lines.next().unwrap().as_str() {
        "END" => None,
        _ => lines.next(),
    }
}
