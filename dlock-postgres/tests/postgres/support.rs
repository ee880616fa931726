//! What the tests share.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{AcquireOutcome, Claim, Clock, Datastore, DatastoreError, Grant, HeldBy, Lease};
use dlock_postgres::{ConnectionManager, PostgresDatastore};
use dlock_test_servers::{PostgresServer, PostgresSession};

pub(crate) const TTL: Duration = Duration::from_secs(30);
/// Long enough for a machine with more work than cores.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// The server of all tests that do not disturb it, with the schema.
pub(crate) fn server() -> &'static PostgresServer {
    static SERVER: OnceLock<PostgresServer> = OnceLock::new();
    SERVER.get_or_init(|| with_schema(PostgresServer::start()))
}

/// A server of its own for a test, with the schema.
pub(crate) fn with_schema(server: PostgresServer) -> PostgresServer {
    let manager = ConnectionManager::new(&server.socket_url()).unwrap();
    let manager = manager.with_connect_timeout(LONG);
    manager.migrate(LONG).unwrap();
    server
}

/// A store that gives a busy machine time: what ends early does so by the claim's own deadline.
pub(crate) fn patient(url: &str) -> PostgresDatastore {
    PostgresDatastore::builder(url)
        .unwrap()
        .call_timeout(LONG)
        .connect_timeout(LONG)
        .build()
}

pub(crate) fn claim(key: &str) -> Claim {
    claim_within(key, LONG)
}

pub(crate) fn claim_within(key: &str, time: Duration) -> Claim {
    Claim::new(key, &Clock::BOOTTIME, time).unwrap()
}

#[track_caller]
pub(crate) fn granted(attempt: Result<AcquireOutcome, DatastoreError>) -> Grant {
    match attempt {
        Ok(AcquireOutcome::Granted(grant)) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn refused(attempt: Result<AcquireOutcome, DatastoreError>) -> HeldBy {
    match attempt {
        Ok(AcquireOutcome::Held(held)) => held,
        other => panic!("not refused: {other:?}"),
    }
}

/// Acquires for [`TTL`].
#[track_caller]
pub(crate) fn acquired(store: &PostgresDatastore, key: &str) -> Lease {
    acquired_for(store, key, TTL)
}

#[track_caller]
pub(crate) fn acquired_for(store: &PostgresDatastore, key: &str, ttl: Duration) -> Lease {
    let claim = claim(key);
    let grant = granted(store.acquire(&claim, ttl));
    Lease::new(claim, grant)
}

/// The lease for a call that has a long time.
pub(crate) fn call(lease: &Lease, sequence: u64) -> Lease {
    lease.for_call(sequence, Clock::BOOTTIME.now().saturating_add(LONG))
}

/// Releases; whether it was ours.
pub(crate) fn released(store: &PostgresDatastore, lease: &Lease) -> bool {
    store.release(&call(lease, 1)).unwrap() == dlock_core::ReleaseOutcome::Released
}

pub(crate) fn fence_of(lease: &Lease) -> u64 {
    lease.fence().unwrap().get()
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The row of a key, locked by another transaction that changes nothing, until this is dropped.
pub(crate) struct RowLock(Option<PostgresSession>);

impl RowLock {
    pub(crate) fn on(server: &PostgresServer, key: &str) -> Self {
        let mut session = server.session();
        session.run(&format!(
            "BEGIN; SELECT 1 FROM dlock.locks WHERE key = '{key}' FOR UPDATE"
        ));
        RowLock(Some(session))
    }
}

impl Drop for RowLock {
    /// Returns when the row is free.
    fn drop(&mut self) {
        if let Some(mut session) = self.0.take() {
            session.run("ROLLBACK");
        }
    }
}
