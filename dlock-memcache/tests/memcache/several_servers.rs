//! Two servers behind one address: a balancer, a name with two addresses, a service with two pods.

// A panic is how a helper of a test fails.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::support::*;
use dlock_core::{AcquireError, Datastore, ErrorKind, Lock};
use dlock_test_servers::MemcachedServer;

/// Leads connections to the servers in turn, or all to one of them.
pub(crate) struct Balancer {
    address: SocketAddr,
    /// The index of the server for all connections; `usize::MAX` for in turn.
    pub(crate) all_to: Arc<AtomicUsize>,
}

impl Balancer {
    pub(crate) fn over(servers: &[MemcachedServer]) -> Self {
        let addresses: Vec<_> = servers.iter().map(MemcachedServer::address).collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let all_to = Arc::new(AtomicUsize::new(usize::MAX));
        let chosen = Arc::clone(&all_to);
        thread::spawn(move || {
            for (count, client) in listener.incoming().enumerate() {
                let at = match chosen.load(Ordering::SeqCst) {
                    usize::MAX => count % addresses.len(),
                    at => at,
                };
                let Ok(server) = TcpStream::connect(addresses[at]) else {
                    continue;
                };
                let client = client.unwrap();
                for (mut from, mut to) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap()),
                    (server, client),
                ] {
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        Balancer { address, all_to }
    }

    pub(crate) fn url(&self) -> String {
        format!("memcache://{}", self.address)
    }
}

pub(crate) fn two() -> Vec<MemcachedServer> {
    let servers = [MemcachedServer::start(), MemcachedServer::start()];
    servers.into_iter().map(may_grant).collect()
}

#[test]
fn two_servers_behind_one_address_are_unsupported_once_the_first_comes_back() {
    let servers = two();
    let balancer = Balancer::over(&servers);
    let store = store_at(&balancer.url());
    let lease = take(&store, &key("balanced"), LONG);
    // The connection for renewals leads to the other server, which could also be the first one
    // after a restart.
    lost(store.extend_many(&[(lease.clone(), LONG)]).remove(0));
    // The next connection leads to the first server again.
    let error = store.acquire(&claim(&key("balanced")), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(!error.may_have_executed());
    let reason = text(&error);
    assert!(reason.contains("not of a balancer"), "{reason}");
    assert!(reason.contains(&balancer.address.to_string()), "{reason}");

    // The error is permanent, so a waiter does not wait.
    let lock = Lock::new(store, "balanced");
    let error = lock.acquire_within(CALL).unwrap_err();
    assert!(
        matches!(&error, AcquireError::Datastore(error) if error.kind() == ErrorKind::Unsupported),
        "{error:?}"
    );
}

#[test]
fn a_server_that_took_over_does_not_count_as_a_second_server() {
    let servers = two();
    let balancer = Balancer::over(&servers);
    balancer.all_to.store(0, Ordering::SeqCst);
    let store = store_at(&balancer.url());
    let first = take(&store, &key("moved"), LONG);
    balancer.all_to.store(1, Ordering::SeqCst);
    lost(store.extend_many(&[(first.clone(), LONG)]).remove(0));
    for _ in 0..3 {
        ours(store.release(&take(&store, &key("moved"), LONG)));
    }
    not_ours(store.release(&call(&first, 2)));
}
