//! Servers that follow a script: what no memcached server does on demand. Both forms meet the same
//! server and give the same verdict.

use dlock_core::{Datastore, ErrorKind};

use super::*;
use crate::unexpected_servers::{HANDSHAKE, Script, scripted_in_turn};

/// What a call comes to: the answer, or kind, text and whether it may have been executed.
fn verdict<T: std::fmt::Debug>(outcome: Result<T, DatastoreError>) -> String {
    match outcome {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => {
            let (kind, maybe) = (error.kind(), error.may_have_executed());
            format!("{kind:?} {maybe}: {}", without_ports(&text(&error)))
        }
    }
}

/// Each server has another port.
fn without_ports(text: &str) -> String {
    let mut parts = text.split("127.0.0.1:");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        shown.push_str("server");
        shown.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    shown
}

/// A claim in both forms, each at a server of its own with these scripts.
fn claimed(scripts: &[Script], verify: bool) -> String {
    let store = || {
        let address = scripted_in_turn(scripts.to_vec(), true);
        let store = MemcacheDatastore::builder(&format!("memcache://{address}")).unwrap();
        let store = store.call_timeout(CALL).connect_timeout(CALL);
        store.verify_before_grant(verify).build()
    };
    let fences = |outcome: Result<AcquireOutcome, DatastoreError>| {
        verdict(outcome.map(|outcome| match outcome {
            AcquireOutcome::Granted(grant) => format!("granted {:?}", grant.fence),
            AcquireOutcome::Held(held) => format!("held by {:?}", held.fence()),
        }))
    };
    let blocking = fences(Datastore::acquire(&store(), &claim("dlock:scripted"), LONG));
    let (on_runtime, claim) = (store(), claim("dlock:scripted"));
    let shared = fences(current_thread().block_on(claims(&on_runtime, &claim)));
    assert_eq!(blocking, shared, "{scripts:?}");
    shared
}

#[test]
fn an_answer_that_is_not_of_the_request_is_no_grant_and_may_have_been_one() {
    for answer in [
        &b"EN\r\n"[..],
        b"HD\r\n",
        b"HD c\r\n",
        b"HD c-7\r\n",
        b"VA 3 t60 c5\r\nabc\r\n",
        b"VA three\r\n",
        b"MN\r\n",
        b"XX\r\n",
        b"\r\n",
        b"+OK\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ] {
        let script: Script = Box::leak(Box::new([HANDSHAKE, answer]));
        let verdict = claimed(&[script], false);
        let shown = String::from_utf8_lossy(answer);
        assert!(verdict.starts_with("Protocol true"), "{shown:?}: {verdict}");
    }
}

#[test]
fn a_server_that_rejects_the_command_of_a_claim_is_unsupported() {
    for answer in [
        &b"ERROR\r\nERROR\r\n"[..],
        b"CLIENT_ERROR bad data chunk\r\nERROR\r\n",
    ] {
        let script: Script = Box::leak(Box::new([HANDSHAKE, answer]));
        let verdict = claimed(&[script], false);
        assert!(verdict.starts_with("Unsupported"), "{verdict}");
    }
}

#[test]
fn a_grant_without_a_cas_number_is_undone_and_unsupported() {
    let verdict = claimed(&[&[HANDSHAKE, b"HD c0\r\n", b"HD\r\n"]], false);
    assert!(verdict.starts_with("Unsupported false"), "{verdict}");
    let verdict = claimed(
        &[&[HANDSHAKE, b"HD c0\r\n", b"SERVER_ERROR busy\r\n"]],
        false,
    );
    assert!(verdict.starts_with("Unsupported true"), "{verdict}");
}

#[test]
fn a_line_without_end_ends() {
    let answer: &[u8] = Box::leak(vec![b'x'; 100_000].into_boxed_slice());
    let script: Script = Box::leak(Box::new([HANDSHAKE, answer]));
    let verdict = claimed(&[script], false);
    assert!(verdict.starts_with("Protocol true"), "{verdict}");
}

#[test]
fn half_an_answer_before_the_end_of_both_connections_may_have_been_a_grant() {
    let half: Script = &[HANDSHAKE, b"HD c"];
    let verdict = claimed(&[half, half], false);
    assert!(verdict.starts_with("Unreachable true"), "{verdict}");
}

