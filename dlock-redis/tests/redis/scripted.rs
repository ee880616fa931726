//! Servers that follow a script: what no Redis server does on demand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, SystemTime};

use dlock_core::{Datastore, ErrorKind, Grant, Lease};
use dlock_test_servers::MemcachedServer;

use crate::support::*;

/// A server of one connection after the other, each of which answers its first requests with these
/// texts and closes then. What it is asked comes out of the receiver.
pub(crate) fn scripted(answers: Vec<Vec<u8>>) -> (SocketAddr, Receiver<String>) {
    scripted_in_turn(vec![answers])
}

/// The same with other answers on each connection; on the last and all after it the last ones.
pub(crate) fn scripted_in_turn(connections: Vec<Vec<Vec<u8>>>) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, requests) = channel();
    thread::spawn(move || {
        let last = connections.last().into_iter().cycle();
        let connections = connections.iter().chain(last);
        for (stream, answers) in listener.incoming().zip(connections) {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 8192];
            for answer in answers {
                let Ok(length @ 1..) = stream.read(&mut buffer) else {
                    break;
                };
                let _ = asked.send(String::from_utf8_lossy(&buffer[..length]).into_owned());
                let _ = stream.write_all(answer);
            }
        }
    });
    (address, requests)
}

pub(crate) fn micros_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap().as_micros()).unwrap()
}

/// The reply to TIME.
pub(crate) fn time(micros: u64) -> Vec<u8> {
    let (seconds, micros) = (
        (micros / 1_000_000).to_string(),
        (micros % 1_000_000).to_string(),
    );
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    format!("*2\r\n{}{}", bulk(&seconds), bulk(&micros)).into_bytes()
}

/// The end of the call in a request for the acquire script, in µs: its last argument, in ms.
pub(crate) fn not_after(request: &str) -> u64 {
    let words: Vec<_> = request.lines().collect();
    words[words.len() - 1].parse::<u64>().unwrap() * 1000
}

#[test]
fn a_server_whose_clock_was_set_forward_costs_one_more_trip() {
    let now = micros_now();
    let hour = 3_600_000_000;
    let (address, requests) = scripted(vec![
        time(now),
        format!("*2\r\n$5\r\nstale\r\n:{}\r\n", now + hour).into_bytes(),
        format!(
            "*4\r\n$7\r\ngranted\r\n:77\r\n:30000\r\n:{}\r\n",
            now + hour
        )
        .into_bytes(),
    ]);
    let store = patient(&format!("redis://{address}"));
    let grant = granted(store.acquire(&claim(KEY), TTL));
    assert_eq!(grant.fence.unwrap().get(), 77);

    let requests: Vec<_> = requests.try_iter().collect();
    assert_eq!(requests.len(), 3);
    let patience = u64::try_from(LONG.as_micros()).unwrap();
    let (first, second) = (not_after(&requests[1]), not_after(&requests[2]));
    // Early rather than late, by the time that the reply took and this machine was busy.
    assert!((now + patience / 2..=now + patience + 1_000_000).contains(&first));
    assert!((hour - 5_000_000..=hour + 5_000_000).contains(&(second - first)));
}

#[test]
fn a_server_whose_clock_runs_away_is_stale_and_nothing_was_done() {
    let stale = b"*2\r\n$5\r\nstale\r\n:1\r\n".to_vec();
    let (address, _) = scripted(vec![time(micros_now()), stale.clone(), stale]);
    let store = patient(&format!("redis://{address}"));
    let error = store.acquire(&claim(KEY), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
    assert!(error.is_transient() && !error.may_have_executed());
}

#[test]
fn what_is_no_redis_server_is_a_protocol_error_and_is_sent_no_claim() {
    for greeting in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH\r\n",
        b"ERROR\r\n",
        b"*1\r\n:1\r\n",
        b"*2\r\n$1\r\nx\r\n$1\r\n1\r\n",
        b"*2\r\n$19\r\n9999999999999999999\r\n$1\r\n1\r\n",
        b"$-1\r\n",
        b":1\r\n",
        b"+OK\r\n",
        b"*-5\r\n",
        b"*99999999999999\r\n:1\r\n",
        b"\0\xff\r\n",
    ] {
        let (address, requests) = scripted(vec![greeting.to_vec()]);
        let store = patient(&format!("redis://{address}"));
        let shown = String::from_utf8_lossy(greeting);
        let error = store.acquire(&claim(KEY), TTL).unwrap_err();
        // A server that promises more than it sends has closed the connection.
        let kinds = [ErrorKind::Protocol, ErrorKind::Unreachable];
        assert!(kinds.contains(&error.kind()), "{shown:?}: {error:?}");
        assert!(!error.may_have_executed(), "{shown:?}");
        assert!(requests.try_iter().all(|request| !request.contains("EVAL")));
    }
}

