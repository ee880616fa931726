//! What waiters that were killed cost the others.

use std::env;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{Lock, Store};
use dlock_test_servers::RedisServer;

use crate::queue::{SOON, lock, lock_at, subscriptions, waiting};
use crate::support::*;

/// With this set, the test of the same name as a function below is a process that waits until it is
/// killed.
const WAITS_AT: &str = "DLOCK_TEST_WAITS_AT";

/// How long ago the killed ones called.
#[derive(Clone, Copy, Debug)]
enum Called {
    JustNow,
    LongAgo,
}

/// Puts waiters of as many processes, which were killed, at the end of the queue.
fn killed_waiters(server: &RedisServer, first: usize, count: usize, called: Called) {
    let script = "local time = redis.call('TIME')
        local now = time[1] * 1000000 + time[2]
        for n = tonumber(ARGV[1]), tonumber(ARGV[2]) do
          local process = string.format('dead%012x', n)
          redis.call('ZADD', KEYS[3], now + n, string.format('%032x', n) .. process)
          redis.call('HSET', KEYS[4], process, string.format('1 %.0f somebody', now + ARGV[3]))
        end
        redis.call('PEXPIRE', KEYS[3], 10000)
        redis.call('PEXPIRE', KEYS[4], 10000)
        local fence, record = redis.call('GET', KEYS[2]), redis.call('GET', KEYS[1])
        redis.call('SET', KEYS[2], string.match(fence or '0', '^%d+') .. ' +')
        if record then redis.call('SETRANGE', KEYS[1], 32, '+') end";
    let (from, to) = (first.to_string(), (first + count - 1).to_string());
    let alive_for = match called {
        Called::JustNow => "2500000",
        Called::LongAgo => "-1",
    };
    server.command([
        "EVAL", script, "4", KEY, FENCE, QUEUE, HEARTBEATS, &from, &to, alive_for,
    ]);
}

/// As many of both kinds.
fn counted<const N: usize>(counts: [usize; N]) -> impl Iterator<Item = (usize, Called)> {
    let kinds = |count| [Called::JustNow, Called::LongAgo].map(|called| (count, called));
    counts.into_iter().flat_map(kinds)
}

#[test]
fn the_waiter_behind_any_number_of_killed_ones_is_the_next() {
    for (dead, called) in counted([1, 5, 20, 64, 65, 200, 5000]) {
        let server = RedisServer::start();
        let guard = lock(&server).try_acquire().unwrap();
        killed_waiters(&server, 0, dead, called);
        thread::scope(|scope| {
            let waits = scope.spawn(|| lock(&server).acquire_within(LONG).unwrap());
            until("it waits", || {
                waiting(&server) > i64::try_from(dead).unwrap()
            });
            server.reset_calls();
            guard.release().unwrap();
            let record = server.command(["GET", KEY]).text().unwrap_or_default();
            assert!(!record.contains("@dead"), "{dead} {called:?}: {record}");
            let publishes = server.calls()["publish"];
            // The release tries each of them once, and the claim notifies nobody.
            assert!(publishes <= dead as u64 + 3, "{publishes} for {dead}");
            waits.join().unwrap().release().unwrap();
        });
    }
}

/// A free lock behind more dead waiters than are read at a time still belongs to the live one
/// behind them.
#[test]
fn a_newcomer_does_not_overtake_a_live_waiter_behind_many_dead_ones() {
    for (dead, called) in counted([64, 65, 101, 1000]) {
        let server = RedisServer::start();
        let guard = lock(&server).try_acquire().unwrap();
        killed_waiters(&server, 0, dead, called);
        thread::scope(|scope| {
            let waits = scope.spawn(|| lock(&server).acquire_within(LONG).unwrap());
            until("it waits", || {
                waiting(&server) > i64::try_from(dead).unwrap()
            });
            // As if the lease had just ended.
            server.command(["DEL", KEY]);
            let refused = lock(&server).try_acquire().unwrap_err();
            assert!(refused.is_held(), "{dead} {called:?}: {refused}");
            waits.join().unwrap().release().unwrap();
        });
        drop(guard);
    }
}

#[test]
fn a_free_lock_behind_dead_waiters_only_is_granted_at_once_and_they_are_forgotten() {
    let server = RedisServer::start();
    killed_waiters(&server, 0, 300, Called::JustNow);
    lock(&server).try_acquire().unwrap().release().unwrap();
    // They keep their places for a moment, should they only subscribe anew.
    until("they are forgotten", || {
        lock(&server).try_acquire().unwrap().release().unwrap();
        server.keys() == [FENCE]
    });
}

/// The test that a child process runs: it waits for the lock until it is killed.
#[test]
fn waits_until_it_is_killed() {
    let Ok(url) = env::var(WAITS_AT) else { return };
    drop(lock_at(&url).acquire_within(Duration::from_secs(600)));
}

