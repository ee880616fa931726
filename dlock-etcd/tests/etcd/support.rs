//! Servers, claims on them, and what a foreign client sees and does there.

#![allow(
    clippy::needless_pass_by_value,
    reason = "an answer is checked where it is given"
)]

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dlock_core::{
    AcquireOutcome, Claim, Clock, Datastore, DatastoreError, Extension, FencingToken, Grant,
    HeldBy, Lease, ReleaseOutcome,
};
use dlock_etcd::EtcdDatastore;
use dlock_test_servers::EtcdServer;
use serde_json::{Value, json};

/// The most that one call takes, unless a test says otherwise.
pub(crate) const CALL: Duration = Duration::from_secs(10);
/// A lease of this length does not end during a test.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// The server of all tests that do not disturb it.
pub(crate) fn server() -> &'static EtcdServer {
    static SERVER: OnceLock<EtcdServer> = OnceLock::new();
    SERVER.get_or_init(EtcdServer::start)
}

pub(crate) fn store(server: &EtcdServer) -> EtcdDatastore {
    store_at(&server.url())
}

pub(crate) fn store_at(url: &str) -> EtcdDatastore {
    let store = EtcdDatastore::builder(url).unwrap();
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
    let end = Clock::BOOTTIME.now().saturating_add(CALL);
    claim.clone().with_not_after(end)
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

pub(crate) fn fence(grant: &Grant) -> FencingToken {
    grant.fence.unwrap()
}

/// Claims the key and returns the lease, ready for its first call.
pub(crate) fn take(store: &EtcdDatastore, key: &str, ttl: Duration) -> Lease {
    let claim = claim(key);
    let grant = granted(store.acquire(&claim, ttl));
    call(&Lease::new(claim, grant), 1)
}

/// The lease for its call numbered `sequence`.
pub(crate) fn call(lease: &Lease, sequence: u64) -> Lease {
    lease.for_call(sequence, Clock::BOOTTIME.now().saturating_add(CALL))
}

/// Tries `attempt` until it gives something, for up to a minute.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "not: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Asks the server's gateway as a foreign client.
pub(crate) fn ask(server: &EtcdServer, path: &str, body: &Value) -> Value {
    let answer = server.post(path, &body.to_string());
    serde_json::from_str(&answer).unwrap()
}

pub(crate) fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

/// Writes something that dlock never does.
pub(crate) fn put_foreign(server: &EtcdServer, key: &str) {
    let body = json!({"key": base64(key), "value": base64("not a lock")});
    ask(server, "/v3/kv/put", &body);
}

/// The key as a foreign client reads it; `None` if there is none.
pub(crate) fn read(server: &EtcdServer, key: &str) -> Option<Value> {
    let answer = ask(server, "/v3/kv/range", &json!({"key": base64(key)}));
    answer["kvs"].as_array().map(|keys| keys[0].clone())
}

/// The places of the waiters of a key, in their order, as a foreign client reads them.
pub(crate) fn places(server: &EtcdServer, key: &str) -> Vec<Value> {
    let range = json!({
        "key": base64(&format!("{key} ")), "range_end": base64(&format!("{key}!")),
    });
    let answer = ask(server, "/v3/kv/range", &range);
    answer["kvs"].as_array().cloned().unwrap_or_default()
}

/// The numbers of all leases.
pub(crate) fn leases(server: &EtcdServer) -> Vec<String> {
    let answer = ask(server, "/v3/lease/leases", &json!({}));
    let leases = answer["leases"].as_array().cloned().unwrap_or_default();
    let number = |lease: &Value| lease["ID"].as_str().unwrap().to_owned();
    leases.iter().map(number).collect()
}