#[test]
fn a_memcached_is_no_redis() {
    let server = MemcachedServer::start();
    let store = patient(&format!("redis://{}", server.address()));
    let error = store.acquire(&claim(KEY), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
}

#[test]
fn an_answer_that_no_script_of_ours_gives_may_have_been_a_grant() {
    for answer in [
        &b"+OK\r\n"[..],
        b"$7\r\ngranted\r\n",
        b"*1\r\n$7\r\ngranted\r\n",
        b"*4\r\n$7\r\ngranted\r\n:-1\r\n:30000\r\n:1\r\n",
        b"*4\r\n$7\r\ngranted\r\n:77\r\n:-1\r\n:1\r\n",
        b"*4\r\n$7\r\ngranted\r\n$1\r\n7\r\n:1\r\n:1\r\n",
        b"*0\r\n",
        b":7\r\n",
        b"-SOMETHING new\r\n",
        b"-\r\n",
        b"_\r\n",
        b"nonsense\r\n",
    ] {
        let (address, _) = scripted(vec![time(micros_now()), answer.to_vec()]);
        let store = patient(&format!("redis://{address}"));
        let error = store.acquire(&claim(KEY), TTL).unwrap_err();
        let shown = String::from_utf8_lossy(answer);
        assert_eq!(error.kind(), ErrorKind::Protocol, "{shown:?}: {error:?}");
        assert!(error.may_have_executed(), "{shown:?}");
    }
}

#[test]
fn a_reply_without_end_ends() {
    let mut answer = b"*4\r\n$1000000000\r\n".to_vec();
    answer.resize(100_000, b'x');
    let (address, _) = scripted(vec![time(micros_now()), answer]);
    let error = patient(&format!("redis://{address}"))
        .acquire(&claim(KEY), TTL)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.may_have_executed());
}

#[test]
fn a_second_reply_that_nobody_asked_for_is_not_taken_for_the_next_answer() {
    let granted_reply = |fence| {
        format!(
            "*4\r\n$7\r\ngranted\r\n:{fence}\r\n:30000\r\n:{}\r\n",
            micros_now()
        )
    };
    let twice = granted_reply(1) + &granted_reply(2);
    let (address, _) = scripted(vec![
        time(micros_now()),
        twice.into_bytes(),
        granted_reply(3).into_bytes(),
    ]);
    let store = patient(&format!("redis://{address}"));
    let first = acquired(&store, &claim(KEY));
    assert_eq!(fence_of(&first), 1);
    let second = acquired(&store, &claim("dlock:other"));
    assert_eq!(fence_of(&second), 1, "on a fresh connection");
}

#[test]
fn half_a_reply_before_the_end_of_the_connection_may_have_been_a_grant() {
    let (address, _) = scripted(vec![time(micros_now()), b"*4\r\n$7\r\ngran".to_vec()]);
    let error = patient(&format!("redis://{address}"))
        .acquire(&claim_within(KEY, Duration::from_secs(5)), TTL)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.may_have_executed());
}

#[test]
fn a_refused_login_shows_nothing_of_what_the_server_says_to_it() {
    let (address, _) = scripted(vec![b"-ERR what is s3cret supposed to mean?\r\n".to_vec()]);
    let store = patient(&format!("redis://:s3cret@{address}"));
    let error = store.acquire(&claim(KEY), TTL).unwrap_err();
    assert!(!error.may_have_executed());
    let shown = whole_text(&error);
    assert!(
        shown.contains("ERR") && !shown.contains("s3cret"),
        "{shown}"
    );
}

#[test]
fn a_batch_whose_server_turns_into_a_replica_half_way_may_have_run() {
    let extended = format!("*3\r\n$8\r\nextended\r\n:30000\r\n:{}\r\n", micros_now());
    let answers = extended + "-READONLY You can't write against a read only replica.\r\n";
    let (address, _) = scripted(vec![time(micros_now()), answers.into_bytes()]);
    let store = patient(&format!("redis://{address}"));
    let lease = |key| (call(&Lease::new(claim(key), Grant::new(TTL)), 1), TTL);
    for answer in store.extend_many(&[lease(KEY), lease("dlock:other")]) {
        let error = answer.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.may_have_executed(), "one of them has");
    }
}
