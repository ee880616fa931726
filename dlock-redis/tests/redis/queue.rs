//! Who waits is queued in the server, and woken by the release before its turn.

use crate::support::*;
use dlock_core::{AcquireError, Datastore, ErrorKind, Lock, LockOptions, Signal, Store};
use dlock_test_servers::{RedisServer, Reply};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// For what takes a second, on a machine with more work than cores.
pub(crate) const SOON: Duration = Duration::from_secs(6);

/// How often a waiting process heartbeats.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(1);

pub(crate) fn lock_at(url: &str) -> Lock {
    Lock::new(patient(url), "import")
}

pub(crate) fn lock(server: &RedisServer) -> Lock {
    lock_at(&server.url())
}

pub(crate) fn waiting(server: &RedisServer) -> i64 {
    server.command(["ZCARD", QUEUE]).integer().unwrap()
}

pub(crate) fn subscriptions(server: &RedisServer) -> usize {
    let clients = format!("{:?}", server.command(["CLIENT", "LIST", "TYPE", "PUBSUB"]));
    clients.matches("cmd=subscribe").count()
}

/// Everything that waiting needed is gone but for the fence.
pub(crate) fn nothing_is_left(server: &RedisServer) {
    assert_eq!(server.keys(), [FENCE]);
    until("the subscriptions end with the stores", || {
        subscriptions(server) == 0
    });
}

#[test]
fn a_release_wakes_the_waiter_and_nothing_is_left() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let first = guard.fencing_token().unwrap();
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("it waits", || waiting(&server) == 1);
        assert_eq!(server.keys(), [KEY, FENCE, HEARTBEATS, QUEUE]);
        guard.release().unwrap();
        let won = waiting_thread.join().unwrap().unwrap();
        assert!(won.fencing_token().unwrap() > first);
        assert_eq!(server.keys(), [KEY, FENCE]);
        let left = server.command(["PTTL", KEY]).integer().unwrap();
        assert!(left > 25_000, "for its whole time to live: {left}");
        won.release().unwrap();
    });
    nothing_is_left(&server);
}

#[test]
fn fifty_waiters_of_five_processes_are_served_in_the_order_of_their_coming() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let stores: Vec<_> = (0..5).map(|_| Store::new(store(&server))).collect();
    let (served, order) = mpsc::channel();
    thread::scope(|scope| {
        for n in 0..50 {
            let (served, store) = (served.clone(), &stores[n % stores.len()]);
            scope.spawn(move || {
                let guard = Lock::new(store, "import").acquire_within(LONG * 2).unwrap();
                served.send(n).unwrap();
                guard.release().unwrap();
            });
            until("it waits", || {
                waiting(&server) == i64::try_from(n).unwrap() + 1
            });
        }
        guard.release().unwrap();
    });
    drop(served);
    let order: Vec<_> = order.iter().collect();
    assert_eq!(order, (0..50).collect::<Vec<_>>());
    drop(stores);
    nothing_is_left(&server);
}

#[test]
fn nobody_starves_over_ten_thousand_hand_overs() {
    const GRANTS: usize = 10_000;
    const THREADS: usize = 20;
    let server = RedisServer::start();
    let stores: Vec<_> = (0..5).map(|_| Store::new(store(&server))).collect();
    let grants = AtomicUsize::new(0);
    let contend = |store: &Store| {
        let lock = Lock::new(store, "import");
        let (mut own, mut longest) = (0, 0);
        loop {
            let before = grants.load(Ordering::SeqCst);
            if before >= GRANTS {
                return (own, longest);
            }
            let guard = lock.acquire_within(LONG * 3).unwrap();
            let others = grants.fetch_add(1, Ordering::SeqCst) - before;
            guard.release().unwrap();
            (own, longest) = (own + 1, longest.max(others));
        }
    };
    let served: Vec<(usize, usize)> = thread::scope(|scope| {
        let (contend, stores) = (&contend, &stores);
        let start = |n| scope.spawn(move || contend(&stores[n % stores.len()]));
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.collect()
    });
    for (own, longest) in served {
        // A fair share is 500, and 19 others come before. A thread that is not run by the system
        // misses turns all the same.
        assert!(own > GRANTS / THREADS / 4, "{own} grants");
        assert!(longest < GRANTS / 4, "{longest} others came before");
    }
}

#[test]
fn a_hand_over_is_at_most_four_commands_however_many_wait() {
    for waiters in [1, 10, 100] {
        // The least of some runs: if the server does not answer a heartbeat in time, all claim.
        let more = (0..3).map(|_| commands_more_than_four_each(waiters)).min();
        assert!(more <= Some(20), "{more:?} more with {waiters} waiters");
    }
}

