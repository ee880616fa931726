//! Calls of several requests, which keep to one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind, Time};
use dlock_net::deadline_in;
use dlock_net::mux::{Multiplexer, Open, Opened, Pinned};

use super::client::*;
use crate::support::{Behaviour, serve};

/// Asks within a session.
async fn asks<O>(pinned: &mut Pinned<O>, question: &str) -> Result<String, DatastoreError>
where
    O: Open<Writer = (), Replies = LineReplies>,
{
    let write = |(): &mut (), bytes: &mut Vec<u8>, _| {
        bytes.extend_from_slice(format!("{question}\r\n").as_bytes());
    };
    pinned.ask(write).await
}

#[test]
fn a_session_shares_its_connection_with_other_calls_and_is_answered_in_order() {
    for runtime in runtimes() {
        let server = serve(Behaviour::Echo);
        let mux = mux(&server);
        runtime.block_on(async {
            let sessions = (0..20).map(|at| {
                let mux = Arc::clone(&mux);
                tokio::spawn(async move {
                    let mut session = mux.session(deadline_in(LONG)).unwrap();
                    let (mut pinned, earlier) = session.connection().await.unwrap();
                    assert!(!earlier.may_have_run());
                    for step in 0..5 {
                        let question = format!("{at} {step}");
                        assert_eq!(asks(&mut pinned, &question).await.unwrap(), question);
                    }
                    session.ended(pinned, Ok(())).unwrap().unwrap();
                })
            });
            let sessions: Vec<_> = sessions.collect();
            for session in sessions {
                session.await.unwrap();
            }
            assert_eq!(ask(&mux, LONG, "another").await.unwrap(), "another");
        });
        assert_eq!(server.connections(), 1);
    }
}

#[test]
fn a_request_of_a_session_whose_connection_broke_goes_to_no_other() {
    let server = serve(Behaviour::CutSecondRequest);
    let mux = mux(&server);
    current_thread().block_on(async {
        let mut session = mux.session(deadline_in(LONG)).unwrap();
        let (mut pinned, _) = session.connection().await.unwrap();
        assert_eq!(asks(&mut pinned, "a").await.unwrap(), "a");
        let error = asks(&mut pinned, "b").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.may_have_executed());
        // Other calls have a new connection by now.
        assert_eq!(ask(&mux, LONG, "c").await.unwrap(), "c");
        let error = asks(&mut pinned, "d").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(!error.may_have_executed(), "it was not sent");
        // The connection was opened for this session, so a second try would fare no better.
        let ended = session.ended::<()>(pinned, Err(error)).unwrap();
        assert!(!ended.unwrap_err().may_have_executed());
    });
    assert_eq!(server.connections(), 2);
    assert_eq!(server.requests(), 3);
}

