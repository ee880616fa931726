//! Whatever old state of the data comes back, grants go on: a replica that lagged and took over, a
//! file from a moment before, or single keys.

use std::fs;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use dlock_core::{Clock, Datastore, Lock, LockOptions, OnceOutcome, Signal, Store};
use dlock_test_servers::RedisServer;
use dlock_test_servers::faults::{Fault, Proxy};

use crate::contention::Contention;
use crate::queue::{HEARTBEAT, lock, waiting};
use crate::support::*;

/// At a turn each second, as before this was mended, there are twenty in the time that is waited.
const MANY: usize = 60;

const ALL: [&str; 4] = [KEY, FENCE, HEARTBEATS, QUEUE];

/// Saves keys, each with the end that it has, in one step as a replica or a file has them.
const SAVE: &str = "local time = redis.call('TIME')
    for _, key in ipairs(KEYS) do
      local saved = redis.call('DUMP', key)
      redis.call('DEL', 'copy:' .. key)
      if saved then
        local ends = time[1] * 1000 + time[2] / 1000 + redis.call('PTTL', key)
        redis.call('HSET', 'copy:' .. key, 'saved', saved, 'ends', string.format('%.0f', ends))
      end
    end";
/// Brings them back as they were then.
const BRING_BACK: &str = "for _, key in ipairs(KEYS) do
      redis.call('DEL', key)
      local saved, ends = unpack(redis.call('HMGET', 'copy:' .. key, 'saved', 'ends'))
      if saved then redis.call('RESTORE', key, ends, saved, 'ABSTTL') end
    end";

fn run(server: &RedisServer, script: &str, keys: &[&str]) {
    let count = keys.len().to_string();
    let mut words = vec!["EVAL", script, &count];
    words.extend(keys);
    server.command(words);
}

fn save(server: &RedisServer, keys: &[&str]) {
    run(server, SAVE, keys);
}

fn bring_back(server: &RedisServer, keys: &[&str]) {
    run(server, BRING_BACK, keys);
}

/// Grants go on after these keys came back from so long ago, some times over.
fn grants_go_on_after(keys: &[&str]) {
    let server = RedisServer::start();
    Contention::of_two(&server.url(), 2, |contention| {
        for millis in [100, 250, 500, 700, 1500, 4000] {
            save(&server, keys);
            thread::sleep(Duration::from_millis(millis));
            bring_back(&server, keys);
            contention.goes_on(MANY, &format!("{keys:?} as of {millis} ms before"));
        }
    });
}

/// The smallest example: it was 173 grants a second before, one after, and never healed.
#[test]
fn an_old_copy_of_the_queue_stops_nothing() {
    let server = RedisServer::start();
    Contention::of_two(&server.url(), 1, |contention| {
        save(&server, &[QUEUE]);
        thread::sleep(Duration::from_millis(500));
        bring_back(&server, &[QUEUE]);
        contention.goes_on(MANY, "with a queue of half a second ago");
    });
}

#[test]
fn grants_go_on_after_an_old_lock_came_back() {
    grants_go_on_after(&[KEY]);
}

#[test]
fn grants_go_on_after_an_old_fence_came_back() {
    grants_go_on_after(&[FENCE]);
}

#[test]
fn grants_go_on_after_an_old_queue_came_back() {
    grants_go_on_after(&[QUEUE]);
}

#[test]
fn grants_go_on_after_old_heartbeats_came_back() {
    grants_go_on_after(&[HEARTBEATS]);
}

#[test]
fn grants_go_on_after_everything_came_back() {
    grants_go_on_after(&ALL);
}

#[test]
fn grants_go_on_after_a_lagging_replica_took_over() {
    let primary = RedisServer::start();
    let replica = RedisServer::start();
    let link = Proxy::to(primary.address());
    let port = link.address().port().to_string();
    replica.command(["REPLICAOF", "127.0.0.1", &port]);
    until("the replica has what the primary has", || {
        let info = replica.command(["INFO", "replication"]).text().unwrap();
        info.contains("master_link_status:up")
    });
    let entry = Entry::to(primary.address());
    Contention::of_two(&entry.url(), 2, |contention| {
        contention.goes_on(MANY, "at the primary");
        // From now on it lags.
        link.refuse();
        link.cut();
        thread::sleep(Duration::from_millis(500));
        replica.command(["REPLICAOF", "NO", "ONE"]);
        entry.leads_to(replica.address());
        contention.goes_on(MANY, "at the replica");
    });
}

