//! Servers that are too old, answer garbage, or are not memcached, and answers that a real server
//! rarely gives.

// A panic is how a helper of a test fails.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use crate::support::*;
use dlock_core::{Claim, Clock, Datastore, ErrorKind, Grant, Lease};
use dlock_test_servers::RedisServer;

/// The answers on one connection, one for each request.
pub(crate) type Script = &'static [&'static [u8]];

/// A server that sends these answers on every connection, whatever the requests, and then is silent
/// or closes.
pub(crate) fn scripted(answers: Script, closes: bool) -> SocketAddr {
    scripted_in_turn(std::iter::repeat(answers), closes)
}

/// A server that uses the next script for each connection.
pub(crate) fn scripted_in_turn(
    scripts: impl IntoIterator<Item = Script> + Send + 'static,
    closes: bool,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (stream, answers) in listener.incoming().zip(scripts) {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                let mut request = [0; 4096];
                for answer in answers {
                    if stream.read(&mut request).unwrap_or(0) == 0
                        || stream.write_all(answer).is_err()
                    {
                        return;
                    }
                }
                if !closes {
                    let _ = stream.read(&mut request);
                    thread::sleep(Duration::from_secs(20));
                }
            });
        }
    });
    address
}

pub(crate) const HANDSHAKE: &[u8] =
    b"STAT pid 7\r\nSTAT uptime 100\r\nSTAT time 1800000000\r\nSTAT version 1.6.18\r\nEND\r\n\
    STAT evictions on\r\nSTAT cas_enabled yes\r\nEND\r\nMN\r\n";
const OLD_GREETING: &[u8] =
    b"STAT pid 7\r\nSTAT uptime 100\r\nSTAT time 1800000000\r\nSTAT version 1.4.39\r\nEND\r\nEND\r\nERROR\r\n";
const NAMELESS_OLD_GREETING: &[u8] =
    b"STAT pid 7\r\nSTAT uptime 100\r\nSTAT time 1800000000\r\nEND\r\nEND\r\nERROR\r\n";

