//! The effects of servers on locks: they stop, restart, lose data, evict, refuse.

// A panic is how a helper of a test fails.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;
use dlock_core::{AcquireOutcome, Datastore, ErrorKind, Extension, Lease, Lock, LockOptions};
use dlock_memcache::MemcacheDatastore;
use dlock_test_servers::MemcachedServer;

#[test]
fn a_confirm_detects_a_lease_that_a_stall_has_shortened() {
    // When a stopped server continues, it counts the time to live of the first items from a second
    // that is long over. Tested with claims that wait from the start, and with claims that come at
    // the last moment, for which little time has passed.
    thread::scope(|scope| {
        for lane in 0..15 {
            scope.spawn(move || {
                let server = may_grant(MemcachedServer::start());
                let store = store(&server);
                let ttl = Duration::from_secs(4);
                take(&store, &key("warm"), ttl);
                for round in 0..2 {
                    let stall = Duration::from_millis(2000 + lane * 60 + round * 500);
                    let waits = if lane == 0 { stall } else { LAST_MOMENT };
                    let key = key("stalled");
                    let (_, lease) =
                        after_a_stall(&server, stall, waits, || take(&store, &key, ttl));
                    thread::sleep(store.characteristics().confirm_after.unwrap());
                    let asked = Instant::now();
                    let believed = match store.confirm(&lease).unwrap() {
                        Extension::Extended(grant) => asked + grant.ttl,
                        Extension::Lost => asked,
                    };
                    let gone = wait_until_gone(&server, &key);
                    assert!(
                        believed <= gone,
                        "believed in {:?} too much after a stall of {stall:?}",
                        believed - gone
                    );
                }
            });
        }
    });
}

const LAST_MOMENT: Duration = Duration::from_millis(5);

/// Stops the server for `stall`, and runs `call` during its last part, `waits`. Returns the start
/// of the call and its answer.
fn after_a_stall<T: Send>(
    server: &MemcachedServer,
    stall: Duration,
    waits: Duration,
    call: impl FnOnce() -> T + Send,
) -> (Instant, T) {
    server.pause();
    thread::sleep(stall.saturating_sub(waits));
    thread::scope(|scope| {
        let start = Instant::now();
        let call = scope.spawn(call);
        thread::sleep(waits);
        server.resume();
        (start, call.join().expect("the call is answered"))
    })
}

/// Waits until the key is gone on the server, and returns the time.
fn wait_until_gone(server: &MemcachedServer, key: &str) -> Instant {
    while value(server, key).is_some() {
        thread::sleep(Duration::from_millis(5));
    }
    Instant::now()
}

#[test]
fn a_verified_grant_is_kept_in_full_after_a_stall() {
    let server = may_grant(MemcachedServer::start());
    let verifying = MemcacheDatastore::builder(&server.url()).unwrap();
    let verifying = verifying
        .call_timeout(CALL)
        .connect_timeout(CALL)
        .verify_before_grant(true)
        .build();
    let ttl = Duration::from_secs(3);
    take(&verifying, &key("warm"), ttl);
    for round in 0..2 {
        let key = key("verified");
        let stall = Duration::from_millis(2600 + round * 400);
        let (start, lease) =
            after_a_stall(&server, stall, LAST_MOMENT, || take(&verifying, &key, ttl));
        assert!(lease.grant().ttl >= ttl);
        let lived = wait_until_gone(&server, &key) - start;
        assert!(lived >= ttl, "only {lived:?} after a stall of {stall:?}");
    }
}