#[test]
fn grants_go_on_after_a_file_of_a_moment_before_came_back() {
    let mut server = RedisServer::builder()
        .config("appendonly", "yes")
        .config("appendfsync", "everysec")
        .start();
    let folder = server.socket().parent().unwrap().to_owned();
    let (data, old) = (folder.join("appendonlydir"), folder.join("old"));
    Contention::of_two(&server.url(), 2, |contention| {
        contention.goes_on(MANY, "with a file");
        copy(&data, &old);
        thread::sleep(Duration::from_millis(700));
        server.kill();
        fs::remove_dir_all(&data).unwrap();
        fs::rename(&old, &data).unwrap();
        server.start_again();
        contention.goes_on(MANY, "with the file of a moment before");
    });
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// An address that leads to one server, and later to another.
struct Entry {
    address: SocketAddr,
    target: Arc<Mutex<(SocketAddr, Vec<TcpStream>)>>,
}

impl Entry {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new((server, Vec::new())));
        let here = Arc::clone(&target);
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let mut target = here.lock().unwrap();
                let Ok(server) = TcpStream::connect(target.0) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || forward(from, to));
                }
                target.1.extend([client, server]);
            }
        });
        Entry { address, target }
    }

    fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    fn leads_to(&self, server: SocketAddr) {
        let mut target = self.target.lock().unwrap();
        target.0 = server;
        for stream in target.1.drain(..) {
            // It may have ended already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn the_lock_of_a_process_that_released_it_is_freed_by_that_process() {
    let server = RedisServer::start();
    let stores = [(); 2].map(|()| Store::new(store(&server)));
    // Both have waited, so both receive messages and are named by their records.
    let first = Lock::new(&stores[0], "import").try_acquire().unwrap();
    thread::scope(|scope| {
        for store in &stores {
            let server = &server;
            scope.spawn(move || {
                let guard = Lock::new(store, "import").acquire_within(LONG).unwrap();
                save(server, &[KEY]);
                guard.release().unwrap();
            });
        }
        until("both wait", || waiting(&server) == 2);
        first.release().unwrap();
    });
    bring_back(&server, &[KEY]);
    let left = server.command(["PTTL", KEY]).integer().unwrap();
    assert!(left > 25_000, "it would last for its time to live: {left}");
    let guard = Lock::new(&stores[0], "import")
        .acquire_within(LONG)
        .unwrap();
    guard.release().unwrap();
}

#[test]
fn a_release_on_its_way_is_not_overtaken_by_an_answer_of_its_own_process() {
    let server = RedisServer::start();
    let proxy = Proxy::to(server.address());
    let here = patient(&format!("redis://{}/", proxy.address()));
    let (here, there) = (Store::new(here), Store::new(store(&server)));
    let first = Lock::new(&there, "import").try_acquire().unwrap();
    let waits = |store| Lock::new(store, "import").acquire_within(LONG).unwrap();
    thread::scope(|scope| {
        let holds = scope.spawn(|| waits(&here));
        until("one waits", || waiting(&server) == 1);
        first.release().unwrap();
        let guard = holds.join().unwrap();
        let next = scope.spawn(|| waits(&there));
        until("the next one waits", || waiting(&server) == 1);
        // Its record names this process, which the next one's looks ask about it all the while.
        proxy.requests_once(Fault::Delay(HEARTBEAT * 3));
        assert!(guard.release().is_ok(), "the lease had half a minute left");
        next.join().unwrap().release().unwrap();
    });
}

#[test]
fn a_lock_that_is_kept_or_a_job_that_is_done_is_not_freed_when_its_process_is_asked() {
    let server = RedisServer::start();
    let stores = [(); 2].map(|()| Store::new(store(&server)));
    let options = LockOptions::builder().min_hold(HEARTBEAT * 12);
    let keeps = Lock::with_options(&stores[0], "import", options).unwrap();
    let first = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let kept = scope.spawn(|| keeps.acquire_within(LONG).unwrap());
        until("one waits", || waiting(&server) == 1);
        first.release().unwrap();
        let kept = kept.join().unwrap();
        let token = kept.fencing_token();
        kept.release().unwrap();
        let named = server.command(["GET", KEY]).text().unwrap();
        assert!(named[32..60].contains('@'), "the process is named: {named}");

        server.reset_calls();
        let next = Lock::new(&stores[1], "import");
        let waits = scope.spawn(move || next.acquire_within(LONG * 2).unwrap());
        until("the process was asked", || {
            server.calls().get("publish") >= Some(&2)
        });
        assert_eq!(
            server.command(["GET", KEY]).text(),
            Some(named.replacen(' ', "+", 1))
        );
        let won = waits.join().unwrap();
        assert!(won.fencing_token() > token);
        won.release().unwrap();
    });
}