/// The commands of some hand-overs beyond four of each, and the heartbeats.
fn commands_more_than_four_each(waiters: usize) -> u64 {
    let server = RedisServer::start();
    let stores: Vec<_> = (0..2).map(|_| Store::new(store(&server))).collect();
    for store in &stores {
        let warm = Lock::new(store, "warm").try_acquire().unwrap();
        warm.release().unwrap();
    }
    let rounds = 200 / waiters;
    server.reset_calls();
    let start = Instant::now();
    thread::scope(|scope| {
        for n in 0..=waiters {
            let lock = Lock::new(&stores[n % stores.len()], "import");
            scope.spawn(move || {
                for _ in 0..rounds {
                    lock.acquire_within(LONG * 3).unwrap().release().unwrap();
                }
            });
        }
    });
    let acquired = u64::try_from((waiters + 1) * rounds).unwrap();
    // Each of the two processes looks once a second, and once when it begins.
    let heartbeats = 2 * (start.elapsed().as_secs() + 2);
    let calls = server.calls();
    // The text of a script is sent by the client that finds it missing.
    let sent = calls["evalsha"] + calls.get("eval").copied().unwrap_or(0);
    sent.saturating_sub(4 * acquired + heartbeats)
}

/// Checks that a waiting process sends a command a second, over the time of some heartbeats. If the
/// server does not answer one in time, all waiters claim, so the best of some tries counts.
fn a_command_a_second_is_sent(server: &RedisServer, heartbeats: u32) {
    let mut seen = Vec::new();
    let is_seen = (0..5).any(|_| {
        server.reset_calls();
        let start = Instant::now();
        thread::sleep(HEARTBEAT * heartbeats);
        let sent = evalshas(server);
        let seconds = start.elapsed().as_secs() + 1;
        seen.push((sent, seconds));
        (1..=seconds).contains(&sent)
    });
    assert!(is_seen, "commands and seconds: {seen:?}");
}

#[test]
fn while_nothing_happens_a_process_sends_a_command_a_second_on_one_more_connection() {
    let server = RedisServer::start();
    // No renewal comes between the heartbeats.
    let options = LockOptions::builder().ttl(LONG * 60);
    let holder = Lock::with_options(store(&server), "import", options).unwrap();
    let guard = holder.try_acquire().unwrap();
    let store = Store::new(store(&server));
    thread::scope(|scope| {
        for _ in 0..100 {
            let lock = Lock::new(&store, "import");
            scope.spawn(move || lock.acquire_within(LONG * 3).unwrap().release().unwrap());
        }
        until("all wait", || waiting(&server) == 100);
        thread::sleep(HEARTBEAT);
        until("it listens", || subscriptions(&server) == 1);
        a_command_a_second_is_sent(&server, 5);
        guard.release().unwrap();
    });
}

#[test]
fn who_only_tries_does_not_overtake() {
    let server = RedisServer::start();
    let (newcomer, holder) = (lock(&server), lock(&server));
    let guard = holder.try_acquire().unwrap();
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("it waits", || waiting(&server) == 1);
        // As if a lease had just ended, or a foreign client had deleted the key.
        server.command(["DEL", KEY]);
        let refused = newcomer.try_acquire().unwrap_err();
        assert!(refused.is_held(), "{refused}");
        waiting_thread.join().unwrap().unwrap().release().unwrap();
    });
    drop(guard);
    newcomer.try_acquire().unwrap().release().unwrap();
}

#[test]
fn a_release_counts_whatever_stands_where_the_queue_should() {
    let server = RedisServer::start();
    let store = store(&server);
    let lease = acquired(&store, &claim(KEY));
    server.command(["SETRANGE", KEY, "32", "+"]);
    server.command(["SET", QUEUE, "not a queue"]);
    assert!(released(&store, &lease));
    assert_eq!(server.command(["EXISTS", KEY]), Reply::Integer(0));
}

#[test]
fn behind_a_holder_without_end_a_process_sends_a_command_a_second_as_well() {
    let server = RedisServer::start();
    server.command(["SET", KEY, "somebody else's", "NX"]);
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| lock(&server).acquire_within(LONG * 3));
        until("it waits", || waiting(&server) == 1);
        thread::sleep(HEARTBEAT);
        a_command_a_second_is_sent(&server, 4);
        server.command(["DEL", KEY]);
        waiting_thread.join().unwrap().unwrap().release().unwrap();
    });
}

#[test]
fn an_end_that_is_sooner_than_the_next_look_is_told() {
    let server = RedisServer::start();
    let holder = store(&server);
    let lease = acquired(&holder, &claim(KEY));
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("it waits", || waiting(&server) == 1);
        server.reset_calls();
        let short = Duration::from_millis(100);
        assert_eq!(extend(&holder, &lease, 2, short), Some(short));
        assert!(server.calls()["publish"] >= 1, "the extend notified nobody");
        waiting_thread.join().unwrap().unwrap().release().unwrap();
    });
}

