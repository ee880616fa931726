//! Connections that break, stall and drip: the right outcome or a typed error by the deadline, and
//! nothing left behind.

use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{Datastore, ErrorKind, Lock};
use dlock_test_servers::RedisServer;
use dlock_test_servers::faults::{Fault, Proxy};

use crate::support::*;

/// Long enough for a busy machine to send a request.
const SOON: Duration = Duration::from_secs(4);

pub(crate) fn fence_of_server(server: &RedisServer) -> u64 {
    server
        .command(["GET", FENCE])
        .text()
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn a_claim_whose_reply_was_lost_is_granted_once_with_one_fencing_token() {
    let (server, proxy, store) = warm_behind_proxy();
    let claim = claim(KEY);
    server.reset_calls();
    proxy.replies_once(Fault::Cut { after: 0 });

    let lease = acquired(&store, &claim);

    assert_eq!(evalshas(&server), 2, "it ran, and was repeated");
    assert_eq!(fence_of(&lease), fence_of_server(&server), "one grant");
    let sets = server.calls()["set"];
    assert_eq!(
        sets, 4,
        "a lock and a fence, a lock in vain, and the fence anew"
    );
    assert!(lease.grant().copy_may_follow);
    assert!(released(&store, &lease));
    let warm = acquired(&store, &claim);
    assert!(
        !warm.grant().copy_may_follow,
        "said of the call that was in doubt alone"
    );
    assert!(released(&store, &warm));
    assert_eq!(
        server.keys(),
        ["{dlock:import}:fence", "{dlock:warm}:fence"]
    );
}

#[test]
fn a_claim_whose_request_was_lost_is_granted() {
    let (server, proxy, store) = warm_behind_proxy();
    server.reset_calls();
    proxy.requests_once(Fault::Cut { after: 0 });
    let lease = acquired(&store, &claim(KEY));
    assert_eq!(evalshas(&server), 1);
    assert!(
        lease.grant().copy_may_follow,
        "nobody knows that the first copy is lost"
    );
    assert!(released(&store, &lease));
}

#[test]
fn a_refusal_after_a_lost_reply_does_not_hide_that_the_claim_may_yet_win() {
    let (_server, proxy, store) = warm_behind_proxy();
    let _other = acquired(&store, &claim(KEY));
    proxy.replies_once(Fault::Cut { after: 0 });
    let error = store.acquire(&claim(KEY), TTL).unwrap_err();
    assert!(error.may_have_executed(), "so core abandons the claim");
    assert!(error.is_transient());
}

#[test]
fn an_extend_whose_reply_was_lost_is_extended() {
    let (_server, proxy, store) = warm_behind_proxy();
    let lease = acquired(&store, &claim(KEY));
    proxy.replies_once(Fault::Cut { after: 0 });
    // The repetition has the same sequence and gets the true remaining time.
    let left = extend(&store, &lease, 1, TTL * 2).unwrap();
    assert!(left > TTL && left <= TTL * 2, "{left:?}");
}

#[test]
fn a_release_whose_reply_was_lost_is_done_and_reported_as_done() {
    let (server, proxy, store) = warm_behind_proxy();
    let lease = acquired(&store, &claim(KEY));
    proxy.replies_once(Fault::Cut { after: 0 });
    let error = store.release(&call(&lease, 1)).unwrap_err();
    assert!(
        error.may_have_executed(),
        "not ours, but perhaps it was we who freed it"
    );
    assert!(!server.keys().contains(&KEY.to_owned()));

    let guard = Lock::new(store, "import").try_acquire().unwrap();
    proxy.replies_once(Fault::Cut { after: 0 });
    guard.release().unwrap();
    assert!(!server.keys().contains(&KEY.to_owned()));
}

#[test]
fn a_connection_cut_at_any_byte_of_the_claim_or_its_answer_leaves_one_grant_and_then_nothing() {
    let (server, proxy, store) = warm_behind_proxy();
    proxy.reset_counts();
    let lease = acquired(&store, &claim(KEY));
    let counts = proxy.counts();
    assert!(released(&store, &lease));
    let requests = usize::try_from(counts.request_bytes).unwrap();
    let replies = usize::try_from(counts.reply_bytes).unwrap();
    let mut cuts: Vec<(bool, usize)> = (0..requests).step_by(5).map(|at| (true, at)).collect();
    cuts.extend((0..replies).map(|at| (false, at)));

    for (requests, after) in cuts {
        let cut = Fault::Cut { after };
        match requests {
            true => proxy.requests_once(cut),
            false => proxy.replies_once(cut),
        }
        let lease = acquired(&store, &claim(KEY));
        assert_eq!(
            fence_of(&lease),
            fence_of_server(&server),
            "{requests} {after}"
        );
        proxy.heal();
        assert!(released(&store, &lease), "{requests} {after}");
        assert_eq!(
            server.keys(),
            ["{dlock:import}:fence", "{dlock:warm}:fence"]
        );
    }
}

#[test]
fn a_connection_cut_at_any_byte_of_the_greeting_is_an_error_that_says_that_nothing_was_done() {
    let server = RedisServer::builder().password("secret").start();
    let proxy = Proxy::to(server.address());
    let url = format!("redis://:secret@{}/3", proxy.address());
    for after in 0..15 {
        let store = patient(&url);
        proxy.replies_once(Fault::Cut { after });
        let error = store.acquire(&claim(KEY), TTL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{after}");
        assert!(!error.may_have_executed(), "{after}");
        assert!(released(&store, &acquired(&store, &claim(KEY))), "{after}");
    }
}

#[test]
fn a_reply_that_is_split_at_every_byte_is_understood() {
    let (_server, proxy, store) = warm_behind_proxy();
    let every = Duration::from_millis(1);
    proxy.replies(Fault::Split { bytes: 1, every });
    proxy.requests(Fault::Split { bytes: 100, every });
    let lease = acquired(&store, &claim(KEY));
    refused(store.acquire(&claim(KEY), TTL));
    assert!(extend(&store, &lease, 1, TTL).is_some());
    assert!(released(&store, &lease));
}

#[test]
fn a_reply_that_drips_ends_with_the_deadline_and_not_with_the_drip() {
    let (_server, proxy, store) = warm_behind_proxy();
    let every = Duration::from_secs(1);
    proxy.replies(Fault::Split { bytes: 1, every });
    let start = Instant::now();
    let error = store.acquire(&claim_within(KEY, SOON), TTL).unwrap_err();
    let took = start.elapsed();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_have_executed());
    // The reply is a token: it has more than fifteen bytes.
    let drips = every * 15;
    assert!(
        took >= SOON - Duration::from_millis(10) && took < drips - Duration::from_secs(1),
        "{took:?}"
    );
}

#[test]
fn a_silent_connection_ends_with_the_deadline_and_is_never_used_again() {
    let (server, proxy, store) = warm_behind_proxy();
    let lease = acquired(&store, &claim(KEY));
    proxy.replies(Fault::Hold);
    let held = store.acquire(&claim_within(KEY, SOON), TTL).unwrap_err();
    assert!(held.kind() == ErrorKind::Timeout && held.may_have_executed());
    let soon = || dlock_core::Clock::BOOTTIME.now().saturating_add(SOON);
    // No connection is left that could be asked: nothing was sent.
    assert!(
        !store
            .extend(&lease.for_call(1, soon()), TTL)
            .unwrap_err()
            .may_have_executed()
    );
    assert!(
        !store
            .release(&lease.for_call(2, soon()))
            .unwrap_err()
            .may_have_executed()
    );
    proxy.heal();
    // The held answers go out now, to connections that nobody listens to.
    let other = acquired(&store, &claim("dlock:other"));
    assert!(fence_of(&other) > fence_of(&lease));
    assert!(extend(&store, &lease, 3, TTL).is_some());
    assert!(released(&store, &lease) && released(&store, &other));
    assert!(!server.keys().contains(&KEY.to_owned()));
}

#[test]
fn a_claim_that_the_network_delays_until_after_its_end_changes_nothing() {
    let (server, proxy, store) = warm_behind_proxy();
    server.reset_calls();
    proxy.requests_once(Fault::Hold);
    let error = store.acquire(&claim_within(KEY, SOON), TTL).unwrap_err();
    assert!(error.kind() == ErrorKind::Timeout && error.may_have_executed());
    assert_eq!(evalshas(&server), 0);
    proxy.heal();
    until("the claim arrived", || evalshas(&server) == 1);
    assert_eq!(server.keys(), ["{dlock:warm}:fence"]);
}

#[test]
fn an_idle_connection_that_the_server_closed_is_replaced_without_a_word() {
    let (server, proxy, store) = warm_behind_proxy();
    replaces_closed_connections(&server, &proxy, &store);
}

#[test]
fn an_idle_tls_connection_that_the_server_closed_is_replaced_without_a_word() {
    let server = RedisServer::builder().tls().start();
    let proxy = Proxy::to(server.tls_address().unwrap());
    let ca = server.ca_file();
    let store = patient(&format!("rediss://{}?ca={}", proxy.address(), ca.display()));
    warm(&store);
    replaces_closed_connections(&server, &proxy, &store);
}

fn replaces_closed_connections(
    server: &RedisServer,
    proxy: &Proxy,
    store: &dlock_redis::RedisDatastore,
) {
    server.reset_calls();
    proxy.reset_counts();
    let lease = acquired(store, &claim(KEY));
    assert_eq!(proxy.counts().connections, 0, "it is still the first one");
    proxy.cut();
    // It takes a busy system a moment to deliver that.
    thread::sleep(Duration::from_millis(500));
    // Had the request been sent on the dead connection, the refusal would be in doubt.
    refused(store.acquire(&claim(KEY), TTL));
    assert!(released(store, &lease));
    assert_eq!((evalshas(server), proxy.counts().connections), (3, 1));
}

#[test]
fn a_busy_pool_is_a_timeout_that_says_so() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.address());
    let store = dlock_redis::RedisDatastore::builder(&format!("redis://{}", proxy.address()))
        .unwrap()
        .call_timeout(LONG)
        .max_connections(1)
        .build();
    warm(&store);
    proxy.reset_counts();
    proxy.requests_once(Fault::Hold);
    thread::scope(|scope| {
        let hanging = scope.spawn(|| acquired(&store, &claim("dlock:hangs")));
        until("the claim hangs", || proxy.counts().round_trips == 1);
        let error = store.acquire(&claim_within(KEY, SOON), TTL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed());
        assert!(
            whole_text(&error).contains("all 1 connections"),
            "{error:?}"
        );
        proxy.heal();
        assert!(released(&store, &hanging.join().unwrap()));
    });
}