#[test]
fn who_waits_and_is_missing_in_an_old_queue_queues_again_and_the_others_keep_their_order() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let stores = [(); 3].map(|()| Store::new(store(&server)));
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let wait = |n: usize| {
            let (store, order) = (&stores[n % 3], &order);
            scope.spawn(move || {
                let guard = Lock::new(store, "import").acquire_within(LONG * 2).unwrap();
                order.lock().unwrap().push(n);
                guard.release().unwrap();
            });
            until("it waits", || {
                waiting(&server) == i64::try_from(n).unwrap() + 1
            });
        };
        (0..6).for_each(wait);
        save(&server, &[QUEUE]);
        (6..9).for_each(wait);
        bring_back(&server, &[QUEUE]);
        assert_eq!(waiting(&server), 6);
        until("the last three are in the queue again", || {
            waiting(&server) == 9
        });
        guard.release().unwrap();
    });
    let order = order.into_inner().unwrap();
    assert_eq!(order[..6], [0, 1, 2, 3, 4, 5]);
    assert_eq!(order.len(), 9);
}

/// A waiter is handed the lock, and an old fence comes back before it claims.
#[test]
fn a_waiter_that_was_handed_the_lock_before_an_old_fence_came_back_gets_a_higher_token() {
    let server = RedisServer::start();
    let holder = store(&server);
    let before = acquired(&holder, &claim(KEY));
    save(&server, &[FENCE]);
    assert!(released(&holder, &before));
    let lease = acquired(&holder, &claim(KEY));
    let waiter = store(&server);
    let waits = claim(KEY).with_deadline(Clock::BOOTTIME.now().saturating_add(LONG));
    let _watch = waiter.watch(&waits, &Signal::new()).unwrap().unwrap();
    refused(waiter.acquire(&waits, TTL));
    assert!(released(&holder, &lease));
    bring_back(&server, &[FENCE]);
    let grant = granted(waiter.acquire(&waits, TTL));
    assert!(grant.fence.unwrap().get() > fence_of(&lease));
}

#[test]
fn a_mark_of_a_job_that_is_done_stays_though_its_process_is_asked() {
    let server = RedisServer::start();
    let stores = [(); 2].map(|()| Store::new(store(&server)));
    let day = Duration::from_secs(86_400);
    let once = |store: &Store| {
        let wait = dlock_core::Wait::within(LONG);
        let lock = Lock::new(store, "import");
        lock.once_with(&wait, "hour", day, |_| Ok::<_, ()>(()))
    };
    let first = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let runs = [0, 1].map(|n| {
            let store = &stores[n];
            scope.spawn(move || once(store).unwrap().unwrap())
        });
        until("both wait", || waiting(&server) == 2);
        first.release().unwrap();
        let ended = runs.map(|run| run.join().unwrap());
        let ran = |once: &OnceOutcome<()>| matches!(once, OnceOutcome::Ran(()));
        assert_eq!(
            ended.iter().filter(|once| ran(once)).count(),
            1,
            "{ended:?}"
        );
    });
    let again = once(&stores[0]).unwrap().unwrap();
    assert!(
        matches!(again, OnceOutcome::AlreadyDone { .. }),
        "{again:?}"
    );
}
