//! Servers that answer late, not at all, too much or nonsense.

use std::time::{Duration, Instant};

use dlock_core::ErrorKind;

use super::client::*;
use crate::support::{Behaviour, serve};

#[test]
fn a_late_reply_ends_its_call_by_its_deadline_and_is_skipped() {
    for runtime in runtimes() {
        let server = serve(Behaviour::Held);
        let mux = mux(&server);
        server.hold();
        runtime.block_on(async {
            let error = ask(&mux, SOON, "late").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Timeout);
            assert!(error.may_have_executed());
            assert!(error.to_string().contains("read the reply"), "{error}");
            server.let_go();
            assert_eq!(ask(&mux, LONG, "next").await.unwrap(), "next");
        });
        assert_eq!(server.connections(), 1, "the connection is still good");
    }
}

#[test]
fn a_reply_that_drips_does_not_keep_its_call_alive() {
    let server = serve(Behaviour::Drip(Duration::from_millis(50)));
    let mux = mux(&server);
    current_thread().block_on(async {
        let start = Instant::now();
        let question = "x".repeat(400);
        let error = ask(&mux, SOON, &question).await.unwrap_err();
        assert!(error.may_have_executed());
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(
            start.elapsed() < Duration::from_secs(15),
            "{:?}",
            start.elapsed()
        );
    });
}

#[test]
fn a_call_under_which_the_connection_breaks_is_sent_again_and_says_so() {
    let server = serve(Behaviour::CutSecondRequest);
    let mux = mux(&server);
    current_thread().block_on(async {
        assert_eq!(ask(&mux, LONG, "a").await.unwrap(), "a");
        let replied = asked(&mux, LONG, "b").await.unwrap();
        assert_eq!(replied.reply, "again b");
        assert!(replied.in_doubt);
    });
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_call_under_which_two_connections_break_fails_and_may_have_been_executed() {
    let server = serve(Behaviour::CutEveryRequest);
    let mux = mux(&server);
    let error = current_thread().block_on(ask(&mux, LONG, "a")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.may_have_executed());
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_call_whose_server_is_gone_when_it_is_sent_again_may_have_been_executed() {
    let server = serve(Behaviour::StopAtSecondRequest);
    let mux = mux(&server);
    current_thread().block_on(async {
        assert_eq!(ask(&mux, LONG, "a").await.unwrap(), "a");
        let error = ask(&mux, LONG, "b").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.may_have_executed(), "the first copy");
        let error = ask(&mux, LONG, "c").await.unwrap_err();
        assert!(!error.may_have_executed(), "nothing was sent");
    });
}

#[test]
fn a_reply_that_nobody_asked_for_ends_the_connection() {
    let server = serve(Behaviour::ShoutAfterReply);
    let mux = mux(&server);
    current_thread().block_on(async {
        for round in 1..=3 {
            assert_eq!(ask(&mux, LONG, "a").await.unwrap(), "a");
            while server.open() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(server.connections(), round);
        }
    });
}

#[test]
fn what_is_no_reply_fails_its_call_and_the_others_are_sent_again() {
    let server = serve(Behaviour::Late(LATE));
    let mux = mux(&server);
    current_thread().block_on(async {
        assert_eq!(ask(&mux, LONG, "warm").await.unwrap(), "warm");
        let (bad, good) = tokio::join!(ask(&mux, LONG, "?"), asked(&mux, LONG, "good"));
        let error = bad.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.may_have_executed());
        let good = good.unwrap();
        assert_eq!((&*good.reply, good.in_doubt), ("again good", true));
    });
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_reply_without_end_fails_its_call() {
    let server = serve(Behaviour::Endless);
    let mux = mux(&server);
    let error = current_thread().block_on(ask(&mux, LONG, "a")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.may_have_executed());
}

#[test]
fn a_reply_that_ends_the_connection_spares_the_calls_that_are_under_way() {
    let server = serve(Behaviour::Late(LATE));
    let mux = mux(&server);
    current_thread().block_on(async {
        assert_eq!(ask(&mux, LONG, "warm").await.unwrap(), "warm");
        let (bye, other) = tokio::join!(ask(&mux, LONG, "!bye"), asked(&mux, LONG, "other"));
        assert_eq!(bye.unwrap(), "!bye");
        let other = other.unwrap();
        assert_eq!((&*other.reply, other.in_doubt), ("other", false));
        assert_eq!(server.connections(), 1);
        while server.open() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(ask(&mux, LONG, "next").await.unwrap(), "next");
    });
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_server_that_never_answers_again_is_left_for_a_new_connection() {
    let server = serve(Behaviour::MuteAfterFirst);
    let mux = mux(&server);
    current_thread().block_on(async {
        assert_eq!(ask(&mux, LONG, "a").await.unwrap(), "a");
        let error = ask(&mux, SOON, "b").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        // It is behind the one without a reply, which is overdue by a whole call soon.
        let replied = asked(&mux, LONG, "c").await.unwrap();
        assert!(replied.in_doubt);
    });
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_call_without_time_is_not_sent() {
    let server = serve(Behaviour::Echo);
    let mux = mux(&server);
    current_thread().block_on(async {
        assert_eq!(ask(&mux, LONG, "a").await.unwrap(), "a");
        let error = ask(&mux, Duration::ZERO, "b").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed());
        assert_eq!(ask(&mux, LONG, "c").await.unwrap(), "c");
    });
    assert_eq!(server.requests(), 2);
}

#[test]
fn requests_that_a_server_does_not_take_end_by_their_deadlines() {
    let server = serve(Behaviour::Silent);
    let mux = mux(&server);
    let question = "x".repeat(1 << 20);
    current_thread().block_on(async {
        let calls = (0..20).map(|_| {
            let (mux, question) = (mux.clone(), question.clone());
            tokio::spawn(async move { ask(&mux, SOON, &question).await.unwrap_err() })
        });
        let calls: Vec<_> = calls.collect();
        for call in calls {
            assert_eq!(call.await.unwrap().kind(), ErrorKind::Timeout);
        }
    });
}
