//! What the tests share.

use std::error::Error;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{
    AcquireOutcome, Claim, Clock, Datastore, DatastoreError, Extension, Grant, HeldBy, Lease,
};
use dlock_redis::RedisDatastore;
use dlock_test_servers::RedisServer;
use dlock_test_servers::faults::Proxy;

pub(crate) const KEY: &str = "dlock:import";
pub(crate) const FENCE: &str = "{dlock:import}:fence";
pub(crate) const QUEUE: &str = "{dlock:import}:queue";
pub(crate) const HEARTBEATS: &str = "{dlock:import}:heartbeats";
pub(crate) const TTL: Duration = Duration::from_secs(30);
/// Long enough for a machine with more work than cores.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) fn store(server: &RedisServer) -> RedisDatastore {
    patient(&server.url())
}

pub(crate) fn store_behind(proxy: &Proxy) -> RedisDatastore {
    patient(&format!("redis://{}/", proxy.address()))
}

/// A store that gives a busy machine time: what ends early does so by the claim's own deadline.
pub(crate) fn patient(url: &str) -> RedisDatastore {
    RedisDatastore::builder(url)
        .unwrap()
        .call_timeout(LONG)
        .connect_timeout(LONG)
        .build()
}

/// A server, a proxy before it and a store behind that, whose one connection is open and whose
/// server knows the scripts.
pub(crate) fn warm_behind_proxy() -> (RedisServer, Proxy, RedisDatastore) {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.address());
    let store = store_behind(&proxy);
    warm(&store);
    (server, proxy, store)
}

pub(crate) fn warm(store: &RedisDatastore) {
    let lease = acquired(store, &claim("dlock:warm"));
    assert!(extend(store, &lease, 1, TTL).is_some());
    assert!(released(store, &lease));
}

pub(crate) fn claim(key: &str) -> Claim {
    claim_within(key, LONG)
}

pub(crate) fn claim_within(key: &str, time: Duration) -> Claim {
    Claim::new(key, &Clock::BOOTTIME, time).unwrap()
}

pub(crate) fn granted(attempt: Result<AcquireOutcome, DatastoreError>) -> Grant {
    match attempt {
        Ok(AcquireOutcome::Granted(grant)) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

pub(crate) fn refused(attempt: Result<AcquireOutcome, DatastoreError>) -> HeldBy {
    match attempt {
        Ok(AcquireOutcome::Held(held)) => held,
        other => panic!("not refused: {other:?}"),
    }
}

/// Acquires for [`TTL`].
pub(crate) fn acquired(store: &RedisDatastore, claim: &Claim) -> Lease {
    Lease::new(claim.clone(), granted(store.acquire(claim, TTL)))
}

/// Extends; the granted time, `None` if lost.
pub(crate) fn extend(
    store: &RedisDatastore,
    lease: &Lease,
    sequence: u64,
    ttl: Duration,
) -> Option<Duration> {
    let lease = call(lease, sequence);
    match store.extend(&lease, ttl).unwrap() {
        Extension::Extended(grant) => Some(grant.ttl),
        Extension::Lost => None,
    }
}

/// The lease for a call that has a long time.
pub(crate) fn call(lease: &Lease, sequence: u64) -> Lease {
    lease.for_call(sequence, Clock::BOOTTIME.now().saturating_add(LONG))
}

/// Releases; whether it was ours.
pub(crate) fn released(store: &RedisDatastore, lease: &Lease) -> bool {
    store.release(&call(lease, 1)).unwrap() == dlock_core::ReleaseOutcome::Released
}

pub(crate) fn fence_of(lease: &Lease) -> u64 {
    lease.fence().unwrap().get()
}

/// Everything that somebody could read in an error.
pub(crate) fn whole_text(error: &DatastoreError) -> String {
    let mut text = format!("{error:?}");
    let mut next: Option<&dyn Error> = Some(error);
    while let Some(error) = next {
        text.push_str(&format!("\n{error}\n{error:?}"));
        next = error.source();
    }
    text
}

/// Waits until `condition` holds, since a server that was stopped answers new clients while it
/// still works off the old.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn evalshas(server: &RedisServer) -> u64 {
    server.calls().get("evalsha").copied().unwrap_or(0)
}

/// Listens at another address and passes all bytes on to `server`.
pub(crate) fn forwarded(at: &str, server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(at).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(server) else {
                return;
            };
            pass_on(client.try_clone().unwrap(), server.try_clone().unwrap());
            pass_on(server, client);
        }
    });
    address
}

/// Until the sender has closed its side.
fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}
