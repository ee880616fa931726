//! What each operation costs, counted by the server and between it and the client.

use std::thread;
use std::time::Duration;

use dlock_core::{Datastore, Extension, Lease};
use dlock_redis::{RedisDatastore, UrlError};
use dlock_test_servers::faults::Fault;
use dlock_test_servers::{RedisServer, Reply};

use crate::support::*;

/// Of the counted commands those that a client may have sent. The scripts' own are get, set, incr,
/// incrby, pttl, pexpire, pexpiretime, del, exists and time; `info` and `config` are the test's.
fn sent_by_clients(server: &RedisServer) -> Vec<(String, u64)> {
    server
        .calls()
        .into_iter()
        .filter(|(name, _)| {
            ![
                "get",
                "set",
                "incr",
                "incrby",
                "pttl",
                "pexpire",
                "pexpiretime",
                "del",
                "exists",
                "time",
                "info",
            ]
            .contains(&name.as_str())
                && !name.starts_with("config")
        })
        .collect()
}

#[test]
fn a_pair_of_acquire_and_release_on_a_warm_connection_is_two_commands_and_nothing_else() {
    let (server, proxy, store) = warm_behind_proxy();
    server.reset_calls();
    proxy.reset_counts();

    let lease = acquired(&store, &claim(KEY));
    assert!(released(&store, &lease));

    let counts = proxy.counts();
    assert_eq!((counts.connections, counts.round_trips), (0, 2));
    assert_eq!(sent_by_clients(&server), [("evalsha".to_owned(), 2)]);
    assert_eq!(server.calls()["time"], 1, "the acquire script's own");
}

#[test]
fn an_extend_is_one_command_and_so_is_a_refusal() {
    let (server, proxy, store) = warm_behind_proxy();
    let lease = acquired(&store, &claim(KEY));
    server.reset_calls();
    proxy.reset_counts();

    assert_eq!(extend(&store, &lease, 1, TTL), Some(TTL));
    refused(store.acquire(&claim(KEY), TTL));

    assert_eq!(proxy.counts().round_trips, 2);
    assert_eq!(sent_by_clients(&server), [("evalsha".to_owned(), 2)]);
}

#[test]
fn many_leases_are_extended_256_in_a_trip_on_a_connection_beside_the_pool() {
    let (server, proxy, store) = warm_behind_proxy();
    let leases: Vec<(Lease, Duration)> = (0..300)
        .map(|n| {
            let lease = acquired(&store, &claim(&format!("dlock:{n}")));
            (call(&lease, 1), TTL * 2)
        })
        .collect();
    assert!(released(&store, &leases[7].0));
    proxy.reset_counts();
    assert!(store.extend_many(&leases[..1])[0].is_ok());
    assert_eq!(proxy.counts().connections, 1, "one beside the pool");
    server.reset_calls();

    // No answer arrives, and yet the whole batch does.
    proxy.replies(Fault::Hold);
    let answers = thread::scope(|scope| {
        let extending = scope.spawn(|| store.extend_many(&leases));
        until("a batch has run", || evalshas(&server) == 256);
        proxy.heal();
        extending.join().unwrap()
    });

    assert_eq!((evalshas(&server), proxy.counts().connections), (300, 1));
    assert_eq!(answers.len(), 300);
    for (n, answer) in answers.into_iter().enumerate() {
        match answer.unwrap() {
            Extension::Lost => assert_eq!(n, 7),
            Extension::Extended(grant) => assert!(grant.ttl > TTL && n != 7, "{n}: {grant:?}"),
        }
    }
    let left = server.command(["PTTL", "dlock:299"]).integer().unwrap();
    assert!(left > 30_000, "{left}");
}

#[test]
fn a_batch_survives_that_the_server_forgot_the_script() {
    let (server, _proxy, store) = warm_behind_proxy();
    let leases: Vec<(Lease, Duration)> = (0..5)
        .map(|n| {
            (
                call(&acquired(&store, &claim(&format!("dlock:{n}"))), 1),
                TTL,
            )
        })
        .collect();
    server.command(["SCRIPT", "FLUSH"]);
    server.reset_calls();
    let answers = store.extend_many(&leases);
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer, Ok(Extension::Extended(_)))),
        "{answers:?}"
    );
    assert_eq!(server.calls()["eval"], 1, "the script is sent once");
}