#[test]
fn a_session_under_which_an_open_connection_breaks_runs_again_once_and_says_so() {
    let server = serve(Behaviour::CutSecondRequest);
    let mux = mux(&server);
    current_thread().block_on(async {
        assert_eq!(ask(&mux, LONG, "warm").await.unwrap(), "warm");
        let mut session = mux.session(deadline_in(LONG)).unwrap();
        let (mut pinned, _) = session.connection().await.unwrap();
        let error = asks(&mut pinned, "a").await.unwrap_err();
        assert!(session.ended::<()>(pinned, Err(error)).is_none());

        let (mut pinned, earlier) = session.connection().await.unwrap();
        assert!(earlier.may_have_run());
        assert_eq!(asks(&mut pinned, "a").await.unwrap(), "a");
        let error = asks(&mut pinned, "b").await.unwrap_err();
        let nothing = error.with_execution(false);
        let error = session.ended::<()>(pinned, Err(nothing)).unwrap();
        assert!(error.unwrap_err().may_have_executed(), "the first try");
    });
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_session_on_a_connection_that_went_silent_while_it_rested_runs_again_on_a_fresh_one() {
    let server = serve(Behaviour::MuteAfterFirst);
    let mux = mux(&server);
    current_thread().block_on(async {
        assert_eq!(ask(&mux, LONG, "warm").await.unwrap(), "warm");
        tokio::time::sleep(Duration::from_millis(5200)).await;
        let mut session = mux.session(deadline_in(SOON * 3)).unwrap();
        let (mut pinned, earlier) = session.connection().await.unwrap();
        assert!(!earlier.may_have_run());
        let error = asks(&mut pinned, "a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(session.ended::<()>(pinned, Err(error)).is_none());

        let (mut pinned, earlier) = session.connection().await.unwrap();
        assert!(earlier.may_have_run(), "the server may have read it");
        assert_eq!(asks(&mut pinned, "a").await.unwrap(), "a");
        session.ended(pinned, Ok(())).unwrap().unwrap();
    });
    assert_eq!((server.connections(), server.requests()), (2, 3));
}

#[test]
fn an_urgent_session_on_an_open_connection_that_went_silent_runs_again_on_a_fresh_one() {
    let server = serve(Behaviour::MuteAfterFirst);
    let mux = mux(&server);
    current_thread().block_on(async {
        assert_eq!(ask(&mux, LONG, "warm").await.unwrap(), "warm");
        let mut session = mux.urgent_session(deadline_in(SOON * 3)).unwrap();
        let (mut pinned, _) = session.connection().await.unwrap();
        let error = asks(&mut pinned, "a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(session.ended::<()>(pinned, Err(error)).is_none());

        let (mut pinned, earlier) = session.connection().await.unwrap();
        assert!(earlier.may_have_run(), "the server may have read it");
        assert_eq!(asks(&mut pinned, "a").await.unwrap(), "a");
        session.ended(pinned, Ok(())).unwrap().unwrap();
    });
    assert_eq!((server.connections(), server.requests()), (2, 3));
}

#[test]
fn a_session_that_fails_on_a_connection_that_works_does_not_run_again() {
    let server = serve(Behaviour::Echo);
    let mux = mux(&server);
    current_thread().block_on(async {
        assert_eq!(ask(&mux, LONG, "warm").await.unwrap(), "warm");
        let mut session = mux.session(deadline_in(LONG)).unwrap();
        let (pinned, _) = session.connection().await.unwrap();
        let error = DatastoreError::not_executed(ErrorKind::Unreachable, "it starts");
        let ended = session.ended::<()>(pinned, Err(error)).unwrap();
        assert!(!ended.unwrap_err().may_have_executed());
    });
}

#[test]
fn a_session_whose_server_is_gone_may_have_been_executed_by_the_first_try() {
    let server = serve(Behaviour::StopAtSecondRequest);
    let mux = mux(&server);
    current_thread().block_on(async {
        assert_eq!(ask(&mux, LONG, "warm").await.unwrap(), "warm");
        let mut session = mux.session(deadline_in(LONG)).unwrap();
        let (mut pinned, _) = session.connection().await.unwrap();
        let error = asks(&mut pinned, "a").await.unwrap_err();
        assert!(session.ended::<()>(pinned, Err(error)).is_none());
        let error = session.connection().await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.may_have_executed());
    });
}

#[test]
fn requests_that_are_sent_together_are_answered_up_to_the_first_that_fails() {
    let server = serve(Behaviour::Echo);
    let mux = mux(&server);
    current_thread().block_on(async {
        let mut session = mux.session(deadline_in(LONG)).unwrap();
        let (mut pinned, _) = session.connection().await.unwrap();
        let questions = ["a", "b", "?", "d"];
        let write = |at: usize, (): &mut (), bytes: &mut Vec<u8>, _| {
            bytes.extend_from_slice(format!("{}\r\n", questions[at]).as_bytes());
        };
        let replies = pinned.ask_many(questions.len(), write).await;
        assert_eq!(replies.len(), 3);
        assert_eq!(replies[0].as_deref().unwrap(), "a");
        assert_eq!(replies[1].as_deref().unwrap(), "b");
        let error = replies[2].as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.may_have_executed());
    });
}

#[test]
fn a_session_ends_by_its_deadline_or_when_it_is_given_up() {
    let server = serve(Behaviour::HangOn("hang"));
    let mux = mux(&server);
    current_thread().block_on(async {
        let mut session = mux.session(deadline_in(SOON)).unwrap();
        let (mut pinned, _) = session.connection().await.unwrap();
        let error = asks(&mut pinned, "hang").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.may_have_executed());

        let mut session = mux.session(deadline_in(LONG)).unwrap();
        let (mut pinned, _) = session.connection().await.unwrap();
        pinned.give_up();
        let error = asks(&mut pinned, "a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed());
    });
}

/// Lines whose connections take no more sessions once a switch is set, but for the newest.
struct Outdated {
    lines: Lines,
    is_set: Arc<AtomicBool>,
}

impl Open for Outdated {
    type Writer = ();
    type Replies = LineReplies;

    fn open(&self, deadline: Time) -> Result<Opened<(), LineReplies>, DatastoreError> {
        self.is_set.store(false, Ordering::SeqCst);
        self.lines.open(deadline)
    }

    fn takes_more(&self, (): &mut ()) -> bool {
        !self.is_set.load(Ordering::SeqCst)
    }
}

#[test]
fn a_session_does_not_begin_on_a_connection_that_takes_no_more() {
    let server = serve(Behaviour::Echo);
    let is_set = Arc::new(AtomicBool::new(false));
    let mux = Multiplexer::new(Outdated {
        lines: Lines::to(&server),
        is_set: Arc::clone(&is_set),
    });
    current_thread().block_on(async {
        for connections in 1..=3 {
            for question in ["a", "b"] {
                let mut session = mux.session(deadline_in(LONG)).unwrap();
                let (mut pinned, _) = session.connection().await.unwrap();
                assert_eq!(asks(&mut pinned, question).await.unwrap(), question);
                session.ended(pinned, Ok(())).unwrap().unwrap();
                assert_eq!(server.connections(), connections);
            }
            is_set.store(true, Ordering::SeqCst);
        }
        // The old ones are closed.
        while server.open() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_session_on_a_runtime_that_is_not_driven_any_more_runs_again_over_another() {
    let server = serve(Behaviour::Echo);
    let mux = mux(&server);
    let runtime = current_thread();
    assert_eq!(runtime.block_on(ask(&mux, LONG, "a")).unwrap(), "a");
    let _entered = runtime.enter();
    by_hand(async {
        let mut session = mux.session(deadline_in(LONG)).unwrap();
        let (mut pinned, _) = session.connection().await.unwrap();
        let error = asks(&mut pinned, "b").await.unwrap_err();
        assert!(session.ended::<()>(pinned, Err(error)).is_none());
        let (mut pinned, earlier) = session.connection().await.unwrap();
        assert!(earlier.may_have_run(), "the caller wrote it itself");
        assert_eq!(asks(&mut pinned, "b").await.unwrap(), "b");
        session.ended(pinned, Ok(())).unwrap().unwrap();
    });
    assert_eq!(server.connections(), 2);
}
