//! What a death, a restart or a lost message costs those who wait.

use std::io::Write as _;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{Datastore, Lock, Store};
use dlock_redis::RedisDatastore;
use dlock_test_servers::faults::{Fault, Proxy};
use dlock_test_servers::{RedisServer, Reply};

use crate::queue::{HEARTBEAT, SOON, lock, lock_at, nothing_is_left, subscriptions, waiting};
use crate::support::*;

/// The process of a waiter that does nothing any more.
const DEAD: &str = "00000000deadbeef";

/// Receives the messages to a process and does nothing, until it is dropped.
fn listens(server: &RedisServer, process: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let subscribe = format!("SUBSCRIBE dlock:wake:{process}\r\n");
    stream.write_all(subscribe.as_bytes()).unwrap();
    until("it is subscribed", || subscriptions(server) > 0);
    stream
}

/// A waiter of a process that died a moment ago, before all others.
fn dead_waiter_before_all(server: &RedisServer, alive_for: Duration) {
    let now = server_micros(server);
    let until = now + i64::try_from(alive_for.as_micros()).unwrap();
    server.command(["ZADD", QUEUE, "1", &format!("{:032x}{DEAD}", 7)]);
    let seen = format!("1 {until} somebody");
    server.command(["HSET", HEARTBEATS, DEAD, &seen]);
    for key in [QUEUE, HEARTBEATS] {
        server.command(["PEXPIRE", key, "10000"]);
    }
    // As an entering waiter marks what the others look at.
    server.command(["SET", FENCE, "1 +"]);
    if server.command(["EXISTS", KEY]) == Reply::Integer(1) {
        server.command(["SETRANGE", KEY, "32", "+"]);
    }
}

fn server_micros(server: &RedisServer) -> i64 {
    match server.command(["TIME"]) {
        Reply::List(parts) => {
            let number = |at: usize| match &parts[at] {
                Reply::Text(digits) => digits.parse::<i64>().unwrap(),
                other => panic!("{other:?}"),
            };
            number(0) * 1_000_000 + number(1)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_free_key_behind_the_queue_of_a_dead_process_is_granted_at_once() {
    let server = RedisServer::start();
    dead_waiter_before_all(&server, Duration::ZERO);
    lock(&server).try_acquire().unwrap().release().unwrap();
    assert_eq!(server.keys(), [FENCE]);
}

/// A waiter that hangs still receives messages: that is how it differs from one that was killed.
#[test]
fn a_waiter_that_hangs_after_its_wake_up_costs_the_others_a_second() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let start = Instant::now();
    dead_waiter_before_all(&server, LONG);
    let _listens = listens(&server, DEAD);
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("it waits", || waiting(&server) == 2);
        let released = Instant::now();
        guard.release().unwrap();
        let refused = lock(&server).try_acquire().unwrap_err();
        assert!(refused.is_held(), "handed to the one that hangs: {refused}");
        let record = server.command(["GET", KEY]).text();
        // Its second may be over before a busy machine has looked.
        if released.elapsed() < HEARTBEAT {
            assert!(record.as_ref().unwrap().contains(DEAD), "{record:?}");
        }
        let won = waiting_thread.join().unwrap().unwrap();
        assert!(released.elapsed() < SOON, "{:?}", released.elapsed());
        won.release().unwrap();
    });
    // It had its turn. Its place is kept for ten seconds, should its process call again.
    let places = waiting(&server);
    assert!(places == 1 || start.elapsed() > HEARTBEAT * 9, "{places}");
    until("the queue is forgotten", || server.keys() == [FENCE]);
}

#[test]
fn a_lost_wake_up_is_found_by_the_next_look() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.address());
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| {
            let store = store_behind(&proxy);
            // One connection for calls, opened before the one that listens.
            warm(&store);
            Lock::new(store, "import").acquire_within(LONG)
        });
        until("it waits", || waiting(&server) == 1);
        server.command(["CLIENT", "KILL", "TYPE", "PUBSUB"]);
        guard.release().unwrap();
        let released = Instant::now();
        waiting_thread.join().unwrap().unwrap().release().unwrap();
        assert!(released.elapsed() < SOON, "{:?}", released.elapsed());
    });
}

#[test]
fn a_subscription_that_is_cut_comes_back() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("it listens", || subscriptions(&server) == 1);
        server.command(["CLIENT", "KILL", "TYPE", "PUBSUB"]);
        until("it listens again", || subscriptions(&server) == 1);
        guard.release().unwrap();
        waiting_thread.join().unwrap().unwrap().release().unwrap();
    });
}

/// Returns between two heartbeats.
fn nothing_passes(proxy: &Proxy) {
    let mut before = proxy.counts();
    until("nothing passes", || {
        thread::sleep(HEARTBEAT / 10);
        proxy.counts() == std::mem::replace(&mut before, proxy.counts())
    });
}

