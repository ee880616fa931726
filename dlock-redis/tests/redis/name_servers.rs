//! Name servers that stop answering hold up no call beyond its deadline, and cost no lock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{Datastore, ErrorKind, Lock};
use dlock_redis::{RedisDatastore, Resolver};
use dlock_test_servers::RedisServer;
use dlock_test_servers::faults::Proxy;

use crate::support::*;

/// Long enough for a busy machine to ask for the address.
const SOON: Duration = Duration::from_secs(4);
const AT_ONCE: Duration = Duration::from_millis(500);

/// A resolver that knows one address, and hangs while `hangs` is set.
fn resolver(address: SocketAddr, hangs: &Arc<AtomicBool>) -> Resolver {
    let hangs = Arc::clone(hangs);
    Resolver::new(move |_| {
        while hangs.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(vec![address])
    })
}

/// A store that knows its server by name only.
fn named(address: SocketAddr, hangs: &Arc<AtomicBool>) -> RedisDatastore {
    RedisDatastore::builder(&format!("redis://db.test:{}", address.port()))
        .unwrap()
        .call_timeout(LONG)
        .connect_timeout(Duration::from_secs(4))
        .resolver(resolver(address, hangs))
        .build()
}

#[test]
fn a_call_ends_by_its_deadline_while_no_name_server_answers() {
    let server = RedisServer::start();
    let hangs = Arc::new(AtomicBool::new(true));
    let store = named(server.address(), &hangs);
    let start = Instant::now();
    let error = store.acquire(&claim_within(KEY, SOON), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
    assert!(
        whole_text(&error).contains("not resolved in time"),
        "{error:?}"
    );
    store.abandon(&claim_within(KEY, AT_ONCE)).unwrap_err();
    let lock = Lock::new(store.clone(), "import");
    lock.acquire_within(AT_ONCE).unwrap_err();
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
    hangs.store(false, Ordering::SeqCst);
    assert!(released(&store, &acquired(&store, &claim(KEY))));
}

#[test]
fn a_lock_is_renewed_and_released_over_new_connections_while_no_name_server_answers() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.address());
    let hangs = Arc::new(AtomicBool::new(false));
    let store = named(proxy.address(), &hangs);
    let lease = acquired(&store, &claim(KEY));
    let guard = Lock::new(store.clone(), "dropped").try_acquire().unwrap();

    hangs.store(true, Ordering::SeqCst);
    proxy.cut();
    assert!(extend(&store, &lease, 1, TTL).is_some());
    assert!(store.extend_many(&[(call(&lease, 2), TTL)])[0].is_ok());
    proxy.cut();
    assert!(store.release(&call(&lease, 3)).unwrap() == dlock_core::ReleaseOutcome::Released);
    proxy.cut();
    drop(guard);
    assert_eq!(
        server.keys(),
        ["{dlock:dropped}:fence", "{dlock:import}:fence"]
    );
    hangs.store(false, Ordering::SeqCst);
}
