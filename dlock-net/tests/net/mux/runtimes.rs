//! Runtimes that stop, are not driven, or have a time of their own.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dlock_core::{Clock, ErrorKind};
use dlock_net::deadline_in;
use dlock_net::mux::{ready_by, sleep_until};
use tokio::runtime::Builder;

use super::client::*;
use crate::support::{Behaviour, serve};

#[test]
fn each_runtime_has_a_connection_of_its_own() {
    let server = serve(Behaviour::Echo);
    let mux = mux(&server);
    let [one, other] = runtimes();
    for _ in 0..3 {
        assert_eq!(one.block_on(ask(&mux, LONG, "a")).unwrap(), "a");
        assert_eq!(other.block_on(ask(&mux, LONG, "b")).unwrap(), "b");
    }
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_runtime_that_is_gone_takes_its_connection_with_it_and_the_next_opens_one() {
    let server = serve(Behaviour::Echo);
    let mux = mux(&server);
    for round in 1..=5 {
        assert_eq!(
            current_thread().block_on(ask(&mux, LONG, "a")).unwrap(),
            "a"
        );
        assert_eq!(server.connections(), round);
    }
    while server.open() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_call_whose_runtime_is_shut_down_goes_on_where_it_is_polled_next() {
    let server = serve(Behaviour::Held);
    let mux = mux(&server);
    server.hold();
    let runtime = current_thread();
    let asks = Arc::clone(&mux);
    let mut call = Box::pin(async move { asked(&asks, LONG, "a").await });
    runtime.block_on(async {
        while server.requests() == 0 {
            let moment = Duration::from_millis(1);
            assert!(tokio::time::timeout(moment, &mut call).await.is_err());
        }
    });
    drop(runtime);
    server.let_go();
    let replied = current_thread().block_on(call).unwrap();
    assert_eq!(replied.reply, "again a");
    assert!(replied.in_doubt);
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_call_outside_of_any_runtime_is_answered() {
    let server = serve(Behaviour::Echo);
    let mux = mux(&server);
    assert_eq!(by_hand(ask(&mux, LONG, "a")).unwrap(), "a");
    assert_eq!(by_hand(ask(&mux, LONG, "b")).unwrap(), "b");
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_call_on_a_runtime_that_is_entered_and_not_driven_is_answered() {
    let server = serve(Behaviour::Echo);
    let mux = mux(&server);
    let runtime = current_thread();
    let entered = runtime.enter();
    let replied = by_hand(asked(&mux, LONG, "a")).unwrap();
    assert_eq!(
        (&*replied.reply, replied.in_doubt),
        ("a", false),
        "it was taken back"
    );
    // Each of these would take that long, and the machine does not stall each time.
    let is_quick = || {
        let start = Instant::now();
        assert_eq!(by_hand(ask(&mux, LONG, "b")).unwrap(), "b");
        start.elapsed() < LONG / 10
    };
    assert!((0..3).any(|_| is_quick()), "that is known by now");
    drop(entered);
    let before = server.connections();
    assert_eq!(runtime.block_on(ask(&mux, LONG, "c")).unwrap(), "c");
    assert_eq!(server.connections(), before);
}

#[test]
fn a_call_on_a_runtime_that_is_not_driven_any_more_is_sent_again_over_another() {
    let server = serve(Behaviour::Echo);
    let mux = mux(&server);
    let runtime = current_thread();
    assert_eq!(runtime.block_on(ask(&mux, LONG, "a")).unwrap(), "a");
    let _entered = runtime.enter();
    let replied = by_hand(asked(&mux, LONG, "b")).unwrap();
    // The caller wrote the first copy itself.
    assert_eq!((&*replied.reply, replied.in_doubt), ("again b", true));
}

#[test]
fn a_runtime_that_is_built_without_io_is_served_by_another() {
    let server = serve(Behaviour::Echo);
    let mux = mux(&server);
    let runtime = Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(ask(&mux, LONG, "a")).unwrap(), "a");
    let opened = server.connections();
    assert_eq!(runtime.block_on(ask(&mux, LONG, "b")).unwrap(), "b");
    assert_eq!(server.connections(), opened, "it is not tried again");
}

#[test]
fn a_runtime_whose_time_stands_still_keeps_the_deadlines() {
    let server = serve(Behaviour::Held);
    let mux = mux(&server);
    server.hold();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        // The runtime's time jumps as soon as nothing is left to do, and no deadline jumps along.
        let ticks = tokio::spawn(tokio::time::sleep(Duration::from_secs(86_400)));
        let start = Instant::now();
        let error = ask(&mux, SOON, "a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(start.elapsed() >= SOON, "{:?}", start.elapsed());
        ticks.await.unwrap();
        server.let_go();
        assert_eq!(ask(&mux, LONG, "b").await.unwrap(), "b");
    });
}

#[test]
fn a_sleep_ends_at_its_time_on_any_runtime_and_on_none() {
    let sleep = || async {
        let end = deadline_in(Duration::from_millis(20));
        sleep_until(end).await.unwrap();
        assert!(Clock::BOOTTIME.now() >= end);
        assert_eq!(ready_by(end, async { 7 }).await.unwrap(), Some(7));
        let never = ready_by(deadline_in(Duration::from_millis(20)), pending::<()>());
        assert_eq!(never.await.unwrap(), None);
    };
    for runtime in runtimes() {
        runtime.block_on(sleep());
    }
    by_hand(sleep());
}
