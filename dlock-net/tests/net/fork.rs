//! A forked child does not touch its parent's connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{Behaviour, LinesManager, Shared, in_child, is_alone, pool, serve};
use dlock_net::{Endpoint, Resolver, Socket, deadline_in};

const LONG: Duration = Duration::from_secs(20);

#[test]
fn a_forked_child_opens_connections_of_its_own_and_leaves_the_parents_alone() {
    if !is_alone("fork::a_forked_child_opens_connections_of_its_own_and_leaves_the_parents_alone") {
        return;
    }
    let server = serve(Behaviour::Echo);
    let pool = pool(&server, 2);
    assert_eq!(pool.ask(LONG, "a").unwrap(), "a");
    assert_eq!(pool.ask_dedicated(LONG, "b").unwrap(), "b");
    assert_eq!(server.connections(), 2);

    assert!(in_child(|| {
        pool.ask(LONG, "c").is_ok_and(|answer| answer == "c")
            && pool
                .ask_dedicated(LONG, "d")
                .is_ok_and(|answer| answer == "d")
    }));

    // Two new connections of the child; the parent still uses its own.
    assert_eq!(server.connections(), 4);
    assert_eq!(pool.ask(LONG, "e").unwrap(), "e");
    assert_eq!(pool.ask_dedicated(LONG, "f").unwrap(), "f");
    assert_eq!(server.connections(), 4);
}

#[test]
fn a_forked_child_resolves_names_while_a_lookup_of_its_parent_hangs() {
    if !is_alone("fork::a_forked_child_resolves_names_while_a_lookup_of_its_parent_hangs") {
        return;
    }
    let server = serve(Behaviour::Echo);
    let Endpoint::Tcp { port, .. } = server.endpoint() else {
        unreachable!()
    };
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let hangs = Arc::new(AtomicBool::new(true));
    let resolver = Resolver::new({
        let hangs = Arc::clone(&hangs);
        move |_| {
            while hangs.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(5));
            }
            Ok(vec![address])
        }
    });
    let named = Endpoint::Tcp {
        host: "db.test".to_owned(),
        port,
    };
    let connect = |within| Socket::connect_with(&resolver, &named, deadline_in(within));
    assert!(connect(Duration::from_millis(50)).is_err());
    assert!(in_child(|| {
        hangs.store(false, Ordering::SeqCst);
        connect(LONG).is_ok()
    }));
    hangs.store(false, Ordering::SeqCst);
    assert!(connect(LONG).is_ok());
}

#[test]
fn a_forked_child_can_drop_the_pool() {
    if !is_alone("fork::a_forked_child_can_drop_the_pool") {
        return;
    }
    let server = serve(Behaviour::Echo);
    let mut pool = Some(pool(&server, 2));
    assert_eq!(pool.as_ref().unwrap().ask(LONG, "a").unwrap(), "a");
    assert!(in_child(|| pool.take().is_some()));
    assert_eq!(pool.as_ref().unwrap().ask(LONG, "b").unwrap(), "b");
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_forked_child_of_a_callers_pool_works_once_the_pool_was_used() {
    if !is_alone("fork::a_forked_child_of_a_callers_pool_works_once_the_pool_was_used") {
        return;
    }
    let server = serve(Behaviour::Echo);
    let own = r2d2::Pool::builder()
        .max_size(2)
        .min_idle(Some(0))
        .build_unchecked(LinesManager(server.endpoint()));
    let pool = Shared(dlock_net::Pool::from_r2d2(own));
    assert!(in_child(|| {
        // The child cannot create a place, and the pool does not know how to connect. That is an
        // error, not a hang, and a permanent one.
        pool.ask(LONG, "a")
            .is_err_and(|error| !error.may_have_executed() && !error.is_transient())
    }));
    assert_eq!(pool.ask(LONG, "b").unwrap(), "b");
    assert!(in_child(|| pool.ask(LONG, "c").is_ok()));
}