#[test]
fn a_silent_subscription_is_replaced_before_it_is_closed() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.address());
    let guard = lock(&server).try_acquire().unwrap();
    // As 'id=4 addr=…'.
    let listeners = || {
        let clients = server.command(["CLIENT", "LIST", "TYPE", "PUBSUB"]).text();
        let clients = clients.unwrap();
        let id = |client: &str| client.split(' ').next().unwrap().to_owned();
        clients.lines().map(id).collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let waiting_thread =
            scope.spawn(|| Lock::new(store_behind(&proxy), "import").acquire_within(LONG * 2));
        until("it listens", || subscriptions(&server) == 1);
        let Reply::List(channels) = server.command(["PUBSUB", "CHANNELS"]) else {
            panic!("a list of channels")
        };
        let channel = channels[0].text().unwrap();
        let first = listeners();
        until("it waits", || waiting(&server) == 1);
        let mut silenced: Option<Instant> = None;
        until("it listens anew", || {
            // Once more, should a heartbeat have come between.
            if silenced.is_none_or(|at| at.elapsed() > HEARTBEAT * 7) {
                nothing_passes(&proxy);
                proxy.replies_once(Fault::Lose);
                server.command(["PUBLISH", &channel, "ping"]);
                silenced = Some(Instant::now());
            }
            let listeners = listeners();
            assert!(!listeners.is_empty(), "a release would pass it over");
            !listeners.contains(&first[0])
        });
        guard.release().unwrap();
        waiting_thread.join().unwrap().unwrap().release().unwrap();
    });
}

#[test]
fn a_server_that_restarts_empty_while_a_hundred_wait_serves_them_all() {
    let mut server = RedisServer::start();
    let url = server.url();
    let guard = lock_at(&url).try_acquire().unwrap();
    let stores: Vec<_> = (0..4).map(|_| Store::new(patient(&url))).collect();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..100)
            .map(|n| {
                let lock = Lock::new(&stores[n % stores.len()], "import");
                scope.spawn(move || lock.acquire_within(LONG * 3).unwrap().release().unwrap())
            })
            .collect();
        until("all wait", || waiting(&server) == 100);
        server.kill();
        server.start_again();
        for thread in threads {
            thread.join().unwrap();
        }
    });
    drop(guard);
    drop(stores);
    nothing_is_left(&server);
}

#[test]
fn the_lock_of_a_foreign_library_is_taken_soon_after_it_frees_it() {
    let server = RedisServer::start();
    server.command(["SET", KEY, "somebody else's", "NX"]);
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("it waits", || waiting(&server) == 1);
        server.command(["DEL", KEY]);
        let freed = Instant::now();
        waiting_thread.join().unwrap().unwrap().release().unwrap();
        assert!(freed.elapsed() < SOON, "{:?}", freed.elapsed());
    });
}

#[test]
fn a_crashed_holder_is_taken_over_at_the_end_of_its_lease() {
    let server = RedisServer::start();
    // Nobody renews it.
    let claim = claim(KEY);
    let ttl = Duration::from_millis(2500);
    granted(store(&server).acquire(&claim, ttl));
    let granted_at = Instant::now();
    let won = lock(&server).acquire_within(LONG).unwrap();
    let took = granted_at.elapsed();
    assert!(took < ttl + SOON, "{took:?}");
    won.release().unwrap();
}

#[test]
fn waiting_survives_that_the_server_forgot_the_scripts() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("it waits", || waiting(&server) == 1);
        server.command(["SCRIPT", "FLUSH"]);
        guard.release().unwrap();
        waiting_thread.join().unwrap().unwrap().release().unwrap();
    });
    nothing_is_left(&server);
}

#[test]
fn a_stopped_process_loses_its_place_and_comes_back() {
    // Two stores are two processes to the server.
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let proxy = Proxy::to(server.address());
    let stopped: RedisDatastore = RedisDatastore::builder(&format!("redis://{}/", proxy.address()))
        .unwrap()
        .call_timeout(HEARTBEAT)
        .build();
    thread::scope(|scope| {
        let first = scope.spawn(|| Lock::new(stopped, "import").acquire_within(LONG * 2));
        until("one waits", || waiting(&server) == 1);
        let second = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("two wait", || waiting(&server) == 2);
        proxy.requests(Fault::Hold);
        guard.release().unwrap();
        let won = second.join().unwrap().unwrap();
        proxy.heal();
        won.release().unwrap();
        first.join().unwrap().unwrap().release().unwrap();
    });
    assert_eq!(server.keys(), [FENCE]);
}

#[test]
fn marks_that_were_lost_are_set_again_by_a_look() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let waiting_thread = scope.spawn(|| lock(&server).acquire_within(LONG));
        until("it waits", || waiting(&server) == 1);
        // As if only the fence had been evicted; the next grant marks nothing.
        server.command(["DEL", FENCE]);
        guard.release().unwrap();
        waiting_thread.join().unwrap().unwrap().release().unwrap();
    });
    assert_eq!(server.keys(), [FENCE]);
}