#[test]
fn a_guard_ends_no_later_than_the_server_says_after_a_stall() {
    let server = may_grant(MemcachedServer::start());
    let key = key("guarded");
    // The server keeps it for a second or two less. Long before that end the lease was confirmed,
    // also on a busy machine.
    let options = LockOptions::builder()
        .ttl(Duration::from_secs(12))
        .renew(false);
    let id = &key["dlock:".len()..];
    let lock = Lock::with_options(store(&server), id, options).unwrap();
    drop(lock.acquire_within(CALL).unwrap());
    let stall = Duration::from_millis(2700);
    let (_, guard) = after_a_stall(&server, stall, LAST_MOMENT, || {
        lock.acquire_within(CALL).unwrap()
    });
    wait_until_gone(&server, guard.key());
    assert!(!guard.is_valid(), "{:?} left", guard.remaining());
}

#[test]
fn a_flushed_lock_is_lost_and_the_next_token_is_higher() {
    let server = may_grant(MemcachedServer::start());
    let store = store(&server);
    let key = key("flushed");
    let first = take(&store, &key, LONG);
    assert_eq!(server.command("flush_all"), "OK");
    lost(store.extend(&first, LONG));
    lost(store.confirm(&first));
    not_ours(store.release(&first));
    let second = take(&store, &key, LONG);
    assert!(second.fence() > first.fence());
    lost(store.extend(&call(&first, 2), LONG));
    extended(store.extend(&second, LONG));
}

#[test]
fn an_evicted_lock_is_lost_and_the_next_token_is_higher() {
    let server = may_grant(MemcachedServer::start_with(&["-m", "2"]));
    let store = store(&server);
    let key = key("evicted");
    let first = take(&store, &key, LONG);
    // Store values in the size class of a lock's record until the server evicts the record.
    let filling = "x".repeat(value(&server, &key).unwrap().len());
    let mut written = 0;
    // This read does not make the server treat the key as used.
    while server.command(&format!("me {key}")) != "EN" {
        fill(&server, &filling, written..written + 10_000);
        written += 10_000;
        assert!(written < 2_000_000, "it is never evicted");
    }
    let second = take(&store, &key, LONG);
    assert!(second.fence() > first.fence());
    lost(store.extend(&first, LONG));
    not_ours(store.release(&call(&first, 2)));
    extended(store.extend(&second, LONG));
}

fn fill(server: &MemcachedServer, value: &str, numbers: std::ops::Range<u32>) {
    use std::io::{BufRead, BufReader, Write};
    let mut stream = BufReader::new(std::net::TcpStream::connect(server.address()).unwrap());
    let mut request = String::new();
    for number in numbers {
        let length = value.len();
        request += &format!("set dlock:filling-up-{number:08} 0 0 {length} noreply\r\n{value}\r\n");
    }
    request += "mn\r\n";
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_line(&mut answer).unwrap();
    assert_eq!(answer, "MN\r\n");
}

#[test]
fn after_a_restart_that_repeats_the_numbers_the_first_holder_frees_nothing() {
    let mut server = may_grant(MemcachedServer::start());
    let store = store(&server);
    let key = key("restarted");
    let first = take(&store, &key, LONG);
    server.restart();
    wait_until_grown_up(&server);
    let second = take(&store, &key, LONG);
    assert!(second.fence() > first.fence());
    // Both are the first stores of their incarnations, so they have the same CAS number.
    assert_eq!(cas(&server, &key), 1);
    not_ours(store.release(&first));
    lost(store.extend(&call(&first, 2), LONG));
    lost(store.confirm(&call(&first, 2)));
    let batch = [(call(&first, 3), LONG), (call(&second, 1), LONG)];
    let mut answers = store.extend_many(&batch).into_iter();
    lost(answers.next().unwrap());
    extended(answers.next().unwrap());
}

/// The CAS number of the record, which only the meta protocol returns.
fn cas(server: &MemcachedServer, key: &str) -> u64 {
    let answer = server.command(&format!("mg {key} c"));
    answer.strip_prefix("HD c").unwrap().parse().unwrap()
}

