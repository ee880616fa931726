//! What operators see, and how they take a lock from its holder.

use std::collections::BTreeSet;
use std::thread;
use std::time::Instant;

use dlock_core::{
    Clock, Datastore, ErrorKind, FencingToken, HeldPage, Inspect, PageMark, ReleaseOutcome, Signal,
};
use dlock_test_servers::RedisServer;
use dlock_testkit::laws::found;
use dlock_testkit::{Subject, Verdict};

use crate::conformance::open;
use crate::queue::{HEARTBEAT, lock, waiting};
use crate::support::*;

#[test]
fn a_look_shows_the_holder_and_changes_nothing() {
    let server = RedisServer::start();
    let store = store(&server);
    let inspect: &dyn Inspect = store.inspect().unwrap();
    assert!(inspect.holder(KEY).unwrap().is_none());
    assert!(server.keys().is_empty());

    let guard = lock(&server).try_acquire().unwrap();
    let held = inspect.holder(KEY).unwrap().unwrap();
    assert_eq!(held.fence(), guard.fencing_token());
    assert!(held.holder().is_some());
    assert!(held.expires_in().is_some_and(|left| left <= TTL));
    guard.release().unwrap();
    assert!(inspect.holder(KEY).unwrap().is_none());

    server.command(["SET", KEY, "somebody else's"]);
    let held = inspect.holder(KEY).unwrap().unwrap();
    assert!(held.holder().is_none() && held.fence().is_none() && held.expires_in().is_none());
}

#[test]
fn a_broken_lease_goes_to_the_next_waiter() {
    let server = RedisServer::start();
    let guard = lock(&server).try_acquire().unwrap();
    let token = guard.fencing_token().unwrap();
    let operator = store(&server);
    let break_lease = |token| operator.inspect().unwrap().break_lease(KEY, token).unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock(&server).acquire_within(LONG).unwrap());
        until("it waits", || waiting(&server) == 1);
        let next = FencingToken::new(token.get() + 1);
        assert_eq!(break_lease(next), ReleaseOutcome::NotHeld);
        assert_eq!(break_lease(token), ReleaseOutcome::Released);
        let won = waits.join().unwrap();
        assert!(won.fencing_token() > Some(token));
        assert_eq!(break_lease(token), ReleaseOutcome::NotHeld);
        won.release().unwrap();
    });
    drop(guard);
    assert_eq!(server.keys(), [FENCE]);
}

#[test]
fn what_was_handed_over_and_not_claimed_has_no_token_and_is_not_broken_by_the_one_before() {
    let server = RedisServer::start();
    let (holder, waiter) = (store(&server), store(&server));
    let lease = acquired(&holder, &claim(KEY));
    let waits = claim(KEY).with_deadline(Clock::BOOTTIME.now().saturating_add(LONG));
    let _watch = waiter.watch(&waits, &Signal::new()).unwrap().unwrap();
    refused(waiter.acquire(&waits, TTL));
    let start = Instant::now();
    assert!(released(&holder, &lease));
    let inspect = holder.inspect().unwrap();
    let handed_to = inspect.holder(KEY).unwrap();
    // The waiter's second may be over before a busy machine has looked.
    if start.elapsed() < HEARTBEAT {
        assert_eq!(handed_to.unwrap().fence(), None);
    }
    let broken = inspect.break_lease(KEY, lease.fence().unwrap()).unwrap();
    assert_eq!(broken, ReleaseOutcome::NotHeld);
    granted(waiter.acquire(&waits, TTL));
}

/// All pages: the keys, and how many pages there were.
fn all_held(inspect: &dyn Inspect, prefix: &str) -> (BTreeSet<String>, usize) {
    let (mut keys, mut pages, mut after) = (BTreeSet::new(), 0, None);
    loop {
        let page = inspect.held(prefix, after.as_ref()).unwrap();
        keys.extend(page.keys.into_iter().map(|(key, _)| key));
        pages += 1;
        after = page.next;
        if after.is_none() {
            return (keys, pages);
        }
    }
}

