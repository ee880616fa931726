use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;
use crate::{Endpoint, Socket, deadline_in};
use dlock_core::ErrorKind;

/// Longer than any test waits for an expected event.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

fn within(time: Duration) -> Deadline {
    Deadline::at(deadline_in(time))
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 0))
}

/// A lookup that counts its calls and can be made to hang or to fail.
#[derive(Default)]
struct Names {
    hangs: AtomicBool,
    fails: AtomicBool,
    last: AtomicUsize,
    asked: AtomicUsize,
    running: AtomicUsize,
}

impl Names {
    fn resolver() -> (Arc<Names>, Resolver) {
        let names = Arc::new(Names::default());
        let asked = Arc::clone(&names);
        let resolver = Resolver::new(move |_| asked.answer());
        (names, resolver)
    }

    fn answer(&self) -> io::Result<Vec<SocketAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
        while self.hangs.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(2));
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("no name server"));
        }
        let last = u8::try_from(self.last.load(Ordering::SeqCst)).unwrap();
        Ok(vec![address(last)])
    }

    fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }
}

#[test]
fn a_name_that_is_not_resolved_ends_with_the_call() {
    let (names, resolver) = Names::resolver();
    names.hang(true);
    let endpoint: Endpoint = "db.example.org:1".parse().unwrap();
    let error = Socket::connect_with(&resolver, &endpoint, deadline_in(SHORT)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(!error.may_have_executed());
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        source.contains("db.example.org:1") && source.contains("not resolved"),
        "{source}"
    );
    names.hang(false);
}

#[test]
fn all_callers_share_one_lookup_of_a_name() {
    let (names, resolver) = Names::resolver();
    names.hang(true);
    let (send, receive) = mpsc::channel();
    for _ in 0..20 {
        let (resolver, send) = (resolver.clone(), send.clone());
        thread::spawn(move || send.send(resolver.resolve("db", 7, &within(LONG))).unwrap());
    }
    while names.running.load(Ordering::SeqCst) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(resolver.resolve("db", 7, &within(SHORT)).is_err());
    names.hang(false);
    for _ in 0..20 {
        let answer = receive.recv().unwrap().unwrap();
        assert_eq!(answer, [SocketAddr::from(([10, 0, 0, 0], 7))]);
    }
    let asked = names.asked.load(Ordering::SeqCst);
    // A caller that came after the answer may have started a new lookup.
    assert!((1..=20).contains(&asked), "{asked}");
}

#[test]
fn lookups_that_hang_leave_a_bounded_number_of_threads_behind() {
    let (names, resolver) = Names::resolver();
    names.hang(true);
    let short = Duration::from_millis(2);
    for n in 0..MAX_LOOKUPS * 4 {
        for _ in 0..3 {
            assert!(
                resolver
                    .resolve(&format!("host{n}"), 7, &within(short))
                    .is_err()
            );
        }
    }
    while names.running.load(Ordering::SeqCst) < MAX_LOOKUPS {
        thread::sleep(Duration::from_millis(1));
    }
    let error = resolver.resolve("more", 7, &within(LONG)).unwrap_err();
    assert!(
        error.to_string().contains("names are being resolved"),
        "{error}"
    );
    assert_eq!(names.asked.load(Ordering::SeqCst), MAX_LOOKUPS);
    names.hang(false);
    while resolver.resolve("more", 7, &within(LONG)).is_err() {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_last_good_answer_stands_in_for_one_that_does_not_come_or_fails() {
    let (names, resolver) = Names::resolver();
    let resolve = || resolver.resolve("db", 0, &within(SHORT));
    // A name that was never resolved has no old answer.
    names.fails.store(true, Ordering::SeqCst);
    assert!(resolver.resolve("db", 0, &within(LONG)).is_err());
    names.fails.store(false, Ordering::SeqCst);
    assert_eq!(
        resolver.resolve("db", 0, &within(LONG)).unwrap(),
        [address(0)]
    );

    names.last.store(1, Ordering::SeqCst);
    names.fails.store(true, Ordering::SeqCst);
    assert_eq!(resolve().unwrap(), [address(0)]);
    names.hang(true);
    assert_eq!(
        resolve().unwrap(),
        [address(0)],
        "with time left to connect"
    );
    assert_eq!(resolve().unwrap(), [address(0)]);

    // The new answer is used as soon as there is one.
    names.fails.store(false, Ordering::SeqCst);
    names.hang(false);
    while resolver.resolve("db", 0, &within(LONG)).unwrap() == [address(0)] {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(resolve().unwrap(), [address(1)]);
}

#[test]
fn an_answer_is_kept_for_an_hour() {
    let came = Clock::BOOTTIME.now();
    let mut state = State::default();
    state.names.entry("db".to_owned()).or_default().good = Some((came, vec![address(1)]));
    let at = |after| state.kept("db", came.saturating_add(after));
    assert!(at(KEPT_FOR - Duration::from_secs(1)).is_some());
    assert!(at(KEPT_FOR).is_none());
}

#[test]
fn an_answer_without_addresses_and_a_lookup_that_panics_are_errors() {
    let empty = Resolver::new(|_| Ok(Vec::new()));
    let error = empty.resolve("db", 0, &within(LONG)).unwrap_err();
    assert_eq!(error.to_string(), "the host has no address");
    let panics = Resolver::new(|_| panic!("a lookup"));
    let error = panics.resolve("db", 0, &within(LONG)).unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
}

#[test]
fn an_ip_address_needs_no_lookup() {
    let resolver = Resolver::new(|_| unreachable!("no lookup is needed"));
    for host in ["10.0.0.1", "::1", "fe80::1%1"] {
        let found = resolver.resolve(host, 7, &within(LONG)).unwrap();
        assert_eq!(found.len(), 1, "{host}");
        assert_eq!(found[0].port(), 7);
    }
}

#[test]
fn the_system_knows_this_machine() {
    let resolver = Resolver::system();
    let found = resolver.resolve("localhost", 7, &within(LONG)).unwrap();
    assert!(
        found.iter().all(|address| address.ip().is_loopback()),
        "{found:?}"
    );
}