#[test]
fn who_gives_up_leaves_the_queue_and_hands_on() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let (impatient, patient_one) = (store(&server), lock(&server));
    thread::scope(|scope| {
        let gives_up = scope.spawn(|| Lock::new(impatient.clone(), "import").acquire_within(SOON));
        until("one waits", || waiting(&server) == 1);
        let waits = scope.spawn(|| patient_one.acquire_within(LONG));
        until("two wait", || waiting(&server) == 2);
        let error = gives_up.join().unwrap().unwrap_err();
        assert!(matches!(error, AcquireError::Held(_)), "{error}");
        assert_eq!(waiting(&server), 1);
        guard.release().unwrap();
        waits.join().unwrap().unwrap().release().unwrap();
    });

    // Handed the lock, it does not want it any more.
    let lease = acquired(&impatient, &claim(KEY));
    let late = claim(KEY).with_deadline(dlock_core::Clock::BOOTTIME.now().saturating_add(LONG));
    let watch = impatient.watch(&late, &Signal::new()).unwrap().unwrap();
    refused(impatient.acquire(&late, TTL));
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("two wait", || waiting(&server) == 2);
        assert!(released(&impatient, &lease));
        drop(watch);
        waits.join().unwrap().unwrap().release().unwrap();
    });
    assert_eq!(server.keys(), [FENCE]);
}

/// Found in the design: a message or a look that comes late must not make a process give a lock up
/// that it holds.
#[test]
fn dropping_the_interest_after_the_grant_frees_nothing() {
    let server = RedisServer::start();
    let store = store(&server);
    let claim = claim(KEY).with_deadline(dlock_core::Clock::BOOTTIME.now().saturating_add(LONG));
    let watch = store.watch(&claim, &Signal::new()).unwrap().unwrap();
    granted(store.acquire(&claim, TTL));
    server.reset_calls();
    drop(watch);
    assert_eq!(evalshas(&server), 0, "and sends nothing");
    assert_eq!(server.keys(), [KEY, FENCE]);
}

#[test]
fn a_hand_over_is_no_lease_until_it_is_claimed() {
    let server = RedisServer::start();
    let holder = store(&server);
    let lease = acquired(&holder, &claim(KEY));
    let waiter = store(&server);
    let late = claim(KEY).with_deadline(dlock_core::Clock::BOOTTIME.now().saturating_add(LONG));
    let signal = Signal::new();
    let watch = waiter.watch(&late, &signal).unwrap().unwrap();
    refused(waiter.acquire(&late, TTL));
    assert!(released(&holder, &lease));
    let left = server.command(["PTTL", KEY]).integer().unwrap();
    assert!(left <= 1200, "{left}");
    let grant = granted(waiter.acquire(&late, TTL));
    assert_eq!(grant.ttl, TTL);
    // Renewals of the holder before change nothing any more.
    assert_eq!(extend(&holder, &lease, 9, TTL), None);
    drop(watch);
}

#[test]
fn one_more_than_ten_thousand_waiters_is_refused_and_may_come_again() {
    let server = RedisServer::start();
    let store = store(&server);
    let _lease = acquired(&store, &claim(KEY));
    let add_many = "for n = 1, 10000 do redis.call('ZADD', KEYS[1], n, n) end";
    server.command(["EVAL", add_many, "1", QUEUE]);
    let late = claim(KEY).with_deadline(dlock_core::Clock::BOOTTIME.now().saturating_add(LONG));
    let _watch = store.watch(&late, &Signal::new()).unwrap().unwrap();
    let error = store.acquire(&late, TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.is_transient() && !error.may_have_executed());
}

#[test]
fn a_store_that_is_dropped_stops_listening() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let store = store(&server);
    let lock = Lock::new(store.clone(), "import");
    assert!(lock.acquire_within(HEARTBEAT * 3).unwrap_err().is_held());
    until("it listens", || subscriptions(&server) == 1);
    drop((lock, store));
    until("nobody listens", || subscriptions(&server) == 0);
    guard.release().unwrap();
}

#[test]
fn a_full_server_hands_over_all_the_same() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("it waits", || waiting(&server) == 1);
        server.config_set("maxmemory", "1");
        guard.release().unwrap();
        // The release wrote before it handed over; the waiter's claim is refused while the server
        // is full.
        server.config_set("maxmemory", "0");
        waiting_thread.join().unwrap().unwrap().release().unwrap();
    });
}

#[test]
fn min_hold_that_ends_early_wakes_the_next() {
    let server = RedisServer::start();
    let options = LockOptions::builder().min_hold(Duration::from_millis(400));
    let holder = Lock::with_options(store(&server), "import", options).unwrap();
    let guard = holder.try_acquire().unwrap();
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("it waits", || waiting(&server) == 1);
        let released = Instant::now();
        guard.release().unwrap();
        waiting_thread.join().unwrap().unwrap().release().unwrap();
        assert!(released.elapsed() < SOON, "{:?}", released.elapsed());
    });
}

#[test]
fn the_marks_of_a_queue_that_is_gone_go_with_the_next_grant() {
    let server = RedisServer::start();
    let store = store(&server);
    server.command(["SET", FENCE, "5 +"]);
    let lease = acquired(&store, &claim(KEY));
    assert!(fence_of(&lease) > 5);
    let fence = fence_of(&lease).to_string();
    assert_eq!(server.command(["GET", FENCE]), Reply::Text(fence));
    server.reset_calls();
    assert!(released(&store, &lease));
    assert_eq!(
        server.calls().get("exists"),
        None,
        "nobody waits, nobody looks"
    );
}
