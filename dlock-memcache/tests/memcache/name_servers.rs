//! If name servers stop answering, no call is delayed beyond its deadline and no lock is lost.

// A panic is how a helper of a test fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::*;
use dlock_core::{Datastore, ErrorKind};
use dlock_memcache::{MemcacheDatastore, Resolver};
use dlock_test_servers::faults::Proxy;

/// Long enough for a busy machine to ask for the address.
const SOON: Duration = Duration::from_secs(4);

/// A store that knows only the name of its server. The resolver hangs while `hangs` is set.
fn named(address: SocketAddr, hangs: &Arc<AtomicBool>) -> MemcacheDatastore {
    let hangs = Arc::clone(hangs);
    let resolver = Resolver::new(move |_| {
        while hangs.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(vec![address])
    });
    MemcacheDatastore::builder(&format!("memcache://cache.test:{}", address.port()))
        .unwrap()
        .call_timeout(CALL)
        .connect_timeout(Duration::from_secs(4))
        .resolver(resolver)
        .build()
}

#[test]
fn a_call_ends_by_its_deadline_while_no_name_server_answers() {
    let hangs = Arc::new(AtomicBool::new(true));
    let store = named(server().address(), &hangs);
    let hurried = claim_within(&key("named"), SOON);
    let (took, answer) = timed(|| store.acquire(&hurried, LONG));
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
    assert!(
        text(&error).contains("not resolved in time"),
        "{}",
        text(&error)
    );
    assert!(took < CALL, "{took:?}");
    hangs.store(false, Ordering::SeqCst);
    ours(store.release(&take(&store, &key("named"), LONG)));
}

#[test]
fn a_lock_is_renewed_and_released_over_new_connections_while_no_name_server_answers() {
    let proxy = Proxy::to(server().address());
    let hangs = Arc::new(AtomicBool::new(false));
    let store = named(proxy.address(), &hangs);
    let lease = take(&store, &key("named"), LONG);

    hangs.store(true, Ordering::SeqCst);
    proxy.cut();
    let grant = extended(store.extend(&lease, LONG));
    let lease = call(&lease.renewed(grant), 2);
    let grant = extended(store.extend_many(&[(lease.clone(), LONG)]).remove(0));
    proxy.cut();
    let lease = call(&lease.renewed(grant), 3);
    let _ = extended(store.confirm(&lease));
    proxy.cut();
    ours(store.release(&lease));
    hangs.store(false, Ordering::SeqCst);
}
