//! Many calls over one connection.

use std::sync::Arc;
use std::time::Duration;

use dlock_net::deadline_in;
use dlock_net::mux::{Multiplexer, Sending};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::client::*;
use crate::support::{Behaviour, serve};

async fn ask_many(mux: &Mux, count: usize) {
    let mut tasks = JoinSet::new();
    for task in 0..count {
        let mux = Arc::clone(mux);
        tasks.spawn(async move {
            for round in 0..20 {
                let question = format!("task {task} round {round}");
                assert_eq!(ask(&mux, LONG, &question).await.unwrap(), question);
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

#[test]
fn each_of_many_calls_has_the_reply_of_its_own_over_one_connection() {
    for runtime in runtimes() {
        let server = serve(Behaviour::Echo);
        let mux = mux(&server);
        runtime.block_on(ask_many(&mux, 50));
        assert_eq!(server.connections(), 1);
    }
}

#[test]
fn replies_and_requests_are_whole_however_few_bytes_pass_at_a_time() {
    for piece in [1, 2, 3, 7, 100] {
        let server = serve(Behaviour::Echo);
        let mut lines = Lines::to(&server);
        lines.piece = piece;
        let mux = Arc::new(Multiplexer::new(lines));
        current_thread().block_on(ask_many(&mux, 5));
        assert_eq!(server.connections(), 1, "pieces of {piece}");
    }
}

#[test]
fn a_call_that_is_dropped_leaves_its_reply_to_be_skipped() {
    let server = serve(Behaviour::Held);
    let mux = mux(&server);
    current_thread().block_on(async {
        assert_eq!(ask(&mux, LONG, "warm").await.unwrap(), "warm");
        for round in 0..3 {
            server.hold();
            let dropped =
                tokio::time::timeout(Duration::from_millis(1), ask(&mux, LONG, "dropped"));
            assert!(dropped.await.is_err());
            server.let_go();
            let question = format!("round {round}");
            assert_eq!(ask(&mux, LONG, &question).await.unwrap(), question);
        }
    });
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_batch_is_answered_in_its_order_and_each_by_its_own_deadline() {
    let server = serve(Behaviour::Echo);
    let mux = mux(&server);
    let (now, later) = (deadline_in(Duration::ZERO), deadline_in(LONG));
    let answers =
        current_thread().block_on(mux.call_many(&[later, now, later], |at, (), bytes, _| {
            bytes.extend_from_slice(format!("{at}\r\n").as_bytes());
        }));
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[0].as_ref().unwrap().reply, "0");
    assert!(!answers[1].as_ref().unwrap_err().may_have_executed());
    assert_eq!(answers[2].as_ref().unwrap().reply, "2");
    assert!(
        current_thread()
            .block_on(mux.call_many(&[], |_, (), _, _| ()))
            .is_empty()
    );
}

#[test]
fn dropping_the_multiplexer_closes_its_connections() {
    for runtime in runtimes() {
        let server = serve(Behaviour::Echo);
        let mux = mux(&server);
        runtime.block_on(async {
            assert_eq!(ask(&mux, LONG, "a").await.unwrap(), "a");
            drop(mux);
            while server.open() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
}

#[test]
fn a_request_that_nobody_waits_for_comes_before_what_is_sent_later() {
    for runtime in runtimes() {
        let server = serve(Behaviour::Echo);
        let mux = mux(&server);
        let handle = runtime.handle().clone();
        let (reports, replies) = std::sync::mpsc::channel();
        let send = |on: Option<Handle>, text: &'static str| {
            let reports = reports.clone();
            let write =
                move |(): &mut (), bytes: &mut Vec<u8>, _: Sending| bytes.extend(text.as_bytes());
            let done = move |reply| reports.send(reply).unwrap();
            mux.send_at_once(on, deadline_in(LONG), write, done)
        };
        assert!(!send(Some(handle.clone()), "none is open\n"));
        assert!(!send(None, "nor here\n"));
        runtime.block_on(async {
            assert!(!mux.is_open());
            assert_eq!(ask(&mux, LONG, "a").await.unwrap(), "a");
            assert!(mux.is_open());
            assert!(send(Some(handle), "b\n"));
            assert_eq!(ask(&mux, LONG, "c").await.unwrap(), "c");
        });
        assert_eq!(replies.recv_timeout(LONG).unwrap().as_deref(), Some("b"));
        assert_eq!(server.requests(), 3);
    }
}

#[test]
fn a_request_sent_at_once_reports_that_there_is_no_reply() {
    let server = serve(Behaviour::HangOn("b"));
    let mux = mux(&server);
    let runtime = current_thread();
    let (reports, replies) = std::sync::mpsc::channel();
    let send = |within, text: &'static str| {
        let reports = reports.clone();
        let write =
            move |(): &mut (), bytes: &mut Vec<u8>, _: Sending| bytes.extend(text.as_bytes());
        let handle = Some(runtime.handle().clone());
        let done = move |reply: Option<String>| reports.send(reply).unwrap();
        assert!(mux.send_at_once(handle, deadline_in(within), write, done));
    };
    runtime.block_on(async {
        assert_eq!(ask(&mux, LONG, "a").await.unwrap(), "a");
        send(SOON, "b\n");
        while replies.try_recv() != Ok(None) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        send(LONG, "b\n");
    });
    // Its task goes with the runtime.
    drop(runtime);
    assert_eq!(replies.recv_timeout(LONG), Ok(None));
}
