//! How a connection is opened: by one call for all.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dlock_core::ErrorKind;
use dlock_net::mux::Multiplexer;

use super::client::*;
use crate::support::{Behaviour, serve};

#[test]
fn one_call_opens_the_connection_and_the_others_wait_each_until_its_deadline() {
    let server = serve(Behaviour::Echo);
    let mut lines = Lines::to(&server);
    lines.delay = 3 * LATE;
    let opened = Arc::clone(&lines.opened);
    let mux = Multiplexer::new(lines);
    current_thread().block_on(async {
        let (patient, hasty, other) = tokio::join!(
            ask(&mux, LONG, "patient"),
            ask(&mux, LATE, "hasty"),
            ask(&mux, LONG, "other"),
        );
        assert_eq!(patient.unwrap(), "patient");
        assert_eq!(other.unwrap(), "other");
        let error = hasty.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(!error.may_have_executed());
    });
    assert_eq!(opened.load(Ordering::SeqCst), 1);
    assert_eq!(server.requests(), 2);
}

#[test]
fn all_who_wait_learn_why_there_is_no_connection_and_the_next_call_tries_again() {
    let server = serve(Behaviour::Echo);
    server.stop();
    let mut lines = Lines::to(&server);
    lines.delay = LATE;
    let opened = Arc::clone(&lines.opened);
    let mux = Multiplexer::new(lines);
    current_thread().block_on(async {
        let (one, other) = tokio::join!(ask(&mux, LONG, "one"), ask(&mux, LONG, "other"));
        for answer in [one, other] {
            let error = answer.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unreachable);
            assert!(!error.may_have_executed());
            assert!(error.to_string().contains("connect: "), "{error}");
        }
        assert_eq!(opened.load(Ordering::SeqCst), 1);
        ask(&mux, LONG, "again").await.unwrap_err();
        assert_eq!(opened.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn a_panic_of_the_opener_is_an_error_and_the_next_call_tries_again() {
    let server = serve(Behaviour::Echo);
    let mux = Multiplexer::new(Panics(Lines::to(&server)));
    let ask = || {
        mux.call(dlock_net::deadline_in(LONG), |(), bytes, _| {
            bytes.extend(b"a\n");
        })
    };
    current_thread().block_on(async {
        let error = ask().await.unwrap_err();
        assert!(!error.may_have_executed());
        assert_eq!(ask().await.unwrap().reply, "a");
    });
}

/// Panics at its first attempt.
struct Panics(Lines);

impl dlock_net::mux::Open for Panics {
    type Writer = ();
    type Replies = LineReplies;

    fn open(
        &self,
        deadline: dlock_core::Time,
    ) -> Result<dlock_net::mux::Opened<(), LineReplies>, dlock_core::DatastoreError> {
        let opened = self.0.open(deadline);
        assert!(
            self.0.opened.load(Ordering::SeqCst) > 1,
            "as the test wants it"
        );
        opened
    }
}

#[test]
fn a_multiplexer_that_is_dropped_while_it_opens_a_connection_closes_it() {
    let server = serve(Behaviour::Echo);
    let mut lines = Lines::to(&server);
    lines.delay = SOON;
    let mux = Multiplexer::new(lines);
    current_thread().block_on(async {
        let asks = tokio::time::timeout(Duration::from_millis(1), ask(&mux, LONG, "a"));
        assert!(asks.await.is_err());
        drop(mux);
        while server.connections() == 0 || server.open() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}
