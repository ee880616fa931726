//! Servers that follow a script: what no Redis server does on demand.

use dlock_core::{ErrorKind, Grant};

use super::*;
use crate::scripted::{micros_now, not_after, scripted, scripted_in_turn, time};

fn granted_reply(fence: u64) -> Vec<u8> {
    let now = micros_now();
    format!("*4\r\n$7\r\ngranted\r\n:{fence}\r\n:30000\r\n:{now}\r\n").into_bytes()
}

fn asked_once(answers: Vec<Vec<u8>>) -> Result<AcquireOutcome, DatastoreError> {
    let (address, _) = scripted(answers);
    let store = patient(&format!("redis://{address}"));
    current_thread().block_on(claims(&store, &claim(KEY)))
}

#[test]
fn a_server_whose_clock_was_set_forward_costs_one_more_trip() {
    let now = micros_now();
    let hour = 3_600_000_000;
    let (address, requests) = scripted(vec![
        time(now),
        format!("*2\r\n$5\r\nstale\r\n:{}\r\n", now + hour).into_bytes(),
        granted_reply(77),
    ]);
    let store = patient(&format!("redis://{address}"));
    let lease = current_thread().block_on(acquired(&store, &claim(KEY)));
    assert_eq!(fence_of(&lease), 77);

    let requests: Vec<_> = requests.try_iter().collect();
    let patience = u64::try_from(LONG.as_micros()).unwrap();
    let (first, second) = (not_after(&requests[1]), not_after(&requests[2]));
    // Early rather than late, by the time that the reply took and this machine was busy.
    assert!((now + patience / 2..=now + patience + 1_000_000).contains(&first));
    assert!((hour - 5_000_000..=hour + 5_000_000).contains(&(second - first)));
}

#[test]
fn a_server_whose_clock_runs_away_is_stale_and_nothing_was_done() {
    let stale = b"*2\r\n$5\r\nstale\r\n:1\r\n".to_vec();
    let error = asked_once(vec![time(micros_now()), stale.clone(), stale]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stale);
    assert!(error.is_transient() && !error.may_have_executed());
}

#[test]
fn a_server_that_never_knows_the_script_is_asked_twice() {
    let unknown = b"-NOSCRIPT No matching script.\r\n".to_vec();
    let error = asked_once(vec![time(micros_now()), unknown.clone(), unknown]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(!error.may_have_executed());
}

#[test]
fn an_answer_that_no_script_of_ours_gives_may_have_been_a_grant() {
    for answer in [
        &b"+OK\r\n"[..],
        b"$7\r\ngranted\r\n",
        b"*1\r\n$7\r\ngranted\r\n",
        b"*4\r\n$7\r\ngranted\r\n:-1\r\n:30000\r\n:1\r\n",
        b"*0\r\n",
        b":7\r\n",
        b":seven\r\n",
        b"-SOMETHING new\r\n",
        b"-\r\n",
        b"_\r\n",
        b"nonsense\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
    ] {
        let shown = String::from_utf8_lossy(answer);
        let (address, _) = scripted(vec![time(micros_now()), answer.to_vec()]);
        let blocking = patient(&format!("redis://{address}"));
        let theirs = dlock_core::Datastore::acquire(&blocking, &claim(KEY), TTL).unwrap_err();
        let (address, _) = scripted(vec![time(micros_now()), answer.to_vec()]);
        let store = patient(&format!("redis://{address}"));
        let error = current_thread()
            .block_on(claims(&store, &claim(KEY)))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{shown:?}: {error:?}");
        assert!(error.may_have_executed(), "{shown:?}");
        let without_port = |error: &DatastoreError| {
            let text = error.to_string();
            let start = text.find("127.0.0.1:").map_or(0, |at| at + 10);
            text[start..]
                .trim_start_matches(|c: char| c.is_ascii_digit())
                .to_owned()
        };
        assert_eq!(
            without_port(&error),
            without_port(&theirs),
            "the same words"
        );
    }
}

#[test]
fn a_reply_without_end_ends() {
    let mut answer = b"*4\r\n$1000000000\r\n".to_vec();
    answer.resize(100_000, b'x');
    let error = asked_once(vec![time(micros_now()), answer]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.may_have_executed());
}

#[test]
fn a_second_reply_that_nobody_asked_for_is_not_taken_for_the_next_answer() {
    let twice = [granted_reply(1), granted_reply(2)].concat();
    let (address, _) = scripted(vec![time(micros_now()), twice, granted_reply(3)]);
    let store = patient(&format!("redis://{address}"));
    current_thread().block_on(async {
        let first = acquired(&store, &claim(KEY)).await;
        assert_eq!(fence_of(&first), 1);
        let second = acquired(&store, &claim("dlock:other")).await;
        assert_eq!(fence_of(&second), 1, "on a fresh connection");
    });
}

#[test]
fn half_a_reply_before_the_end_of_the_connection_may_have_been_a_grant() {
    let error = asked_once(vec![time(micros_now()), b"*4\r\n$7\r\ngran".to_vec()]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.may_have_executed());
}

#[test]
fn a_batch_that_may_have_run_before_a_wrong_server_refused_it_may_have_run_when_none_is_left() {
    let replica = b"-READONLY You can't write against a read only replica.\r\n".to_vec();
    let (address, _) = scripted_in_turn(vec![
        // Reads the batch and closes the connection.
        vec![time(micros_now()), Vec::new()],
        vec![time(micros_now()), replica],
        vec![],
    ]);
    let store = patient(&format!("redis://{address}"));
    let lease = call(&Lease::new(claim(KEY), Grant::new(TTL)), 1);
    let mut answers =
        current_thread().block_on(AsyncDatastore::extend_many(&store, &[(lease, TTL)]));
    let error = answers.pop().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(error.may_have_executed(), "the first server: {error:?}");
}

#[test]
fn what_is_no_redis_server_is_sent_no_claim_and_a_refused_login_shows_no_password() {
    let (address, requests) = scripted(vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()]);
    let store = patient(&format!("redis://:s3cret@{address}"));
    let error = current_thread()
        .block_on(claims(&store, &claim(KEY)))
        .unwrap_err();
    assert!(!error.may_have_executed());
    assert!(requests.try_iter().all(|request| !request.contains("EVAL")));

    let (address, _) = scripted(vec![b"-ERR what is s3cret supposed to mean?\r\n".to_vec()]);
    let store = patient(&format!("redis://:s3cret@{address}"));
    let error = current_thread()
        .block_on(claims(&store, &claim(KEY)))
        .unwrap_err();
    let shown = whole_text(&error);
    assert!(
        shown.contains("ERR") && !shown.contains("s3cret"),
        "{shown}"
    );
}