/// A process that waits for the lock.
fn waiter(server: &RedisServer) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "dead_waiters::waits_until_it_is_killed"])
        .env(WAITS_AT, server.url())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn processes_that_are_killed_while_they_wait_cost_the_next_one_nothing() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let children: Vec<_> = (1..=5)
        .map(|n| {
            let child = waiter(&server);
            until("it waits", || waiting(&server) == n);
            child
        })
        .collect();
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server).acquire_within(LONG).unwrap());
        until("all wait", || waiting(&server) == 6);
        children.into_iter().for_each(kill);
        until("the server knows", || subscriptions(&server) == 1);
        guard.release().unwrap();
        let record = server.command(["GET", KEY]).text().unwrap();
        let won = waits.join().unwrap();
        let claimed = server.command(["GET", KEY]).text().unwrap();
        assert_eq!(record[..32], claimed[..32], "nobody was handed it before");
        won.release().unwrap();
    });
}

/// It is killed between the hand-over and its claim: that costs the next one its second at most.
#[test]
fn what_was_handed_to_a_process_that_died_since_goes_to_the_next_who_asks() {
    let server = RedisServer::start();
    let record = loop {
        let guard = lock(&server).acquire_within(LONG).unwrap();
        killed_waiters(&server, 7, 1, Called::JustNow);
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream
            .write_all(b"SUBSCRIBE dlock:wake:dead000000000007\r\n")
            .unwrap();
        until("it listens", || subscriptions(&server) == 1);
        guard.release().unwrap();
        let record = server.command(["GET", KEY]).text();
        drop(stream);
        until("it is gone", || subscriptions(&server) == 0);
        // Its second may be over before a busy machine has looked.
        if let Some(record) = record {
            break record;
        }
    };
    assert!(record.contains("@dead000000000007"), "{record}");
    let (before, start) = (server.command(["PTTL", KEY]), Instant::now());
    lock(&server)
        .acquire_within(LONG)
        .unwrap()
        .release()
        .unwrap();
    assert!(start.elapsed() < SOON, "{before:?}");
}

#[test]
fn waiters_that_crash_in_a_loop_leave_a_worker_most_of_its_grants() {
    const SLICE: Duration = Duration::from_secs(2);
    let server = RedisServer::start();
    let (over, grants) = (AtomicBool::new(false), AtomicUsize::new(0));
    let store = Store::new(store(&server));
    thread::scope(|scope| {
        let worker = || {
            while !over.load(Ordering::SeqCst) {
                let guard = Lock::new(&store, "import").acquire_within(LONG).unwrap();
                grants.fetch_add(1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(20));
                drop(guard);
            }
        };
        let works = scope.spawn(worker);
        let slice = |crashes: bool| {
            let (before, start) = (grants.load(Ordering::SeqCst), Instant::now());
            let mut number = 0;
            while start.elapsed() < SLICE {
                if crashes {
                    killed_waiters(&server, number, 1, Called::JustNow);
                    number += 1;
                }
                thread::sleep(Duration::from_millis(10));
            }
            grants.load(Ordering::SeqCst) - before
        };
        let (mut alone, mut beside) = (0, 0);
        for _ in 0..5 {
            alone += slice(false);
            beside += slice(true);
        }
        over.store(true, Ordering::SeqCst);
        works.join().unwrap();
        assert!(beside * 2 >= alone, "{beside} of {alone} grants");
    });
}

/// Real processes, which are killed at any moment but while they hold the lock.
#[test]
fn processes_that_crash_in_a_loop_while_they_wait_leave_a_worker_most_of_its_grants() {
    const TURNS: u32 = 10;
    const HOLD: Duration = Duration::from_millis(500);
    let server = RedisServer::start();
    let worker = lock(&server);
    let mut guard = worker.try_acquire().unwrap();
    let mut paused = Duration::ZERO;
    for turn in 1..=TURNS {
        let child = waiter(&server);
        until("it waits", || waiting(&server) > 0);
        // At another moment of its life each time.
        thread::sleep(HOLD * turn / TURNS);
        kill(child);
        let start = Instant::now();
        guard.release().unwrap();
        guard = worker.acquire_within(LONG).unwrap();
        paused += start.elapsed();
    }
    // Of turns as long as that it would have at least half as many as alone.
    assert!(paused <= HOLD * TURNS, "{paused:?} without the lock");
}

#[test]
fn a_process_that_subscribes_anew_keeps_its_place() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            let guard = lock(&server).acquire_within(LONG * 2).unwrap();
            let token = guard.fencing_token();
            guard.release().unwrap();
            token
        });
        until("one waits", || waiting(&server) == 1);
        let second = scope.spawn(|| lock(&server).acquire_within(LONG * 2).unwrap());
        until("two wait", || waiting(&server) == 2);
        let place = server.command(["ZRANGE", QUEUE, "0", "0"]);
        server.command(["CLIENT", "KILL", "TYPE", "PUBSUB"]);
        until("both listen again", || subscriptions(&server) == 2);
        assert_eq!(server.command(["ZRANGE", QUEUE, "0", "0"]), place);
        guard.release().unwrap();
        let second = second.join().unwrap();
        assert!(first.join().unwrap() < second.fencing_token());
        second.release().unwrap();
    });
}
