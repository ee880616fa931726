use dlock_core::{Claim, Clock, Grant, Lease};

use super::*;

/// A server's time, in µs.
const NOW: i64 = 1_795_476_271_000_000;
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn bulk(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

/// A list that begins with a name and ends with numbers, and has what stands between.
fn list(name: &str, middle: Option<Value>, numbers: &[i64]) -> Value {
    let numbers = numbers.iter().copied().map(Value::Int);
    Value::Array(
        [bulk(name)]
            .into_iter()
            .chain(middle)
            .chain(numbers)
            .collect(),
    )
}

fn error(text: &str) -> Value {
    redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap()
}

fn fence(number: u64) -> FencingToken {
    FencingToken::new(number)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a reply is to one call of each script.
struct Read {
    acquire: Result<(Answer, ServerTime), Unanswered>,
    extend: Result<(Answer, ServerTime), Unanswered>,
    release: Result<(Answer, ServerTime), Unanswered>,
    look: Result<(Answer, ServerTime), Unanswered>,
}

fn read(reply: &Value) -> Read {
    let ttl = ms(60_000);
    let claim = Claim::new("dlock:a", &Clock::BOOTTIME, ttl).unwrap();
    let lease = Lease::new(claim.clone(), Grant::new(ttl));
    let (key, owner, process) = (claim.key(), claim.owner(), None);
    let acquire = Call::Acquire {
        claim: &claim,
        ttl,
        process,
    };
    let release = Call::Release {
        key,
        owner,
        process,
    };
    let process = "process";
    Read {
        acquire: answer(reply, &acquire),
        extend: answer(reply, &Call::Extend(&lease, ttl)),
        release: answer(reply, &release),
        look: answer(reply, &Call::Look { key, process }),
    }
}

/// What a reply is that is the same one to every call.
fn read_by_all(reply: &Value) -> Result<(Answer, ServerTime), Unanswered> {
    let read = read(reply);
    for other in [read.extend, read.release, read.look] {
        assert_eq!(other, read.acquire, "{reply:?}");
    }
    read.acquire
}

#[test]
fn a_time_is_the_usual_answer_to_an_acquire_and_to_an_extend_only() {
    for time in [LEAST_TIME, NOW, i64::MAX] {
        let read = read(&Value::Int(time));
        let granted = Answer::Granted {
            fence: fence(time.unsigned_abs()),
            left: None,
        };
        assert_eq!(read.acquire, Ok((granted, Some(time))));
        assert_eq!(read.extend, Ok((Answer::Extended(None), Some(time))));
        assert_eq!(read.release, Err(Unanswered::Odd), "{time}");
        assert_eq!(read.look, Err(Unanswered::Odd), "{time}");
    }
}

#[test]
fn zero_is_a_lost_lease_and_one_a_release() {
    let zero = read(&Value::Int(0));
    assert_eq!(zero.extend, Ok((Answer::Lost, None)));
    assert_eq!(zero.release, Ok((Answer::Released(false), None)));
    assert_eq!(zero.acquire, Err(Unanswered::Odd));
    assert_eq!(zero.look, Err(Unanswered::Odd));
    let one = read(&Value::Int(1));
    assert_eq!(one.release, Ok((Answer::Released(true), None)));
    for other in [one.acquire, one.extend, one.look] {
        assert_eq!(other, Err(Unanswered::Odd));
    }
}

#[test]
fn a_number_that_is_no_time_and_no_truth_answers_nothing() {
    for number in [i64::MIN, -NOW, -2, -1, 2, LEAST_TIME - 1] {
        assert_eq!(
            read_by_all(&Value::Int(number)),
            Err(Unanswered::Odd),
            "{number}"
        );
    }
}

#[test]
fn every_list_of_the_scripts_is_read() {
    let record = || Some(bulk("3 dlock1 host 1 2 3 running a label"));
    let held = || {
        Held::new()
            .with_expires_in(ms(29_000))
            .with_holder_text("dlock1 host 1 2 3 running a label")
            .with_fence(fence(17))
    };
    let queued = |generation, is_first| {
        let place = QueuePlace {
            generation,
            is_first,
        };
        Answer::Queued(held(), place)
    };
    let granted = |number, millis| Answer::Granted {
        fence: fence(number),
        left: Some(ms(millis)),
    };
    for (reply, answer) in [
        (
            list("granted", None, &[17, 29_000, NOW]),
            granted(17, 29_000),
        ),
        (list("granted", None, &[0, 0, NOW]), granted(0, 0)),
        (
            list("held", record(), &[29_000, NOW, 17]),
            Answer::Held(held()),
        ),
        (
            list("queued", record(), &[29_000, NOW, 17, 7, 1]),
            queued(7, true),
        ),
        (
            list("queued", record(), &[29_000, NOW, 17, 8, 0]),
            queued(8, false),
        ),
        (
            list("extended", None, &[29_000, NOW]),
            Answer::Extended(Some(ms(29_000))),
        ),
        // Somebody took its end away.
        (list("extended", None, &[-1, NOW]), Answer::Extended(None)),
        (list("stale", None, &[NOW]), Answer::Stale),
    ] {
        assert_eq!(read_by_all(&reply), Ok((answer, Some(NOW))), "{reply:?}");
    }
}

#[test]
fn a_look_tells_of_the_lock_and_of_the_queue() {
    let owner = OwnerToken::from_hex(TOKEN);
    assert!(owner.is_some());
    for (token, left, next, look) in [
        (TOKEN, 1200, 0, (owner, Left::For(ms(1200)), false)),
        ("", 0, 1, (None, Left::For(Duration::ZERO), true)),
        ("", -1, 1, (None, Left::Endless, true)),
        ("", -2, 0, (None, Left::Free, false)),
        ("no token", -2, 2, (None, Left::Free, false)),
    ] {
        let reply = list("looked", Some(bulk(token)), &[left, next, 7, NOW]);
        let (handed_to, left, has_next) = look;
        let look = Look {
            handed_to,
            left,
            has_next,
            generation: 7,
        };
        let looked = Ok((Answer::Looked(look), Some(NOW)));
        assert_eq!(read_by_all(&reply), looked, "{reply:?}");
    }
}

#[test]
fn a_refusal_says_what_the_record_and_the_fence_say() {
    let held = |record: &[u8], left, fence| {
        let record = Some(Value::BulkString(record.to_vec()));
        match read_by_all(&list("held", record, &[left, NOW, fence])) {
            Ok((Answer::Held(held), Some(NOW))) => held,
            other => panic!("{other:?}"),
        }
    };
    let unknown = || Held::new().with_expires_in(ms(5));
    let ours = || unknown().with_holder_text("holder of two words");
    let handed = b"@process holder of two words";
    assert_eq!(
        held(b"0 holder of two words", 5, 17),
        ours().with_fence(fence(17))
    );
    assert_eq!(held(handed, 5, 1), ours().with_fence(fence(1)));
    assert_eq!(held(handed, 5, 0), ours(), "the fence was lost");
    assert_eq!(held(handed, 5, -1), ours(), "that is no fence");
    for foreign in [
        &b""[..],
        b"1",
        b"x holder",
        b"-1 holder",
        b" holder",
        b"1 \xff",
    ] {
        assert_eq!(held(foreign, 5, 17), unknown(), "{foreign:?}");
        assert_eq!(held(foreign, -1, 17), Held::new(), "{foreign:?}");
    }
}

#[test]
fn an_unknown_script_is_an_answer_and_every_other_error_a_refusal() {
    let unknown = error("NOSCRIPT No matching script.");
    assert_eq!(read_by_all(&unknown), Ok((Answer::NoScript, None)));
    let full = error("OOM command not allowed");
    let refused = || Unanswered::Refused(ServerError::new("OOM", "command not allowed"));
    assert_eq!(read_by_all(&full), Err(refused()));
    assert_eq!(time(&full), Err(refused()));
    assert_eq!(done(&full), Err(refused()));
}

#[test]
fn what_no_script_answers_is_odd() {
    let record = || Some(bulk("3 holder"));
    for reply in [
        Value::Nil,
        Value::Okay,
        Value::SimpleString("granted".to_owned()),
        bulk("granted"),
        Value::Array(vec![]),
        Value::Array(vec![Value::Int(NOW)]),
        Value::Array(vec![list("granted", None, &[17, 29_000, NOW])]),
        list("", None, &[]),
        list("given", None, &[17, 29_000, NOW]),
        list("Granted", None, &[17, 29_000, NOW]),
        // A negative token or time.
        list("granted", None, &[-1, 29_000, NOW]),
        list("granted", None, &[17, -1, NOW]),
        // One part too few, one too many, another kind of part.
        list("granted", None, &[17, 29_000]),
        list("granted", None, &[17, 29_000, NOW, 0]),
        list("granted", Some(bulk("17")), &[29_000, NOW]),
        list("held", record(), &[29_000, NOW]),
        list("held", record(), &[29_000, NOW, 17, 7]),
        list("held", None, &[3, 29_000, NOW, 17]),
        list("queued", record(), &[29_000, NOW, 17, 7]),
        list("queued", record(), &[29_000, NOW, 17, 7, 1, 0]),
        list("queued", Some(Value::Nil), &[29_000, NOW, 17, 7, 1]),
        list("looked", Some(bulk(TOKEN)), &[1200, 1, 7]),
        list("looked", Some(bulk(TOKEN)), &[1200, 1, 7, NOW, 0]),
        list("looked", Some(Value::Nil), &[1200, 1, 7, NOW]),
        list("extended", None, &[29_000]),
        list("extended", None, &[29_000, NOW, 0]),
        list("extended", Some(bulk("29000")), &[NOW]),
        list("stale", None, &[]),
        list("stale", None, &[NOW, 0]),
        list("stale", Some(Value::Nil), &[]),
    ] {
        assert_eq!(read_by_all(&reply), Err(Unanswered::Odd), "{reply:?}");
    }
}

#[test]
fn the_servers_time_is_read_and_nothing_else_taken_for_one() {
    let two = |seconds: &str, micros: &str| Value::Array(vec![bulk(seconds), bulk(micros)]);
    assert_eq!(time(&two("1795476271", "000017")), Ok(NOW + 17));
    assert_eq!(time(&two("0", "1")), Ok(1));
    for reply in [
        two("", "1"),
        two("1", ""),
        two("x", "1"),
        two("1", " 1"),
        // Beyond what a number holds, in each step.
        two("9223372036854775808", "0"),
        two("9223372036854775807", "0"),
        two("9223372036854", "999999"),
        Value::Array(vec![Value::BulkString(vec![0xff]), bulk("1")]),
        Value::Array(vec![Value::Int(1), bulk("1")]),
        Value::Array(vec![bulk("1")]),
        Value::Array(vec![bulk("1"), bulk("1"), bulk("1")]),
        Value::Array(vec![]),
        Value::Int(NOW),
        Value::Nil,
    ] {
        assert_eq!(time(&reply), Err(Unanswered::Odd), "{reply:?}");
    }
}

#[test]
fn only_ok_means_done() {
    assert_eq!(done(&Value::Okay), Ok(()));
    for reply in [Value::Nil, Value::Int(1), bulk("OK"), Value::Array(vec![])] {
        assert_eq!(done(&reply), Err(Unanswered::Odd), "{reply:?}");
    }
}