#[test]
fn a_list_has_each_lock_that_is_held_and_nothing_else_that_the_server_keeps() {
    let server = RedisServer::start();
    let store = store(&server);
    let names = |start: &str| -> BTreeSet<String> {
        (0..400)
            .map(|number| format!("dlock:{start}{number}"))
            .collect()
    };
    let (held, freed) = (names("a"), names("b"));
    for key in held.iter().chain(&freed) {
        let lease = acquired(&store, &claim(key));
        if freed.contains(key) {
            assert!(released(&store, &lease));
        }
    }
    server.command([
        "SET",
        "dlock:plain",
        "a client of another language",
        "PX",
        "60000",
    ]);
    server.command(["RPUSH", "dlock:list", "no lock"]);
    server.command(["SET", "other:a1", "another prefix"]);
    let long = format!("dlock:{}", "x".repeat(1000));
    server.command(["SET", &long, "too long for a lock"]);

    let (all, pages) = all_held(&store, "dlock:");
    let mut expected = held.clone();
    expected.insert("dlock:plain".to_owned());
    assert_eq!(all, expected);
    assert!(pages > 4, "{pages} pages");
    assert_eq!(all_held(&store, "dlock:a39").0.len(), 11);
    let (whole, _) = all_held(&store, "");
    assert!(whole.contains("other:a1") && whole.iter().all(|key| !key.contains('{')));
    // The prefix is no pattern.
    assert_eq!(all_held(&store, "dlock:?").0.len(), 0);
    assert_eq!(all_held(&store, "dlock:*").0.len(), 0);
}

#[test]
fn a_mark_that_no_page_had_is_refused() {
    let server = RedisServer::start();
    let store = store(&server);
    let error = store.held("", Some(&PageMark::new("x"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    // There is one server.
    let past = store.held("", Some(&PageMark::new("1 0"))).unwrap();
    assert_eq!(past, HeldPage::default());
}

#[test]
fn a_list_needs_a_right_of_its_own_and_says_which() {
    let server = RedisServer::start();
    let rights =
        "on >secret resetchannels -@all ~dlock:* ~{dlock:*}:* +eval +evalsha +get +time +pttl";
    let mut command = vec!["ACL", "SETUSER", "operator"];
    command.extend(rights.split(' '));
    server.command(command.clone());
    let url = format!("redis://operator:secret@{}/", server.address());
    let error = patient(&url).held("dlock:", None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(
        whole_text(&error).contains("needs the right +scan"),
        "{}",
        whole_text(&error)
    );
    command.push("+scan");
    server.command(command);
    assert!(patient(&url).held("dlock:", None).unwrap().keys.is_empty());
}

#[test]
fn waiters_are_counted_while_they_wait() {
    let server = RedisServer::start();
    let operator = store(&server);
    assert_eq!(Inspect::waiting(&operator, KEY).unwrap(), 0);
    let guard = lock(&server).try_acquire().unwrap();
    thread::scope(|scope| {
        let waits = [0; 2].map(|_| scope.spawn(|| lock(&server).locked_within(LONG, |_| {})));
        until("both wait", || {
            Inspect::waiting(&operator, KEY).unwrap() == 2
        });
        guard.release().unwrap();
        for wait in waits {
            wait.join().unwrap().unwrap();
        }
    });
    until("nobody waits", || {
        Inspect::waiting(&operator, KEY).unwrap() == 0
    });
}

/// The server of the whole suite keeps nothing on its disk, which is a danger.
#[test]
fn a_server_that_keeps_its_keys_has_no_dangers_and_a_check_changes_nothing_in_it() {
    let server = RedisServer::builder().config("appendonly", "yes").start();
    let url = server.url();
    let subject = Subject::new(move || open(&url)).without_dangers();
    for case in [
        found::findings_help_the_operator,
        found::a_check_changes_nothing,
    ] {
        assert_eq!(case(&subject), Verdict::Kept);
    }
}
