//! Connections that break, hang or lead to something else.

use std::io::Write;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{Datastore, ErrorKind, Lease};
use dlock_postgres::PostgresDatastore;
use dlock_test_servers::PostgresServer;
use dlock_test_servers::faults::{Fault, Proxy};

use crate::support::{
    LONG, TTL, acquired, call, claim, claim_within, granted, patient, refused, released, server,
    until, with_schema,
};

fn behind_proxy() -> (Proxy, PostgresDatastore) {
    let proxy = Proxy::to(server().address());
    let store = store_at(&proxy.address().to_string());
    (proxy, store)
}

fn store_at(address: &str) -> PostgresDatastore {
    patient(&format!("postgres://postgres@{address}/postgres"))
}

#[test]
fn a_claim_whose_answer_is_lost_is_repeated_and_granted_once() {
    let (proxy, store) = behind_proxy();
    acquired(&store, "dlock:lost-warm");
    proxy.replies_once(Fault::Cut { after: 0 });
    let claim = claim("dlock:lost");
    let grant = granted(store.acquire(&claim, TTL));
    assert!(grant.copy_may_follow);
    let seen = store.inspect().unwrap().holder("dlock:lost").unwrap();
    assert_eq!(seen.unwrap().fence(), grant.fence);
    assert!(released(&store, &Lease::new(claim, grant)));
}

#[test]
fn a_claim_that_is_never_answered_may_have_been_carried_out_and_is_abandoned() {
    let (proxy, store) = behind_proxy();
    acquired(&store, "dlock:silent-warm");
    proxy.replies(Fault::Lose);
    let silent = claim_within("dlock:silent", Duration::from_secs(4));
    let error = store.acquire(&silent, TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.may_have_executed(), "{error}");
    let direct = patient(&server().url());
    refused(direct.acquire(&claim("dlock:silent"), TTL));

    proxy.heal();
    let abandoned = claim("dlock:silent").owned_by(silent.owner());
    store.abandon(&abandoned).unwrap();
    granted(direct.acquire(&claim("dlock:silent"), TTL));
}

#[test]
fn a_claim_that_the_network_delays_past_its_end_is_refused_by_the_server() {
    let (proxy, store) = behind_proxy();
    acquired(&store, "dlock:delayed-warm");
    proxy.requests(Fault::Hold);
    let delayed = claim_within("dlock:delayed", Duration::from_secs(3));
    let error = store.acquire(&delayed, TTL).unwrap_err();
    assert!(error.may_have_executed(), "{error}");
    proxy.heal();
    // Nobody waits for the answer, so the table is asked for a while.
    let direct = patient(&server().url());
    for _ in 0..20 {
        let holder = direct.inspect().unwrap().holder("dlock:delayed").unwrap();
        assert!(holder.is_none(), "{holder:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_release_whose_answer_is_lost_frees_the_lock() {
    let (proxy, store) = behind_proxy();
    let lease = acquired(&store, "dlock:release");
    proxy.replies_once(Fault::Cut { after: 0 });
    // The repeat finds nothing to free, and cannot know whether the first did.
    let error = store.release(&call(&lease, 1)).unwrap_err();
    assert!(error.may_have_executed(), "{error}");
    acquired(&store, "dlock:release");
}

#[test]
fn answers_in_small_pieces_are_read() {
    let (proxy, store) = behind_proxy();
    proxy.replies(Fault::Split {
        bytes: 3,
        every: Duration::from_micros(100),
    });
    let lease = acquired(&store, "dlock:pieces");
    assert!(released(&store, &lease));
}

#[test]
fn a_connection_that_the_server_has_closed_is_replaced() {
    let server = with_schema(PostgresServer::start());
    let store = patient(&server.url());
    let lease = acquired(&store, "dlock:closed");
    server.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'dlock'",
    );
    assert!(released(&store, &lease));
}

/// Accepts connections and says the same to each.
pub(crate) fn imposter(says: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut open = Vec::new();
        for mut client in listener.incoming().flatten() {
            let _ = client.write_all(says);
            open.push(client);
        }
    });
    address
}

#[test]
fn what_is_no_postgresql_is_reported_in_time_and_nothing_was_done() {
    for (says, kind) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            ErrorKind::Protocol,
        ),
        (&b"R\xff\xff\xff\xff"[..], ErrorKind::Protocol),
        (&b"R\x7f\xff\xff\xff"[..], ErrorKind::Protocol),
        (&b"R\0\0\0\x01"[..], ErrorKind::Protocol),
        (&b""[..], ErrorKind::Timeout),
    ] {
        let store = store_at(&imposter(says));
        let started = Instant::now();
        // Who hears nothing waits to the end.
        let within = match kind {
            ErrorKind::Timeout => Duration::from_millis(500),
            _ => LONG,
        };
        let error = store.acquire(&claim_within("dlock:x", within), TTL);
        let error = error.unwrap_err();
        assert_eq!(error.kind(), kind, "{says:?}: {error}");
        assert!(!error.may_have_executed(), "{error}");
        assert!(started.elapsed() < LONG);
    }
}

#[test]
fn a_host_that_hangs_does_not_hide_the_next() {
    let (hangs, works) = (imposter(b""), server().address());
    let store =
        PostgresDatastore::builder(&format!("postgres://postgres@{hangs},{works}/postgres"))
            .unwrap()
            .call_timeout(LONG)
            .connect_timeout(Duration::from_secs(4))
            .build();
    until("the second host answers", || {
        store.acquire(&claim("dlock:second"), TTL).is_ok()
    });
}
