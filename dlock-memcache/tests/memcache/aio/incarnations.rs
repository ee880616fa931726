//! A conversation sees one incarnation of the server.

use std::sync::atomic::Ordering;

use dlock_core::{Datastore, ErrorKind};
use dlock_test_servers::MemcachedServer;

use super::*;
use crate::several_servers::{Balancer, two};
use crate::unexpected_servers::{HANDSHAKE, Script, scripted_in_turn};

/// The handshake of the next incarnation.
const NEXT_HANDSHAKE: &[u8] =
    b"STAT pid 8\r\nSTAT uptime 50\r\nSTAT time 1800000100\r\nSTAT version 1.6.18\r\nEND\r\n\
    STAT evictions on\r\nSTAT cas_enabled yes\r\nEND\r\nMN\r\n";

/// Two servers: the first one ends between two commands of a call, and the second one would do
/// anything that it is asked.
fn store_that_moves(steps: Script) -> MemcacheDatastore {
    let first: Script = [&[HANDSHAKE, b"HD c5\r\n"], steps].concat().leak();
    let second: Script = &[NEXT_HANDSHAKE, b"HD c6\r\n", b"HD c7\r\n"];
    let address = scripted_in_turn([first, second], true);
    store_at(&format!("memcache://{address}"))
}

#[test]
fn an_extend_between_whose_commands_the_server_restarts_is_lost() {
    // Where the record has another number, an extend reads it; the connection ends there.
    let store = store_that_moves(&[b"EX\r\n", b""]);
    current_thread().block_on(async {
        let lease = taken(&store, &key("aio-moved")).await;
        lost(extends(&store, &lease, 1).await);
    });
    let blocking = store_that_moves(&[b"EX\r\n", b""]);
    let lease = take(&blocking, &key("moved"), LONG);
    lost(Datastore::extend(&blocking, &lease, LONG));
}

#[test]
fn a_release_between_whose_commands_the_server_restarts_frees_nothing() {
    let store = store_that_moves(&[b"EX\r\n", b""]);
    current_thread().block_on(async {
        let lease = taken(&store, &key("aio-moved")).await;
        not_ours(releases(&store, &lease).await);
    });
    let blocking = store_that_moves(&[b"EX\r\n", b""]);
    let lease = take(&blocking, &key("moved"), LONG);
    not_ours(Datastore::release(&blocking, &lease));
}

#[test]
fn a_batch_under_which_the_server_restarts_is_lost_and_nothing_is_sent_to_the_next() {
    let store = store_that_moves(&[b""]);
    current_thread().block_on(async {
        let lease = taken(&store, &key("aio-moved")).await;
        let answers = AsyncDatastore::extend_many(&store, &[(lease.clone(), LONG)]).await;
        lost(answers.into_iter().next().unwrap());
        lost(AsyncDatastore::confirm(&store, &call(&lease, 2)).await);
        // The first answer of the next incarnation is still there.
        let next = taken(&store, &key("aio-next")).await;
        assert!(next.fence() > lease.fence());
    });
}

#[test]
fn after_a_restart_that_repeats_the_numbers_the_first_holder_frees_nothing() {
    let mut server = may_grant(MemcachedServer::start());
    let store = store(&server);
    let key = key("aio-restarted");
    let runtime = current_thread();
    let first = runtime.block_on(taken(&store, &key));
    server.restart();
    wait_until_grown_up(&server);
    runtime.block_on(async {
        let second = taken(&store, &key).await;
        assert!(second.fence() > first.fence());
        not_ours(releases(&store, &first).await);
        lost(extends(&store, &first, 2).await);
        lost(AsyncDatastore::confirm(&store, &call(&first, 2)).await);
        let batch = [(call(&first, 3), LONG), (call(&second, 1), LONG)];
        let mut answers = AsyncDatastore::extend_many(&store, &batch)
            .await
            .into_iter();
        lost(answers.next().unwrap());
        extended(answers.next().unwrap());
    });
}

#[test]
fn a_server_that_has_just_started_grants_once_it_is_old_enough() {
    for runtime in runtimes() {
        let server = MemcachedServer::start();
        let store = store(&server);
        let uptime = || server.stats()["uptime"].parse::<u64>().unwrap();
        runtime.block_on(async {
            let short = claim_within(&key("aio-young"), Duration::from_millis(700));
            let answer = claims(&store, &short).await;
            // On a busy machine the server may be old enough by now.
            if uptime() < 4 {
                let error = answer.unwrap_err();
                // Its time may also end while the server is asked, and a runtime that is not run
                // for a tenth of it counts as not driven.
                let text = text(&error);
                let is_young = text.contains("has just started") || text.contains("nobody drives");
                assert!(is_young || error.kind() == ErrorKind::Timeout, "{text}");
                assert!(!error.may_have_executed());
                assert_eq!(value(&server, short.key()), None);
            }
            // With more time the call waits.
            let lease = taken(&store, &key("aio-old")).await;
            assert!(uptime() >= 4);
            ours(releases(&store, &lease).await);
        });
    }
}

#[test]
fn a_connection_to_an_earlier_incarnation_is_not_used_again() {
    let servers = two();
    let balancer = Balancer::over(&servers);
    balancer.all_to.store(0, Ordering::SeqCst);
    let store = store_at(&balancer.url());
    let (one, other) = (current_thread(), current_thread());
    let first = one.block_on(taken(&store, &key("aio-taken-over")));
    balancer.all_to.store(1, Ordering::SeqCst);
    // The connection of the other runtime leads to the next incarnation.
    lost(other.block_on(extends(&store, &first, 1)));
    // From now on that of the first one is not used, though it is open.
    one.block_on(async {
        for _ in 0..3 {
            let lease = taken(&store, &key("aio-taken-over")).await;
            assert_eq!(
                value(&servers[0], lease.key()),
                None,
                "on the second server"
            );
            ours(releases(&store, &lease).await);
        }
    });
}

#[test]
fn two_servers_behind_one_address_are_unsupported_once_the_first_comes_back() {
    let servers = two();
    let balancer = Balancer::over(&servers);
    balancer.all_to.store(0, Ordering::SeqCst);
    let store = store_at(&balancer.url());
    let runtimes = [current_thread(), current_thread(), current_thread()];
    let lease = runtimes[0].block_on(taken(&store, &key("aio-balanced")));
    balancer.all_to.store(1, Ordering::SeqCst);
    lost(runtimes[1].block_on(extends(&store, &lease, 1)));
    balancer.all_to.store(0, Ordering::SeqCst);
    let claim = claim(&key("aio-balanced"));
    let error = runtimes[2].block_on(claims(&store, &claim)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", text(&error));
    assert!(!error.may_have_executed());
    assert!(text(&error).contains("not of a balancer"));
}
