//! Locks through every way to a server.

use std::time::Duration;

use dlock_core::{Datastore, ErrorKind, Lock, LockOptions};
use dlock_redis::{ConnectionManager, RedisDatastore, UrlError, r2d2};
use dlock_test_servers::RedisServer;

use crate::support::*;

fn one_excludes_the_other(a: RedisDatastore, b: RedisDatastore) {
    let (a, b) = (Lock::new(a, "import"), Lock::new(b, "import"));
    let guard = a.try_acquire().unwrap();
    assert!(b.try_acquire().unwrap_err().is_held());
    let first = guard.fencing_token().unwrap();
    guard.release().unwrap();
    let guard = b.try_acquire().unwrap();
    assert!(guard.fencing_token().unwrap() > first);
    guard.release().unwrap();
}

#[test]
fn tcp_and_unix_sockets_lead_to_the_same_locks() {
    let server = RedisServer::builder().password("secret").start();
    let unix = format!("unix://:secret@{}", server.socket().display());
    one_excludes_the_other(patient(&server.url()), patient(&unix));
}

#[test]
fn tls_leads_to_the_same_locks() {
    let server = RedisServer::builder().tls().start();
    let pem = std::fs::read(server.ca_file()).unwrap();
    let tls = RedisDatastore::builder(&server.tls_url())
        .unwrap()
        .ca_pem(&pem)
        .unwrap()
        .call_timeout(LONG)
        .connect_timeout(LONG)
        .build();
    one_excludes_the_other(store(&server), tls);
    let by_url = format!("{}?ca={}", server.tls_url(), server.ca_file().display());
    let store = patient(&by_url);
    for _ in 0..3 {
        warm(&store);
    }
}

#[test]
fn a_server_that_the_authorities_do_not_vouch_for_is_refused_for_good() {
    let server = RedisServer::builder().tls().start();
    let other = RedisServer::builder().tls().start();
    let url = format!("{}?ca={}", server.tls_url(), other.ca_file().display());
    for (url, hint) in [
        (url, "none of the given authorities vouches for it"),
        (
            server.tls_url(),
            "give the server's, ?ca=/path/to/authorities.pem",
        ),
    ] {
        let error = patient(&url).acquire(&claim(KEY), TTL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Untrusted, "{error:?}");
        assert!(!error.is_transient() && !error.may_have_executed());
        let text = whole_text(&error);
        assert!(text.contains("the server is not trusted"), "{text}");
        // A machine without any certificates says so before it looks at the server's.
        assert!(
            text.contains(hint) || text.contains("no trusted certificates"),
            "{text}"
        );
    }
}

#[test]
fn tls_to_a_plain_port_and_plain_to_a_tls_port_end_in_an_error() {
    let server = RedisServer::builder().tls().start();
    let plain = format!("redis://{}", server.tls_address().unwrap());
    let tls = format!(
        "rediss://{}?ca={}",
        server.address(),
        server.ca_file().display()
    );
    for (url, hint) in [(plain, "write rediss://"), (tls, "write redis://")] {
        // Redis may wait for the end of what it takes for a line, so the second ends with its time.
        let builder = RedisDatastore::builder(&url).unwrap();
        let store = builder.connect_timeout(LONG / 4).call_timeout(LONG).build();
        let error = store.acquire(&claim(KEY), TTL).unwrap_err();
        assert!(!error.may_have_executed(), "{url}: {error:?}");
        assert!(whole_text(&error).contains(hint), "{error:?}");
    }
}

#[test]
fn authorities_that_cannot_be_used_are_named_at_once() {
    let bad = |url: &str| match RedisDatastore::open(url) {
        Err(UrlError::Certificates(text)) => text,
        other => panic!("{other:?}"),
    };
    assert!(bad("rediss://host?ca=/no/such/file").contains("/no/such/file"));
    let builder = RedisDatastore::builder("rediss://host").unwrap();
    assert!(builder.ca_pem(b"no certificate").is_err());
    let builder = RedisDatastore::builder("redis://host").unwrap();
    assert!(builder.ca_pem(b"").is_err(), "they would not be used");
}

#[test]
fn a_pool_of_the_callers_own_will_do() {
    let server = RedisServer::start();
    let manager = ConnectionManager::new(&server.url()).unwrap();
    let pool = r2d2::Pool::builder()
        .max_size(2)
        .min_idle(Some(0))
        .test_on_check_out(false)
        .build_unchecked(manager);
    let store = || RedisDatastore::from_pool(pool.clone()).with_call_timeout(LONG);
    one_excludes_the_other(store(), store());
}

#[test]
fn a_lock_is_renewed_for_as_long_as_it_is_held() {
    let server = RedisServer::start();
    let options = LockOptions::builder().ttl(Duration::from_secs(9));
    let lock = Lock::with_options(store(&server), "import", options).unwrap();
    let guard = lock.try_acquire().unwrap();
    let record = || server.command(["GET", KEY]);
    // Each renewal changes the sequence in the record.
    for _ in 0..3 {
        let before = record();
        until("it is renewed", || record() != before);
        assert!(guard.is_valid());
    }
    guard.release().unwrap();
    assert_eq!(server.keys(), [FENCE]);
}

#[test]
fn a_dead_holders_lock_is_taken_over_at_the_end_of_its_lease() {
    let server = RedisServer::start();
    let store = store(&server);
    let ttl = Duration::from_millis(400);
    let start = std::time::Instant::now();
    granted(store.acquire(&claim(KEY), ttl));
    let guard = Lock::new(store, "import").acquire_within(LONG).unwrap();
    assert!(start.elapsed() >= ttl, "not before");
    guard.release().unwrap();
}

#[test]
fn a_copy_of_an_extend_changes_nothing_and_is_told_the_true_remaining_time() {
    let server = RedisServer::start();
    let store = store(&server);
    let lease = acquired(&store, &claim(KEY));
    assert_eq!(extend(&store, &lease, 4, TTL * 2), Some(TTL * 2));
    let record = server.command(["GET", KEY]);
    for sequence in [4, 3] {
        let left = extend(&store, &lease, sequence, TTL / 2).unwrap();
        assert!(left > TTL && left <= TTL * 2, "{sequence}: {left:?}");
    }
    assert_eq!(server.command(["GET", KEY]), record);
}

#[test]
fn a_repeated_claim_takes_nothing_away() {
    let server = RedisServer::start();
    let store = store(&server);
    let claim = claim(KEY);
    granted(store.acquire(&claim, TTL * 2));
    let left = granted(store.acquire(&claim, TTL / 2)).ttl;
    assert!(left > TTL && left <= TTL * 2, "{left:?}");
    assert!(server.command(["PTTL", KEY]).integer().unwrap() > 30_000);
}

#[test]
fn a_database_that_the_server_does_not_have_is_invalid() {
    let server = RedisServer::start();
    let store = patient(&format!("{}99", server.url()));
    let error = store.acquire(&claim(KEY), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(!error.is_transient() && !error.may_have_executed());
    assert!(whole_text(&error).contains("DB index"), "{error:?}");
}