#[test]
fn the_record_is_what_the_documentation_says_and_the_fence_outlives_it() {
    let server = RedisServer::start();
    let store = store(&server);
    let claim = claim(KEY);
    let lease = acquired(&store, &claim);
    let fence = fence_of(&lease);
    let record = |sequence| {
        let (owner, holder) = (claim.owner(), claim.holder());
        Reply::Text(format!("{owner} {sequence} {holder}"))
    };
    assert_eq!(
        server.command(["GET", FENCE]),
        Reply::Text(fence.to_string())
    );
    assert_eq!(server.command(["GET", KEY]), record(0));
    assert!(extend(&store, &lease, 7, TTL).is_some());
    assert_eq!(server.command(["GET", KEY]), record(7));
    assert_eq!(server.keys(), [KEY, FENCE]);
    let life = |key| server.command(["PTTL", key]).integer().unwrap();
    assert!((1..=30_000).contains(&life(KEY)));
    // Renewed once an hour.
    let (week, hour) = (7 * 86_400_000, 3_600_000);
    assert!((week..=week + hour).contains(&life(FENCE)));

    assert!(released(&store, &lease));
    let month = Duration::from_secs(30 * 86_400);
    granted(store.acquire(&claim, month));
    assert!(life(FENCE) > 59 * 86_400_000, "twice the time to live");
}

#[test]
fn a_fence_is_kept_for_as_long_as_the_store_was_told() {
    let server = RedisServer::start();
    let hour = Duration::from_secs(3600);
    let builder = RedisDatastore::builder(&server.url()).unwrap();
    let builder = builder.call_timeout(LONG).connect_timeout(LONG);
    let built = builder.fence_keep(hour).unwrap().build();
    let by_url = patient(&format!("{}?fence_keep=1h", server.url()));
    let life = || server.command(["PTTL", FENCE]).integer().unwrap();
    for store in [built, by_url] {
        server.command(["FLUSHALL"]);
        // The first has no fence yet, the second counts on, the third comes later.
        for _ in 0..3 {
            let lease = acquired(&store, &claim(KEY));
            assert!((3_580_000..=3_600_000).contains(&life()), "{}", life());
            assert_eq!(
                server.command(["GET", FENCE]),
                Reply::Text(fence_of(&lease).to_string())
            );
            assert!(released(&store, &lease));
            server.command(["PEXPIRE", FENCE, "60000"]);
        }
        granted(store.acquire(&claim(KEY), hour * 2));
        assert!(life() > 4 * 3_600_000 - 20_000, "twice the time to live");
    }
}

#[test]
fn a_time_that_is_too_short_or_too_long_for_a_fence_is_refused() {
    let builder = || RedisDatastore::builder("redis://127.0.0.1:1/").unwrap();
    for seconds in [0, 59, 3651 * 86_400] {
        let refused = builder().fence_keep(Duration::from_secs(seconds)).err();
        assert_eq!(refused, Some(UrlError::FenceKeep), "{seconds} s");
    }
    assert!(builder().fence_keep(Duration::from_secs(60)).is_ok());
}

#[test]
fn a_fraction_of_a_millisecond_is_rounded_up() {
    let server = RedisServer::start();
    let store = store(&server);
    let ttl = Duration::from_micros(1_000_500);
    let grant = granted(store.acquire(&claim(KEY), ttl));
    assert!(grant.ttl >= ttl, "{:?}", grant.ttl);
}

#[test]
fn a_time_to_live_that_redis_cannot_keep_is_invalid_and_not_sent() {
    let server = RedisServer::start();
    let store = store(&server);
    for ttl in [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_micros(9_999),
        Duration::from_secs(365 * 86_400 + 1),
        Duration::MAX,
    ] {
        let error = store.acquire(&claim(KEY), ttl).unwrap_err();
        assert_eq!(error.kind(), dlock_core::ErrorKind::Invalid, "{ttl:?}");
        assert!(!error.may_have_executed());
    }
    assert!(server.keys().is_empty());
}