#[test]
fn servers_too_old_for_the_meta_protocol_are_unsupported() {
    for (handshake, reason) in [
        (OLD_GREETING, "memcached 1.4.39"),
        (NAMELESS_OLD_GREETING, "meta protocol"),
    ] {
        let address = scripted(Box::leak(Box::new([handshake])), false);
        let store = store_at(&format!("memcache://{address}"));
        let error = store.acquire(&claim(&key("old")), LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(!error.may_have_executed());
        assert!(text(&error).contains(reason), "{}", text(&error));
    }
}

#[test]
fn a_server_that_rejects_the_command_of_a_claim_is_unsupported() {
    for answer in [
        &b"ERROR\r\nERROR\r\n"[..],
        b"CLIENT_ERROR bad data chunk\r\nERROR\r\n",
    ] {
        let address = scripted(Box::leak(Box::new([HANDSHAKE, answer])), false);
        let store = store_at(&format!("memcache://{address}"));
        let error = store.acquire(&claim(&key("rejected")), LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{}", text(&error));
    }
}

#[test]
fn a_grant_without_a_cas_number_is_undone_and_unsupported() {
    let address = scripted(&[HANDSHAKE, b"HD c0\r\n", b"HD\r\n"], false);
    let store = store_at(&format!("memcache://{address}"));
    let error = store.acquire(&claim(&key("zero")), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(!error.may_have_executed(), "the key was deleted");
    let reason = format!("{address} runs with -C");
    assert!(text(&error).contains(&reason), "{}", text(&error));
}

#[test]
fn a_grant_without_a_cas_number_that_could_not_be_undone_may_stand() {
    let address = scripted(&[HANDSHAKE, b"HD c0\r\n", b"SERVER_ERROR busy\r\n"], false);
    let store = store_at(&format!("memcache://{address}"));
    let error = store.acquire(&claim(&key("zero")), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.may_have_executed(), "{}", text(&error));
}

#[test]
fn a_connection_with_an_unread_value_is_not_used_again() {
    let owes: Script = &[HANDSHAKE, b"NS\r\n", b"VA 100 t60 c5\r\n"];
    let grants: Script = &[HANDSHAKE, b"HD c6\r\n"];
    let address = scripted_in_turn([owes, grants], false);
    let store = store_at(&format!("memcache://{address}"));
    let hurried = claim_within(&key("owed"), Duration::from_secs(1));
    let error = store.acquire(&hurried, LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{}", text(&error));
    let _ = granted(store.acquire(&claim(&key("next")), LONG));
}

#[test]
fn a_connection_on_which_nothing_was_found_is_used_again() {
    let free: Script = &[HANDSHAKE, b"EN\r\n", b"HD c6\r\n"];
    let address = scripted_in_turn([free], false);
    let store = store_at(&format!("memcache://{address}"));
    not_ours(store.release(&call(&Lease::new(claim(&key("free")), Grant::new(LONG)), 1)));
    let _ = granted(store.acquire(&claim(&key("next")), LONG));
}

#[test]
fn a_release_whose_connection_broke_after_its_read_freed_nothing() {
    let breaks: Script = &[HANDSHAKE, b"EN\r\n", b""];
    let finds_nothing: Script = &[HANDSHAKE, b"EN\r\n"];
    let address = scripted_in_turn([breaks, finds_nothing], true);
    let store = store_at(&format!("memcache://{address}"));
    let lease = Lease::new(claim(&key("looked")), Grant::new(LONG));
    for sequence in [1, 2] {
        not_ours(store.release(&call(&lease, sequence)));
    }
}

/// The answer to a get that finds the claim's record after its call numbered `sequence`. On the
/// wire [`LONG`] is two seconds longer, and one of them has passed.
fn found(claim: &Claim, sequence: u64, cas: u64) -> &'static [u8] {
    let value = format!("{} 1 {sequence} holder", claim.owner());
    let (length, seconds) = (value.len(), LONG.as_secs() + 1);
    let answer = format!("VA {length} t{seconds} c{cas}\r\n{value}\r\n");
    answer.into_bytes().leak()
}

/// Returns whether `ttl` is more than the seconds of [`found`] guarantee alone. If the machine
/// stands still for a second, only those seconds count.
fn is_in_full(ttl: Duration, took: Duration) -> bool {
    let second = Duration::from_secs(1);
    ttl > LONG - second || took > second * 9 / 10 && ttl > LONG - second - took
}

#[test]
fn an_extend_that_is_sent_again_is_promised_in_full_though_the_servers_second_has_changed() {
    let claim = claim(&key("second"));
    // The answer to the extend is lost with the connection.
    let first: Script = &[HANDSHAKE, b"HD c5\r\n", b""];
    let second = Box::leak(Box::new([HANDSHAKE, b"EX\r\n", found(&claim, 1, 6)]));
    let address = scripted_in_turn([first, second], true);
    let store = store_at(&format!("memcache://{address}"));
    let grant = granted(store.acquire(&claim, LONG));
    let lease = call(&Lease::new(claim, grant), 1);
    let (took, grant) = timed(|| extended(store.extend(&lease, LONG)));
    assert!(is_in_full(grant.ttl, took), "{:?} in {took:?}", grant.ttl);
}

#[test]
fn a_batch_that_is_sent_again_is_promised_in_full_though_the_servers_second_has_changed() {
    let claim = claim(&key("batch"));
    let acquires: Script = &[HANDSHAKE, b"HD c5\r\n"];
    // The connection for renewals was used before; its second batch is lost.
    let renews: Script = &[HANDSHAKE, b"HD c6\r\n", b""];
    let again = Box::leak(Box::new([
        HANDSHAKE,
        b"EX\r\n",
        b"EX\r\n",
        found(&claim, 2, 7),
    ]));
    let address = scripted_in_turn([acquires, renews, again], true);
    let store = store_at(&format!("memcache://{address}"));
    let grant = granted(store.acquire(&claim, LONG));
    let lease = call(&Lease::new(claim, grant), 1);
    let extend = |lease: &Lease| extended(store.extend_many(&[(lease.clone(), LONG)]).remove(0));
    let lease = call(&lease.renewed(extend(&lease)), 2);
    let (took, grant) = timed(|| extend(&lease));
    assert!(is_in_full(grant.ttl, took), "{:?} in {took:?}", grant.ttl);
}

#[test]
fn a_lease_is_confirmed_in_full_though_the_servers_second_has_changed() {
    let claim = claim(&key("confirmed"));
    let acquires: Script = &[HANDSHAKE, b"HD c5\r\n"];
    let confirms = Box::leak(Box::new([HANDSHAKE, found(&claim, 0, 5)]));
    let address = scripted_in_turn([acquires, confirms], true);
    let store = store_at(&format!("memcache://{address}"));
    let before = Clock::BOOTTIME.now();
    let (took, (called, ttl)) = timed(|| {
        let grant = granted(store.acquire(&claim, LONG));
        let lease = call(&Lease::new(claim.clone(), grant), 1);
        let called = Clock::BOOTTIME.now();
        (called, extended(store.confirm(&lease)).ttl)
    });
    // The granted time, counted from the grant.
    let kept = before.until(called.saturating_add(ttl));
    let second = Duration::from_secs(1);
    assert!(kept >= LONG || took > second * 9 / 10 && kept >= LONG - second);
}

#[test]
fn a_full_server_declines() {
    let address = scripted(
        &[
            HANDSHAKE,
            b"SERVER_ERROR out of memory storing object\r\n",
            b"EN\r\n",
        ],
        false,
    );
    let store = store_at(&format!("memcache://{address}"));
    let claim = claim(&key("full"));
    let error = store.acquire(&claim, LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.is_transient());
    assert!(text(&error).contains("out of memory"), "{}", text(&error));
    // The connection is in step and remains usable.
    store.abandon(&again(&claim)).unwrap();
}

#[test]
fn a_port_where_something_else_answers_is_a_protocol_error() {
    let redis = RedisServer::start();
    let answers: [&'static [u8]; 5] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0\x01\x02\xff\r\n\r\n",
        b"STAT pid x\r\nSTAT uptime y\r\nEND\r\nEND\r\nMN\r\n",
        b"\r\n",
    ];
    let addresses = answers.map(|answer| scripted(Box::leak(Box::new([answer])), true));
    for address in addresses.into_iter().chain([redis.address()]) {
        let store = store_at(&format!("memcache://{address}"));
        let error = store.acquire(&claim(&key("other")), LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{}", text(&error));
        assert!(!error.may_have_executed(), "{}", text(&error));
        assert!(
            text(&error).contains(&address.to_string()),
            "{}",
            text(&error)
        );
    }
}

#[test]
fn garbage_and_half_a_reply_are_typed_errors() {
    for (answer, closes, kind) in [
        (&b"HD c"[..], true, ErrorKind::Unreachable),
        (b"HD c12", false, ErrorKind::Timeout),
        (b"HD\r\n", false, ErrorKind::Protocol),
        (b"HD cx\r\n", false, ErrorKind::Protocol),
        (b"HD c99999999999999999999\r\n", false, ErrorKind::Protocol),
        (b"HD c18446744073709551615\r\n", false, ErrorKind::Protocol),
        (b"EN\r\n", false, ErrorKind::Protocol),
        (b"\r\n", false, ErrorKind::Protocol),
        (b"XX\r\n", false, ErrorKind::Protocol),
        (b"\xff\xfe\xfd\r\n", false, ErrorKind::Protocol),
    ] {
        let address = scripted(Box::leak(Box::new([HANDSHAKE, answer])), closes);
        let store = store_at(&format!("memcache://{address}"));
        let within = match kind {
            ErrorKind::Timeout => Duration::from_secs(5),
            _ => CALL,
        };
        let claim = claim_within(&key("garbage"), within);
        let error = store.acquire(&claim, LONG).unwrap_err();
        assert_eq!(error.kind(), kind, "{answer:?}: {}", text(&error));
        assert!(error.may_have_executed(), "{answer:?}: {}", text(&error));
    }
}

#[test]
fn garbage_instead_of_a_value_is_a_typed_error() {
    for answer in [
        &b"VA\r\n"[..],
        b"VA x t1 c1\r\n",
        b"VA 99999999999999999999999 t1 c1\r\n",
        b"VA 3 t1 c1\r\nabcdefg\r\n",
        b"VA 3 c1\r\nabc\r\n",
        b"VA 3 t1\r\nabc\r\n",
        b"HD\r\n",
    ] {
        let address = scripted(Box::leak(Box::new([HANDSHAKE, b"NS\r\n", answer])), false);
        let store = store_at(&format!("memcache://{address}"));
        let error = store.acquire(&claim(&key("value")), LONG).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::Protocol,
            "{answer:?}: {}",
            text(&error)
        );
        assert!(!error.may_have_executed(), "the claim was refused");
    }
}

#[test]
fn a_call_gives_up_on_a_key_that_changes_its_holder_again_and_again() {
    let round: [&[u8]; 9] = [
        HANDSHAKE, b"NS\r\n", b"EN\r\n", b"NS\r\n", b"EN\r\n", b"NS\r\n", b"EN\r\n", b"NS\r\n",
        b"EN\r\n",
    ];
    let address = scripted(Box::leak(Box::new(round)), false);
    let store = store_at(&format!("memcache://{address}"));
    let error = store.acquire(&claim(&key("hands")), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(!error.may_have_executed());
}