#[test]
fn what_is_no_memcached_server_is_sent_no_claim() {
    let verdict = claimed(&[&[b"HTTP/1.1 400 Bad Request\r\n\r\n"]], false);
    assert!(verdict.starts_with("Protocol false"), "{verdict}");
}

#[test]
fn a_verified_claim_whose_second_turn_fails_may_have_been_done() {
    // The claim is stored, and the look finds nothing: it was lost again. The second turn finds
    // somebody's record and cannot read it. That changes nothing, but the first turn stored.
    let fails: Script = &[
        HANDSHAKE,
        b"HD c5\r\n",
        b"EN\r\n",
        b"NS\r\n",
        b"SERVER_ERROR busy\r\n",
    ];
    let verdict = claimed(&[fails], true);
    assert!(verdict.starts_with("Refused true"), "{verdict}");
}

#[test]
fn a_verified_claim_whose_connection_breaks_in_its_second_turn_may_have_been_done() {
    let other = b"VA 37 t60 c9\r\n0123456789abcdef0123456789abcdef 7 1 x\r\n";
    let breaks: Script = &[HANDSHAKE, b"HD c5\r\n", b"EN\r\n", b"NS\r\n", b""];
    let refuses: Script = Box::leak(Box::new([HANDSHAKE, b"NS\r\n", &other[..]]));
    // A copy of the first claim may be on its way, so the refusal proves nothing.
    let verdict = claimed(&[breaks, refuses], true);
    assert!(verdict.starts_with("Unreachable true"), "{verdict}");
}

#[test]
fn answers_in_the_wrong_order_grant_nothing_and_the_connection_is_not_used_again() {
    // A claim and a look are under way at a time; the server answers the look first.
    let crossed: Script = &[HANDSHAKE, b"EN\r\n", b"EN\r\nHD c5\r\n"];
    let right: Script = &[HANDSHAKE, b"EN\r\n", b"HD c6\r\n"];
    let address = scripted_in_turn([crossed, right], false);
    let store = store_at(&format!("memcache://{address}"));
    current_thread().block_on(async {
        let claim = claim(&key("aio-crossed"));
        let lease = Lease::new(support::claim(&key("aio-looked")), Grant::new(LONG));
        not_ours(releases(&store, &lease).await);
        let (claimed, looked) = tokio::join!(claims(&store, &claim), releases(&store, &lease));
        let error = claimed.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.may_have_executed());
        // The look is repeated over a fresh connection, and not answered with what was the claim's.
        not_ours(looked);
        let next = taken(&store, &key("aio-next")).await;
        assert!(next.fence().is_some());
    });
}

#[test]
fn a_second_answer_that_nobody_asked_for_is_not_taken_for_the_next() {
    let twice: Script = &[HANDSHAKE, b"HD c5\r\nHD c6\r\n"];
    let once: Script = &[HANDSHAKE, b"HD c7\r\n"];
    let address = scripted_in_turn([twice, once], false);
    let store = store_at(&format!("memcache://{address}"));
    current_thread().block_on(async {
        let first = taken(&store, &key("aio-first")).await;
        let second = taken(&store, &key("aio-second")).await;
        let apart = second.fence().unwrap().get() - first.fence().unwrap().get();
        assert_eq!(apart, 2, "on a fresh connection");
    });
}

#[test]
fn a_value_too_large_to_wait_for_is_held_and_its_rest_is_not_taken_for_an_answer() {
    let huge: Script = &[HANDSHAKE, b"NS\r\n", b"VA 2000000 t60 c5\r\nHD c6\r\n"];
    let next: Script = &[HANDSHAKE, b"HD c7\r\n"];
    let address = scripted_in_turn([huge, next], false);
    let store = store_at(&format!("memcache://{address}"));
    current_thread().block_on(async {
        let seen = held(claims(&store, &claim(&key("aio-huge"))).await);
        assert_eq!(seen.fence(), None);
        let _ = taken(&store, &key("aio-next")).await;
    });
}

#[test]
fn a_large_value_of_another_client_is_held_and_costs_no_connection() {
    let server = server();
    let key = key("aio-large");
    let large = "x".repeat(500_000);
    assert_eq!(foreign_add(server, &key, &large, 60), "STORED");
    current_thread().block_on(async {
        let (proxy, store) = through_a_proxy().await;
        assert_eq!(held(claims(&store, &claim(&key)).await).holder(), None);
        ours(releases(&store, &taken(&store, &support::key("aio-next")).await).await);
        assert_eq!(proxy.counts().connections, 0);
    });
}
