//! What a process has once for all its multiplexers: the thread that rings alarms, and a runtime.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::ErrorKind;
use dlock_net::deadline_in;
use dlock_net::mux::{Multiplexer, sleep_until};

use super::client::*;
#[cfg(target_os = "linux")]
use crate::no_threads::start_nothing_more;
use crate::support::{Behaviour, serve};
#[cfg(target_os = "linux")]
use crate::support::{in_child, is_alone};

/// Panics when it is woken.
struct Panics(AtomicBool);

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
        panic!("as the test wants it");
    }
}

#[test]
fn a_waker_that_panics_does_not_end_the_alarms_of_other_calls() {
    let panics = Arc::new(Panics(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&panics));
    let mut sleep = pin!(sleep_until(deadline_in(Duration::from_millis(10))));
    let polled = sleep.as_mut().poll(&mut Context::from_waker(&waker));
    // On a busy machine its time may be over already.
    if polled.is_pending() {
        let start = Instant::now();
        while !panics.0.load(Ordering::SeqCst) {
            assert!(start.elapsed() < LONG, "it is not woken");
            thread::sleep(Duration::from_millis(1));
        }
    }
    let (sender, slept) = mpsc::channel();
    thread::spawn(move || {
        by_hand(sleep_until(deadline_in(Duration::from_millis(10)))).unwrap();
        sender.send(()).unwrap();
    });
    slept.recv_timeout(LONG).expect("alarms ring");
}

#[cfg(target_os = "linux")]
#[test]
fn a_call_whose_opening_hangs_ends_in_time_in_a_process_that_had_no_alarm_yet() {
    let name = "a_call_whose_opening_hangs_ends_in_time_in_a_process_that_had_no_alarm_yet";
    if !is_alone(&format!("mux::alarms::{name}")) {
        return;
    }
    let server = serve(Behaviour::Echo);
    let mut lines = Lines::to(&server);
    lines.delay = LONG;
    let mux = Multiplexer::new(lines);
    // A child has no thread of its parent.
    assert!(in_child(|| {
        let start = Instant::now();
        let error = current_thread().block_on(ask(&mux, SOON, "a")).unwrap_err();
        error.kind() == ErrorKind::Timeout
            && !error.may_have_executed()
            && start.elapsed() < LONG / 2
    }));
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_that_can_start_no_thread_is_refused_in_async_code_too() {
    if !is_alone("mux::alarms::a_process_that_can_start_no_thread_is_refused_in_async_code_too") {
        return;
    }
    let server = serve(Behaviour::Echo);
    let mux = mux(&server);
    assert!(in_child(|| {
        assert!(start_nothing_more());
        let write = |(): &mut (), bytes: &mut Vec<u8>, _| bytes.extend_from_slice(b"a\r\n");
        // Tokio panics where a runtime is dropped while a task is polled.
        let is_sent = current_thread()
            .block_on(async { mux.send_at_once(None, deadline_in(LONG), write, |_| ()) });
        let on_a_runtime = current_thread().block_on(ask(&mux, LONG, "b"));
        let on_none = by_hand(ask(&mux, LONG, "c"));
        let refused = |error: &dlock_core::DatastoreError| {
            error.kind() == ErrorKind::Refused && !error.may_have_executed()
        };
        !is_sent
            && on_a_runtime.as_ref().is_err_and(refused)
            && on_none.as_ref().is_err_and(refused)
    }));
    // Nothing was sent for it.
    assert_eq!(server.requests(), 0);
    assert_eq!(by_hand(ask(&mux, LONG, "d")).unwrap(), "d");
}
