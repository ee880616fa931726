//! A call ends by its deadline, whatever the server does.

use std::time::Duration;

use crate::support::{Behaviour, pool, serve, timed};
use dlock_core::ErrorKind;

/// By how much a call may overshoot its deadline on a busy machine. Without a deadline each call
/// would take far longer.
const GRACE: Duration = Duration::from_secs(6);

#[test]
fn a_reply_that_drips_does_not_extend_the_call() {
    let server = serve(Behaviour::Drip(Duration::from_millis(100)));
    let pool = pool(&server, 2);
    // The whole reply would take 20 seconds.
    let question = "x".repeat(200);
    let within = Duration::from_secs(4);
    let (taken, answer) = timed(|| pool.ask(within, &question));
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.may_have_executed());
    assert!(taken >= within * 9 / 10, "{taken:?}");
    assert!(taken < within + GRACE, "{taken:?}");
}

#[test]
fn a_silent_server_ends_the_call_at_its_deadline() {
    let server = serve(Behaviour::Silent);
    let pool = pool(&server, 2);
    let (taken, answer) = timed(|| pool.ask(Duration::from_millis(300), "hello"));
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(taken < Duration::from_millis(300) + GRACE, "{taken:?}");
}

#[test]
fn a_request_that_the_server_does_not_read_ends_at_its_deadline_and_was_not_executed() {
    let server = serve(Behaviour::Silent);
    let pool = pool(&server, 2);
    let huge = "x".repeat(16 << 20);
    let (taken, answer) = timed(|| pool.ask(Duration::from_millis(300), &huge));
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(
        !error.may_have_executed(),
        "the server has not received the whole request"
    );
    assert!(taken < Duration::from_millis(300) + GRACE, "{taken:?}");
}

#[test]
fn a_deadline_that_has_passed_sends_nothing() {
    let server = serve(Behaviour::Echo);
    let pool = pool(&server, 2);
    let error = pool.ask(Duration::ZERO, "hello").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
    assert_eq!(server.requests(), 0);
}

#[test]
fn an_endless_line_is_a_protocol_error() {
    let server = serve(Behaviour::Endless);
    let pool = pool(&server, 2);
    let error = pool.ask(Duration::from_secs(20), "hello").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

#[test]
fn a_refused_connection_fails_at_once_with_the_reason() {
    let server = serve(Behaviour::Echo);
    let pool = pool(&server, 2);
    server.stop();
    let (taken, answer) = timed(|| pool.ask(Duration::from_secs(20), "hello"));
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(!error.may_have_executed());
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.contains("connect") && source.contains("refused"),
        "{source}"
    );
    assert!(taken < Duration::from_secs(10), "{taken:?}");
}

#[cfg(unix)]
#[test]
fn a_unix_socket_with_a_full_backlog_ends_at_the_deadline() {
    use dlock_net::{Endpoint, Socket, deadline_in};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    // No connection is accepted.
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let endpoint = Endpoint::Unix(path);
    let mut waiting = Vec::new();
    let (taken, error) = timed(|| {
        loop {
            match Socket::connect(&endpoint, deadline_in(Duration::from_millis(300))) {
                Ok(socket) => waiting.push(socket),
                Err(error) => return error,
            }
            assert!(waiting.len() < 10_000, "the backlog never fills up");
        }
    });
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
    assert!(taken < Duration::from_secs(10), "{taken:?}");
}