#[test]
fn a_server_that_has_just_started_grants_once_it_is_old_enough() {
    let server = MemcachedServer::start();
    let store = store(&server);
    // Open the connection first.
    let inspect = store.inspect().unwrap();
    assert!(inspect.holder(&key("warm")).unwrap().is_none());
    let uptime = || server.stats()["uptime"].parse::<u64>().unwrap();
    let short = claim_within(&key("young"), Duration::from_millis(700));
    let answer = store.acquire(&short, LONG);
    // On a busy machine the server may be old enough by now.
    if uptime() < 4 {
        let error = answer.unwrap_err();
        // Its time may also end before the server was asked.
        let is_young = text(&error).contains("has just started");
        let kind = match is_young {
            true => ErrorKind::Unreachable,
            false => ErrorKind::Timeout,
        };
        assert_eq!(error.kind(), kind, "{}", text(&error));
        assert!(!error.may_have_executed());
        assert_eq!(value(&server, short.key()), None);
    }
    // With more time the call waits.
    let lease = take(&store, &key("old"), LONG);
    assert!(uptime() >= 4);
    ours(store.release(&lease));
}

#[test]
fn tokens_rise_over_four_restarts_within_seconds() {
    let mut server = may_grant(MemcachedServer::start());
    let store = store(&server);
    let key = key("four");
    let mut tokens = vec![take(&store, &key, LONG).fence().unwrap()];
    let mut starts = BTreeMap::new();
    let mut restarts = 0;
    // At least four restarts, and until two of them fall into the same second.
    while restarts < 4 || starts.len() == restarts {
        assert!(restarts < 50, "the restarts take longer than a second each");
        server.restart();
        restarts += 1;
        let stats = server.stats();
        let number = |name: &str| stats[name].parse::<u64>().unwrap();
        *starts.entry(number("time") - number("uptime")).or_insert(0) += 1;
        // One claim on each incarnation. Those that end too early grant nothing.
        let quick = claim_within(&key, Duration::from_millis(50));
        if let Ok(AcquireOutcome::Granted(grant)) = store.acquire(&quick, LONG) {
            tokens.push(fence(&grant));
        }
    }
    wait_until_grown_up(&server);
    tokens.push(take(&store, &key, LONG).fence().unwrap());
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[test]
fn tokens_rise_over_restarts_that_follow_each_grant() {
    let mut server = MemcachedServer::start();
    let store = store(&server);
    let key = key("each");
    let mut tokens = Vec::new();
    for _ in 0..4 {
        // The earliest grant of this incarnation, and at once the next incarnation.
        tokens.push(take(&store, &key, LONG).fence().unwrap());
        server.restart();
    }
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[test]
fn a_server_without_cas_numbers_is_refused_and_keeps_nothing() {
    let server = may_grant(MemcachedServer::start_with(&["-C"]));
    let store = store(&server);
    let key = key("no-cas");
    let error = store.acquire(&claim(&key), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(!error.may_have_executed() && !error.is_transient());
    assert!(text(&error).contains("-C"), "{}", text(&error));
    assert_eq!(value(&server, &key), None);
}

#[test]
fn a_server_that_does_not_evict_is_refused_since_a_refusal_would_delete_locks() {
    let server = may_grant(MemcachedServer::start_with(&["-M", "-m", "2"]));
    let error = store(&server)
        .acquire(&claim(&key("full")), LONG)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(text(&error).contains("-M"), "{}", text(&error));

    // The reason: once the server is full, a store that it refuses deletes the old value.
    let key = key("victim");
    assert_eq!(foreign_add(&server, &key, &"x".repeat(100), 600), "STORED");
    let mut full = 0;
    while full < 100 {
        let answer = foreign_add(
            &server,
            &crate::support::key("filling"),
            &"x".repeat(100),
            600,
        );
        if answer.starts_with("SERVER_ERROR") {
            full += 1;
        }
    }
    assert!(value(&server, &key).is_some());
    let refused = server.command(&format!("ms {key} 100 ME T60\r\n{}", "y".repeat(100)));
    assert!(refused.starts_with("SERVER_ERROR"), "{refused}");
    assert_eq!(value(&server, &key), None, "this server could be allowed");
}

#[test]
fn a_small_server_keeps_locks_that_are_not_evicted() {
    let server = may_grant(MemcachedServer::start_with(&["-m", "2"]));
    let store = store(&server);
    let leases: Vec<_> = (0..200)
        .map(|n| take(&store, &key(&format!("small-{n}")), LONG))
        .collect();
    // Other size classes do not evict them.
    fill(&server, &"x".repeat(4000), 0..2000);
    for lease in leases {
        extended(store.extend(&call(&lease, 1), LONG));
        ours(store.release(&call(&lease, 2)));
    }
}

#[test]
fn a_claim_given_up_before_its_connection_was_answered_is_never_sent() {
    let server = may_grant(MemcachedServer::start());
    let store = store(&server);
    let key = key("backlog");
    server.pause();
    // The system accepts the connection for the stopped server, which does not answer the
    // handshake.
    let claim = claim_within(&key, Duration::from_millis(300));
    let error = store.acquire(&claim, LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
    server.resume();
    assert_eq!(server.command("mn"), "MN");
    thread::sleep(Duration::from_millis(200));
    assert_eq!(value(&server, &key), None);
}

#[test]
fn an_abandoned_claim_that_a_stopped_server_carries_out_later_does_not_keep_this_process_out() {
    let server = may_grant(MemcachedServer::start());
    let store = store(&server);
    let key = key("abandoned");
    ours(store.release(&take(&store, &key, LONG)));
    server.pause();
    // Long enough for a busy machine to send it.
    let given_up = claim_within(&key, Duration::from_secs(4));
    let error = store.acquire(&given_up, LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_have_executed());
    // The server is still stopped when the claim is abandoned.
    let abandoned = given_up.with_not_after(dlock_net_time(Duration::from_millis(300)));
    store.abandon(&abandoned).unwrap_err();
    server.resume();
    // The server continues and stores the claim that was given up.
    let start = Instant::now();
    while value(&server, &key).is_none() {
        assert!(start.elapsed() < CALL, "this server forgets requests");
        thread::sleep(Duration::from_millis(5));
    }
    let before = fence_in_record(&server, &key);
    let lease = take(&store, &key, LONG);
    assert!(lease.fence().unwrap().get() > before);
    ours(store.release(&lease));
}

fn dlock_net_time(after: Duration) -> dlock_core::Time {
    dlock_core::Clock::BOOTTIME.now().saturating_add(after)
}

/// The token of a record that was written once, which follows from its CAS number.
fn fence_in_record(server: &MemcachedServer, key: &str) -> u64 {
    let stats = server.stats();
    let number = |name: &str| stats[name].parse::<u64>().unwrap();
    ((number("time") - number("uptime") - 1_577_836_800) << 22) + cas(server, key)
}

#[test]
fn an_abandoned_claim_that_was_carried_out_holds_nothing() {
    let store = store(server());
    let key = key("abandon");
    let claim = claim(&key);
    granted(store.acquire(&claim, LONG));
    store.abandon(&again(&claim)).unwrap();
    store.abandon(&again(&claim)).unwrap();
    let other = take(&store, &key, LONG);
    store.abandon(&again(&claim)).unwrap();
    extended(store.extend(&other, LONG));
}

#[test]
fn a_claim_repeated_after_it_was_abandoned_is_an_ordinary_claim() {
    let store = store(server());
    let key = key("again");
    let claim = claim(&key);
    granted(store.acquire(&claim, LONG));
    store.abandon(&again(&claim)).unwrap();
    let grant = granted(store.acquire(&again(&claim), LONG));
    held(store.acquire(&crate::support::claim(&key), LONG));
    extended(store.extend(&call(&Lease::new(claim, grant), 1), LONG));
}
