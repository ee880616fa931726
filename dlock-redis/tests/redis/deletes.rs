//! Releases without a script, on servers that can delete a record that has not changed.

use std::thread;

use dlock_core::{Datastore, ErrorKind, Lease, Lock, ReleaseOutcome};
use dlock_redis::RedisDatastore;
use dlock_test_servers::RedisServer;

use crate::scripted::{micros_now, scripted, time};
use crate::support::*;

fn granted_reply() -> Vec<u8> {
    format!(":{}\r\n", micros_now()).into_bytes()
}

/// The reply to a release that asks how a record is deleted.
fn released_reply(command: &str) -> Vec<u8> {
    let length = command.len();
    format!("*3\r\n$8\r\nreleased\r\n:1\r\n${length}\r\n{command}\r\n").into_bytes()
}

fn store_at(address: std::net::SocketAddr) -> RedisDatastore {
    patient(&format!("redis://{address}"))
}

/// The words of a request without their lengths.
fn words(request: &str) -> Vec<&str> {
    let lines = request.lines().skip(1);
    lines.filter(|line| !line.starts_with('$')).collect()
}

fn pair(store: &RedisDatastore) -> (Lease, bool) {
    let lease = acquired(store, &claim(KEY));
    let is_released = released(store, &lease);
    (lease, is_released)
}

#[test]
fn the_first_release_asks_and_the_next_ones_are_a_command_each() {
    for (command, before_record) in [
        ("DELIFEQ", &["DELIFEQ", KEY][..]),
        ("DELEX", &["DELEX", KEY, "IFEQ"]),
    ] {
        let (address, requests) = scripted(vec![
            time(micros_now()),
            granted_reply(),
            released_reply(command),
            granted_reply(),
            b":1\r\n".to_vec(),
        ]);
        let store = store_at(address);
        assert!(pair(&store).1);
        let (lease, is_released) = pair(&store);
        assert!(is_released);

        let requests: Vec<_> = requests.try_iter().collect();
        assert_eq!(requests.len(), 5);
        assert_eq!(words(&requests[2])[0], "EVALSHA");
        let record = format!("{} 0 {}", lease.owner(), lease.holder());
        let expected = [before_record, &[&*record]].concat();
        assert_eq!(words(&requests[4]), expected);
    }
}

#[test]
fn what_was_not_deleted_is_released_by_the_script_with_all_keys() {
    for (script, outcome) in [
        (&b":1\r\n"[..], ReleaseOutcome::Released),
        (b":0\r\n", ReleaseOutcome::NotHeld),
    ] {
        let (address, requests) = scripted(vec![
            time(micros_now()),
            granted_reply(),
            released_reply("DELIFEQ"),
            granted_reply(),
            b":0\r\n".to_vec(),
            script.to_vec(),
        ]);
        let store = store_at(address);
        assert!(pair(&store).1);
        let lease = acquired(&store, &claim(KEY));
        assert_eq!(store.release(&call(&lease, 1)).unwrap(), outcome);

        let requests: Vec<_> = requests.try_iter().collect();
        let sent = words(&requests[5]);
        assert_eq!((sent[0], sent[2], sent[3]), ("EVALSHA", "4", KEY));
    }
}

/// A server behind the same address may be an older one, and rights change.
#[test]
fn a_server_that_knows_no_such_command_costs_one_trip_and_no_release() {
    for refusal in [
        &b"-ERR unknown command 'DELIFEQ', with args beginning with: 'x'\r\n"[..],
        b"-NOPERM User app has no permissions to run the 'delifeq' command\r\n",
    ] {
        let (address, requests) = scripted(vec![
            time(micros_now()),
            granted_reply(),
            released_reply("DELIFEQ"),
            granted_reply(),
            refusal.to_vec(),
            b":1\r\n".to_vec(),
            granted_reply(),
            b":1\r\n".to_vec(),
        ]);
        let store = store_at(address);
        for _ in 0..3 {
            assert!(pair(&store).1);
        }
        let requests: Vec<_> = requests.try_iter().collect();
        assert_eq!(requests.len(), 8);
        assert_eq!(words(&requests[4])[0], "DELIFEQ");
        assert_eq!(words(&requests[7])[0], "EVALSHA", "it is not tried again");
    }
}

#[test]
fn an_error_of_the_server_is_that_of_the_release() {
    let (address, requests) = scripted(vec![
        time(micros_now()),
        granted_reply(),
        released_reply("DELEX"),
        granted_reply(),
        b"-BUSY Redis is busy running a script\r\n".to_vec(),
        // The connection stays open.
        Vec::new(),
    ]);
    let store = store_at(address);
    assert!(pair(&store).1);
    let lease = acquired(&store, &claim(KEY));
    let error = store.release(&call(&lease, 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    assert_eq!(requests.try_iter().count(), 5, "it is not sent again");
}

/// Only a server that does not know the command has certainly not carried it out.
#[test]
fn an_error_that_is_not_about_the_command_itself_may_come_after_the_release() {
    for reply in [
        &b"-ERR upstream failure\r\n"[..],
        b"-ERR wrong number of arguments for 'delifeq' command\r\n",
    ] {
        let (address, requests) = scripted(vec![
            time(micros_now()),
            granted_reply(),
            released_reply("DELIFEQ"),
            granted_reply(),
            reply.to_vec(),
            // What the script would find.
            b":0\r\n".to_vec(),
        ]);
        let store = store_at(address);
        assert!(pair(&store).1);
        let lease = acquired(&store, &claim(KEY));
        let error = store.release(&call(&lease, 1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
        assert!(error.may_have_executed(), "{error:?}");
        assert_eq!(requests.try_iter().count(), 5, "it is not sent again");
    }
}

/// On whatever server the tests run.
#[test]
fn a_release_after_extends_is_one_command_too() {
    let (server, proxy, store) = warm_behind_proxy();
    let lease = acquired(&store, &claim(KEY));
    assert!(extend(&store, &lease, 1, TTL).is_some());
    assert!(extend(&store, &lease, 2, TTL).is_some());
    proxy.reset_counts();
    let outcome = store.release(&call(&lease, 3)).unwrap();
    assert_eq!(outcome, ReleaseOutcome::Released);
    assert_eq!(proxy.counts().round_trips, 1);
    assert!(!server.keys().contains(&KEY.to_owned()));
}

#[test]
fn a_waiter_that_came_meanwhile_is_woken_by_the_release() {
    let server = RedisServer::start();
    let holder = store(&server);
    // What can be known of the server is known.
    warm(&holder);
    let guard = Lock::new(holder, "import").try_acquire().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| Lock::new(store(&server), "import").acquire_within(LONG));
        until("somebody waits", || {
            server.keys().contains(&QUEUE.to_owned())
        });
        guard.release().unwrap();
        // The release handed the lock over: it was never free.
        let held = server.command(["EXISTS", KEY]).integer().unwrap();
        assert_eq!(held, 1);
        waiting.join().unwrap().unwrap().release().unwrap();
    });
}
