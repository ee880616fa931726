//! Other people's keys and other libraries' locks: excluded both ways, never overwritten, never
//! deleted.

use std::time::Duration;

use dlock_core::{Datastore, ErrorKind, Lock};
use dlock_test_servers::{RedisServer, Reply};

use crate::support::*;

#[test]
fn a_plain_set_nx_client_excludes_us() {
    let server = RedisServer::start();
    let store = store(&server);
    server.command(["SET", KEY, "another library", "NX", "PX", "20000"]);
    let held = refused(store.acquire(&claim(KEY), TTL));
    assert!(held.holder().is_none() && held.fence().is_none());
    let left = held.expires_in().unwrap();
    assert!(left <= Duration::from_secs(20) && left > Duration::from_secs(1));
    assert!(
        held.to_string()
            .starts_with("held by an unknown holder, at most 20 s more"),
        "{held}"
    );
    assert_eq!(
        server.command(["GET", KEY]).text().unwrap(),
        "another library"
    );
    assert_eq!(server.keys(), [KEY], "not even a fence");
}

#[test]
fn we_exclude_a_plain_set_nx_client() {
    let server = RedisServer::start();
    let lock = Lock::new(store(&server), "import");
    let set = ["SET", KEY, "another library", "NX", "PX", "20000"];
    let guard = lock.try_acquire().unwrap();
    assert_eq!(server.command(set), Reply::Nil);
    guard.release().unwrap();
    assert_eq!(server.command(set).text().unwrap(), "OK");
    assert!(lock.try_acquire().unwrap_err().is_held());
}

#[test]
fn a_foreign_string_of_any_form_is_a_lock_of_an_unknown_holder() {
    let server = RedisServer::start();
    let store = store(&server);
    let token = "0123456789abcdef0123456789abcdef";
    let huge = "x ".repeat(300_000);
    let almost = [
        format!("{token} 12 0"),
        format!("{token} twelve 0 dlock1 h 1 1 1 running"),
        format!("{token} 12 -1 dlock1 h 1 1 1 running"),
    ];
    let texts = ["", "1", "{\"json\": true}", "\u{e9}\r\n\0", token, &huge];
    for text in texts.into_iter().chain(almost.iter().map(String::as_str)) {
        server.command(["SET", KEY, text]);
        let held = refused(store.acquire(&claim(KEY), TTL));
        assert_eq!((held.holder(), held.expires_in()), (None, None));
        assert_eq!(server.command(["GET", KEY]).text().unwrap(), text);
        assert_eq!(server.command(["PTTL", KEY]), Reply::Integer(-1));
    }
}

#[test]
fn a_key_of_another_type_is_foreign_and_stays_as_it_is() {
    let server = RedisServer::start();
    let store = store(&server);
    let lease = acquired(&store, &claim(KEY));
    for make in [
        &["RPUSH", KEY, "a"][..],
        &["HSET", KEY, "a", "b"],
        &["SADD", KEY, "a"],
        &["ZADD", KEY, "1", "a"],
        &["XADD", KEY, "*", "a", "b"],
    ] {
        server.command(["DEL", KEY, FENCE]);
        server.command(make);
        let made = server.command(["DUMP", KEY]);
        let error = store.acquire(&claim(KEY), TTL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ForeignKey, "{make:?}");
        assert!(!error.may_have_executed() && !error.is_transient());
        assert_eq!(extend(&store, &lease, 1, TTL), None, "lost");
        assert!(!released(&store, &lease));
        store.abandon(&claim(KEY)).unwrap();
        assert_eq!(server.command(["DUMP", KEY]), made);
        assert_eq!(server.keys(), [KEY], "not even a fence");
    }
}

#[test]
fn a_fence_that_is_no_fence_is_an_error_and_no_lock_is_left() {
    let server = RedisServer::start();
    let store = store(&server);
    for text in [
        "abc",
        "",
        "1.5",
        "-1",
        "0x10",
        " 12",
        "1e3",
        "9007199254740991",
        "1".repeat(400).as_str(),
    ] {
        server.command(["SET", FENCE, text]);
        let error = store.acquire(&claim(KEY), TTL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ForeignKey, "{text}");
        assert!(!error.may_have_executed());
        assert_eq!(server.command(["GET", FENCE]).text().unwrap(), text);
        assert_eq!(server.keys(), [FENCE]);
    }
    server.command(["DEL", FENCE]);
    server.command(["RPUSH", FENCE, "1"]);
    let error = store.acquire(&claim(KEY), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForeignKey);
    assert_eq!(server.keys(), [FENCE]);
}

#[test]
fn tokens_go_on_from_the_counter_when_the_clock_is_behind_it() {
    let server = RedisServer::start();
    let store = store(&server);
    server.command(["SET", FENCE, "9007199254740980"]);
    for last in 9_007_199_254_740_981..=9_007_199_254_740_991_u64 {
        let lease = acquired(&store, &claim(KEY));
        assert_eq!(fence_of(&lease), last, "not a digit is lost");
        assert!(released(&store, &lease));
    }
    let error = store.acquire(&claim(KEY), TTL).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::ForeignKey,
        "above 2^53 they would repeat"
    );
}

#[test]
fn a_refusal_says_who_holds_the_lock_but_not_the_owner_token() {
    let server = RedisServer::start();
    let store = store(&server);
    let owner = claim(KEY);
    let lease = acquired(&store, &owner);
    let held = refused(store.acquire(&claim(KEY), TTL));
    assert!(held.holder().unwrap().is_this_process());
    assert_eq!(held.fence(), lease.fence());
    assert!(!format!("{held:?} {held}").contains(&owner.owner().to_string()));
}

#[test]
fn a_fence_that_only_lua_takes_for_a_number_is_foreign_and_leaves_no_lock() {
    let server = RedisServer::start();
    let store = store(&server);
    let granted = fence_of(&acquired(&store, &claim("dlock:other")));
    // The last is from this hour, so that it is counted up and not written anew.
    for fence in ["1e3", "0x10", " 7", "nan", "-7", "", &format!("0{granted}")] {
        server.command(["FLUSHALL"]);
        server.command(["SET", FENCE, fence]);
        let error = store.acquire(&claim(KEY), TTL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ForeignKey, "{fence:?}: {error:?}");
        assert_eq!(server.keys(), [FENCE], "{fence:?}");
    }
}

#[test]
fn a_claim_that_is_repeated_after_its_fence_was_lost_is_granted() {
    let server = RedisServer::start();
    let store = store(&server);
    let claim = claim(KEY);
    let lease = acquired(&store, &claim);
    server.command(["DEL", FENCE]);
    let again = acquired(&store, &claim);
    assert!(fence_of(&again) > fence_of(&lease));
    // Lost, and marked by a waiter since.
    server.command(["SET", FENCE, "0 +"]);
    let once_more = acquired(&store, &claim);
    assert!(fence_of(&once_more) > fence_of(&again));
    assert!(released(&store, &again));
}
