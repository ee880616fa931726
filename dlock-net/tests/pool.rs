//! Connections are shared, replaced when dead, and left alone by a forked child.

mod support;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use dlock_core::ErrorKind;
use dlock_net::r2d2;
use support::{Behaviour, LinesManager, Shared, pool, serve, timed};

const LONG: Duration = Duration::from_secs(20);

#[test]
fn calls_share_one_connection() {
    let server = serve(Behaviour::Echo);
    let pool = pool(&server, 3);
    for text in ["a", "b", "c"] {
        assert_eq!(pool.ask(LONG, text).unwrap(), text);
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_connection_that_died_while_idle_is_replaced_without_a_word() {
    let server = serve(Behaviour::Echo);
    let pool = pool(&server, 3);
    assert_eq!(pool.ask(LONG, "a").unwrap(), "a");
    server.cut_all();
    assert_eq!(pool.ask(LONG, "b").unwrap(), "b");
    assert_eq!(server.connections(), 2);
    assert_eq!(server.requests(), 2, "nothing was sent twice");
}

#[test]
fn a_connection_that_dies_under_a_request_is_replaced_once() {
    let server = serve(Behaviour::CutSecondRequest);
    let pool = pool(&server, 3);
    assert_eq!(pool.ask(LONG, "a").unwrap(), "a");
    // The second request of the first connection is cut, the fresh one answers its first.
    assert_eq!(pool.ask(LONG, "b").unwrap(), "b");
    assert_eq!(server.connections(), 2);
    assert_eq!(server.requests(), 3);
}

#[test]
fn a_fresh_connection_that_dies_is_not_replaced() {
    let server = serve(Behaviour::CutEveryRequest);
    let pool = pool(&server, 3);
    let error = pool.ask(LONG, "a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.may_have_executed());
    assert_eq!(server.requests(), 1);
}

#[test]
fn what_a_dead_connection_may_have_done_is_not_forgotten_when_the_server_is_gone() {
    let server = serve(Behaviour::StopAtSecondRequest);
    let pool = pool(&server, 3);
    assert_eq!(pool.ask(LONG, "a").unwrap(), "a");
    let error = pool.ask(LONG, "b").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.may_have_executed(), "the first request got there");
}

#[test]
fn a_late_reply_is_not_taken_for_the_next_one() {
    let server = serve(Behaviour::DelayFirst(Duration::from_millis(400)));
    let pool = pool(&server, 1);
    let error = pool.ask(Duration::from_millis(100), "slow").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(pool.ask(LONG, "next").unwrap(), "next");
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_panic_inside_a_call_costs_its_connection_only() {
    let server = serve(Behaviour::Echo);
    let pool = pool(&server, 1);
    let shared = Arc::new(pool);
    let panicking = Arc::clone(&shared);
    thread::spawn(move || panicking.send_and_panic("lost"))
        .join()
        .unwrap_err();
    assert_eq!(shared.ask(LONG, "next").unwrap(), "next");
}

#[test]
fn a_panic_on_the_dedicated_connection_does_not_poison_it() {
    let server = serve(Behaviour::Echo);
    let shared = Arc::new(pool(&server, 1));
    let panicking = Arc::clone(&shared);
    thread::spawn(move || panicking.send_and_panic_dedicated("lost"))
        .join()
        .unwrap_err();
    assert_eq!(shared.ask_dedicated(LONG, "next").unwrap(), "next");
}

#[test]
fn a_busy_pool_ends_the_call_at_its_deadline_and_says_so() {
    let server = serve(Behaviour::Silent);
    let shared = Arc::new(pool(&server, 1));
    let busy = Arc::clone(&shared);
    let holder = thread::spawn(move || busy.ask(Duration::from_secs(6), "hang").unwrap_err());
    while server.requests() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    let (taken, answer) = timed(|| shared.ask(Duration::from_millis(200), "x"));
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "all 1 connections of the pool were in use");
    assert!(taken < Duration::from_secs(5), "{taken:?}");
    assert_eq!(holder.join().unwrap().kind(), ErrorKind::Timeout);
}

#[test]
fn a_waiter_gets_the_place_of_a_connection_that_broke() {
    let server = serve(Behaviour::Silent);
    let shared = Arc::new(pool(&server, 1));
    let busy = Arc::clone(&shared);
    let holder = thread::spawn(move || busy.ask(Duration::from_millis(600), "hang").unwrap_err());
    while server.requests() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    // It waits for the place, connects anew, and is answered by nobody: but it did send its request.
    let error = shared.ask(Duration::from_secs(3), "x").unwrap_err();
    assert!(error.may_have_executed());
    assert_eq!(server.requests(), 2);
    holder.join().unwrap();
}

#[test]
fn the_dedicated_connection_works_while_the_pool_is_busy() {
    let server = serve(Behaviour::HangOn("hang"));
    let shared = Arc::new(pool(&server, 1));
    let busy = Arc::clone(&shared);
    let holder = thread::spawn(move || busy.ask(Duration::from_secs(2), "hang").unwrap_err());
    while server.requests() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(shared.ask_dedicated(LONG, "renew").unwrap(), "renew");
    holder.join().unwrap();
}

#[test]
fn a_pool_of_the_callers_own_works_and_is_shared_with_him() {
    let server = serve(Behaviour::Echo);
    let own = r2d2::Pool::builder()
        .max_size(2)
        .build(LinesManager(server.endpoint()))
        .unwrap();
    let shared = Shared(dlock_net::Pool::from_r2d2(own.clone()));
    assert_eq!(shared.ask(LONG, "a").unwrap(), "a");
    assert_eq!(shared.ask_dedicated(LONG, "b").unwrap(), "b");
    assert_eq!(shared.0.max_size(), 2);
    let place = own.get().unwrap();
    assert_eq!(place.manager().0, server.endpoint());
}

#[test]
fn a_server_that_talks_first_is_not_taken_for_an_answer() {
    let server = serve(Behaviour::ShoutAfterReply);
    let pool = pool(&server, 1);
    assert_eq!(pool.ask(LONG, "a").unwrap(), "a");
    // Give the unasked line time to arrive; the next call must not read it as its reply.
    thread::sleep(Duration::from_millis(100));
    assert_eq!(pool.ask(LONG, "b").unwrap(), "b");
}
