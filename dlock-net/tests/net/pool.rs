//! Connections are shared, replaced when dead, and not touched by a forked child.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Behaviour, LinesManager, Shared, pool, serve, timed};
use dlock_core::ErrorKind;
use dlock_net::r2d2;

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
fn a_connection_that_died_while_idle_is_replaced_silently() {
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
    // The first connection breaks at its second request; the fresh one answers its first.
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
fn after_a_lost_connection_the_error_says_what_may_have_been_done_even_if_the_server_is_gone() {
    let server = serve(Behaviour::StopAtSecondRequest);
    let pool = pool(&server, 3);
    assert_eq!(pool.ask(LONG, "a").unwrap(), "a");
    let error = pool.ask(LONG, "b").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.may_have_executed(), "the first request arrived");
}

#[test]
fn a_late_reply_is_not_taken_for_the_next_one() {
    let server = serve(Behaviour::Held);
    let pool = pool(&server, 1);
    server.hold();
    let error = pool.ask(Duration::from_secs(1), "slow").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    server.let_go();
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
    let holder = thread::spawn(move || busy.ask(Duration::from_secs(4), "hang").unwrap_err());
    while server.requests() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    // It waits for the place, connects anew, and gets no answer. But it has sent its request.
    let error = shared.ask(Duration::from_secs(10), "x").unwrap_err();
    assert!(error.may_have_executed());
    assert_eq!(server.requests(), 2);
    holder.join().unwrap();
}

#[test]
fn the_dedicated_connection_works_while_the_pool_is_busy() {
    let server = serve(Behaviour::HangOn("hang"));
    let shared = Arc::new(pool(&server, 1));
    let busy = Arc::clone(&shared);
    let holder = thread::spawn(move || busy.ask(Duration::from_secs(6), "hang").unwrap_err());
    while server.requests() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(shared.ask_dedicated(LONG, "renew").unwrap(), "renew");
    holder.join().unwrap();
}

#[test]
fn a_pool_of_the_callers_own_works_and_is_shared_with_the_caller() {
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
fn a_line_that_the_server_sends_first_is_not_taken_for_an_answer() {
    let server = serve(Behaviour::ShoutAfterReply);
    let pool = pool(&server, 1);
    assert_eq!(pool.ask(LONG, "a").unwrap(), "a");
    // The unrequested line is there by now. The next call must not read it as its reply.
    while server.shouts() == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(pool.ask(LONG, "b").unwrap(), "b");
}

#[test]
fn an_urgent_call_on_a_silent_connection_runs_again_on_a_fresh_one() {
    let server = serve(Behaviour::MuteAfterFirst);
    let pool = pool(&server, 3);
    assert_eq!(pool.ask(LONG, "claim").unwrap(), "claim");
    let within = Duration::from_secs(12);
    assert_eq!(pool.ask_urgent(within, "release").unwrap(), "release");
    assert_eq!((server.connections(), server.requests()), (2, 3));

    // The renewal worker repeats its calls itself.
    assert_eq!(pool.ask_dedicated(within, "renew").unwrap(), "renew");
    let short = Duration::from_secs(4);
    pool.ask_dedicated(short, "again").unwrap_err();
    assert_eq!(pool.ask_dedicated(within, "again").unwrap(), "again");
    assert_eq!((server.connections(), server.requests()), (4, 6));
}

#[test]
fn a_claim_on_a_connection_that_went_silent_while_unused_runs_again_on_a_fresh_one() {
    let server = serve(Behaviour::MuteAfterFirst);
    let pool = pool(&server, 3);
    assert_eq!(pool.ask(LONG, "claim").unwrap(), "claim");
    thread::sleep(Duration::from_millis(5200));
    let within = Duration::from_secs(12);
    assert_eq!(pool.ask(within, "claim").unwrap(), "claim");
    assert_eq!((server.connections(), server.requests()), (2, 3));
    // A call does not give up a connection that answered a moment ago before its deadline.
    let error = pool.ask(Duration::from_secs(4), "claim").unwrap_err();
    assert!(error.may_have_executed());
    assert_eq!((server.connections(), server.requests()), (2, 4));
}

#[test]
fn an_urgent_call_without_any_answer_says_that_it_may_have_been_done() {
    let server = serve(Behaviour::MuteAfterFirst);
    let pool = pool(&server, 3);
    assert_eq!(pool.ask(LONG, "claim").unwrap(), "claim");
    server.stop();
    let (taken, answer) = timed(|| pool.ask_urgent(Duration::from_secs(6), "release"));
    let error = answer.unwrap_err();
    assert!(error.may_have_executed(), "the first copy arrived");
    assert!(taken < LONG, "{taken:?}");
}

#[test]
fn six_hundred_releases_at_once_find_a_connection_before_their_deadline() {
    let server = serve(Behaviour::Held);
    let pool = pool(&server, 10);
    assert_eq!(pool.ask(LONG, "claim").unwrap(), "claim");
    server.hold();
    let failed = thread::scope(|scope| {
        let release = || pool.ask_urgent(LONG * 3, "release");
        let calls: Vec<_> = (0..600).map(|_| scope.spawn(release)).collect();
        // As many connections again as the pool has for claims, each with a request under way.
        let start = Instant::now();
        while server.requests() < 1 + 20 && start.elapsed() < LONG {
            thread::sleep(Duration::from_millis(5));
        }
        server.let_go();
        assert!(server.requests() > 20, "{} at once", server.requests() - 1);
        let answers = calls.into_iter().map(|call| call.join().unwrap());
        answers.filter(Result::is_err).count()
    });
    assert_eq!(failed, 0);
    assert!(server.connections() <= 20, "{}", server.connections());
}

#[test]
fn claims_that_fill_the_pool_leave_room_for_a_release() {
    for from_r2d2 in [false, true] {
        let server = serve(Behaviour::HangOn("claim"));
        let pool = match from_r2d2 {
            false => pool(&server, 2),
            true => {
                let own = r2d2::Pool::builder().max_size(2);
                let own = own.build(LinesManager(server.endpoint())).unwrap();
                Shared(dlock_net::Pool::from_r2d2(own))
            }
        };
        assert_eq!(pool.ask(LONG, "first").unwrap(), "first");
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| pool.ask(Duration::from_secs(4), "claim").unwrap_err());
            }
            while server.requests() < 3 {
                thread::sleep(Duration::from_millis(5));
            }
            assert_eq!(pool.ask_urgent(LONG, "release").unwrap(), "release");
            assert!(server.requests() < 6, "no claim had ended");
        });
    }
}