#[test]
fn in_a_batch_a_lease_whose_call_is_over_changes_nothing_and_does_not_make_the_others_fail() {
    let (server, proxy, store) = warm_behind_proxy();
    let over = acquired(&store, &claim("dlock:over"));
    let lease = acquired(&store, &claim(KEY));
    let before = server.command(["GET", "dlock:over"]);
    proxy.replies(Fault::Delay(Duration::from_millis(5)));
    let mut sequence = 0;
    // A batch has a quarter of a second, which a busy machine may not give it.
    until("the other one is extended", || {
        sequence += 1;
        let late = over.for_call(sequence, dlock_core::Clock::BOOTTIME.now());
        let mut answers = store.extend_many(&[(late, TTL * 2), (call(&lease, sequence), TTL)]);
        let other = answers.pop().unwrap();
        assert!(answers.pop().unwrap().is_err());
        matches!(other, Ok(dlock_core::Extension::Extended(_)))
    });
    assert_eq!(server.command(["GET", "dlock:over"]), before);
}

#[test]
fn a_batch_whose_answers_are_lost_may_have_run_and_ends_with_the_first_of_its_deadlines() {
    let (_server, proxy, store) = warm_behind_proxy();
    let soon = acquired(&store, &claim("dlock:soon"));
    let lease = acquired(&store, &claim(KEY));
    assert!(store.extend_many(&[(call(&lease, 1), TTL)])[0].is_ok());
    let soon = soon.for_call(1, dlock_core::Clock::BOOTTIME.now().saturating_add(SOON));
    proxy.replies(Fault::Hold);
    let start = Instant::now();
    let answers = store.extend_many(&[(soon, TTL), (call(&lease, 2), TTL)]);
    assert!(start.elapsed() < LONG / 2, "{:?}", start.elapsed());
    for answer in answers {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.may_have_executed());
        assert!(whole_text(&error).contains("read the reply"), "{error:?}");
    }
}

#[test]
fn a_release_over_a_connection_that_leads_nowhere_frees_the_key_over_a_fresh_one() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.address());
    let store = dlock_redis::RedisDatastore::builder(&format!("redis://{}", proxy.address()))
        .unwrap()
        .call_timeout(LONG / 2)
        .connect_timeout(LONG)
        .build();
    warm(&store);
    // The network swallows the request, then the answer.
    for swallow in [Proxy::requests_once, Proxy::replies_once] {
        let guard = Lock::new(store.clone(), "import").try_acquire().unwrap();
        swallow(&proxy, Fault::Hold);
        guard.release().unwrap();
        assert!(!server.keys().contains(&KEY.to_owned()));
        proxy.heal();
    }
}
