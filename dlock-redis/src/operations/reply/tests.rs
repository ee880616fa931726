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
    heartbeat: Result<(Answer, ServerTime), Unanswered>,
    holder: Result<(Answer, ServerTime), Unanswered>,
}

fn read(reply: &Value) -> Read {
    Read {
        acquire: answer_to(reply, Kind::Acquire),
        extend: answer_to(reply, Kind::Extend),
        release: answer_to(reply, Kind::Free),
        heartbeat: answer_to(reply, Kind::Heartbeat),
        holder: answer_to(reply, Kind::Holder),
    }
}

/// What a reply is that is the same one to every call.
fn read_by_all(reply: &Value) -> Result<(Answer, ServerTime), Unanswered> {
    let read = read(reply);
    for other in [read.extend, read.release, read.heartbeat, read.holder] {
        assert_eq!(other, read.acquire, "{reply:?}");
    }
    read.acquire
}

fn learned(deletes: &mut Deletes, mut answer: Answer) -> Answer {
    deletes.learn(&mut answer);
    answer
}

#[test]
fn a_time_is_the_usual_answer_to_an_acquire_and_to_an_extend_only() {
    // A clock that was never set, one that was, and the last that a number holds.
    for time in [LEAST_TIME, 86_400_000_000, NOW, i64::MAX] {
        let read = read(&Value::Int(time));
        let granted = Answer::Granted {
            fence: fence(time.unsigned_abs()),
            left: None,
        };
        assert_eq!(read.acquire, Ok((granted, Some(time))));
        assert_eq!(read.extend, Ok((Answer::Extended(None), Some(time))));
        assert_eq!(read.release, Err(Unanswered::Malformed), "{time}");
        assert_eq!(read.heartbeat, Err(Unanswered::Malformed), "{time}");
        assert_eq!(read.holder, Err(Unanswered::Malformed), "{time}");
    }
}

#[test]
fn zero_is_a_lost_lease_and_one_a_release() {
    let zero = read(&Value::Int(0));
    assert_eq!(zero.extend, Ok((Answer::Lost, None)));
    assert_eq!(zero.release, Ok((Answer::Released(false), None)));
    assert_eq!(zero.acquire, Err(Unanswered::Malformed));
    assert_eq!(zero.heartbeat, Err(Unanswered::Malformed));
    assert_eq!(zero.holder, Ok((Answer::Free, None)));
    let one = read(&Value::Int(1));
    assert_eq!(one.release, Ok((Answer::Released(true), None)));
    for other in [one.acquire, one.extend, one.heartbeat, one.holder] {
        assert_eq!(other, Err(Unanswered::Malformed));
    }
}

#[test]
fn a_number_that_is_no_time_and_no_truth_answers_nothing() {
    for number in [i64::MIN, -NOW, -2, -1, 2, LEAST_TIME - 1] {
        assert_eq!(
            read_by_all(&Value::Int(number)),
            Err(Unanswered::Malformed),
            "{number}"
        );
    }
}

#[test]
fn every_list_of_the_scripts_is_read() {
    let record = || Some(bulk("3 dlock1 host 1 2 3 running a label"));
    let held = || {
        HeldBy::new()
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
    let marked = Ok((Answer::Marked, None));
    assert_eq!(read_by_all(&list("marked", None, &[])), marked);
}

#[test]
fn a_release_tells_how_it_is_done_without_a_script() {
    for (name, deletes) in [
        ("DELIFEQ", Deletes::Delifeq),
        ("DELEX", Deletes::Delex),
        ("", Deletes::ByScript),
    ] {
        for ours in [0, 1] {
            let parts = vec![bulk("released"), Value::Int(ours), bulk(name)];
            let answered = read_by_all(&Value::Array(parts));
            let told = Answer::ReleasedAnd(ours == 1, deletes);
            assert_eq!(answered, Ok((told.clone(), None)));
            let mut known = Deletes::Unknown;
            assert_eq!(learned(&mut known, told), Answer::Released(ours == 1));
            assert_eq!(known, deletes);
        }
    }
    let parts = vec![bulk("released"), Value::Int(1), bulk("DEL")];
    let odd = read_by_all(&Value::Array(parts));
    assert_eq!(odd, Err(Unanswered::Malformed));
}

#[test]
fn a_record_that_was_not_deleted_is_left_to_the_script() {
    let read = |reply: &Value| answer_to(reply, Kind::Delete);
    assert_eq!(read(&Value::Int(1)), Ok((Answer::Released(true), None)));
    assert_eq!(read(&Value::Int(0)), Ok((Answer::Marked, None)));
    assert_eq!(read(&Value::Int(2)), Err(Unanswered::Malformed));
    for text in [
        "ERR unknown command 'DELIFEQ', with args beginning with: ",
        "NOPERM User app has no permissions to run the 'delifeq' command",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
    ] {
        assert_eq!(read(&error(text)), Ok((Answer::NotDeleted, None)), "{text}");
        let mut known = Deletes::Delifeq;
        assert_eq!(learned(&mut known, Answer::NotDeleted), Answer::Marked);
        assert_eq!(known, Deletes::ByScript);
        // Not the script's errors.
        let by_script = answer_to(&error(text), Kind::Free);
        assert!(matches!(by_script, Err(Unanswered::Refused(_))), "{text}");
    }
    for text in [
        "MOVED 1 127.0.0.1:7",
        "READONLY no",
        "LOADING yes",
        "ERR upstream failure",
        "ERR",
    ] {
        let refused = read(&error(text));
        assert!(matches!(refused, Err(Unanswered::Refused(_))), "{text}");
    }
}

#[test]
fn a_heartbeat_tells_of_the_lock_and_of_the_queue() {
    let owner = OwnerToken::from_hex(TOKEN);
    assert!(owner.is_some());
    for (token, left, next, heartbeat) in [
        (TOKEN, 1200, 0, (owner, Left::For(ms(1200)), false)),
        ("", 0, 1, (None, Left::For(Duration::ZERO), true)),
        ("", -1, 1, (None, Left::Endless, true)),
        ("", -2, 0, (None, Left::Free, false)),
        ("no token", -2, 2, (None, Left::Free, false)),
    ] {
        let reply = list("heartbeat", Some(bulk(token)), &[left, next, 7, NOW]);
        let (handed_to, left, has_next) = heartbeat;
        let heartbeat = HeartbeatReply {
            handed_to,
            left,
            has_next,
            generation: 7,
        };
        let expected = Ok((Answer::Heartbeat(Box::new(heartbeat)), Some(NOW)));
        assert_eq!(read_by_all(&reply), expected, "{reply:?}");
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
    let unknown = || HeldBy::new().with_expires_in(ms(5));
    let ours = || unknown().with_holder_text("holder of two words");
    let handed = b"@process holder of two words";
    let named = b"7@process holder of two words";
    assert_eq!(held(named, 5, 17), ours().with_fence(fence(17)));
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
        b"x@process holder",
        b"1 \xff",
    ] {
        assert_eq!(held(foreign, 5, 17), unknown(), "{foreign:?}");
        assert_eq!(held(foreign, -1, 17), HeldBy::new(), "{foreign:?}");
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
        list("heartbeat", Some(bulk(TOKEN)), &[1200, 1, 7]),
        list("heartbeat", Some(bulk(TOKEN)), &[1200, 1, 7, NOW, 0]),
        list("heartbeat", Some(Value::Nil), &[1200, 1, 7, NOW]),
        list("extended", None, &[29_000]),
        list("extended", None, &[29_000, NOW, 0]),
        list("extended", Some(bulk("29000")), &[NOW]),
        list("stale", None, &[]),
        list("stale", None, &[NOW, 0]),
        list("stale", Some(Value::Nil), &[]),
    ] {
        assert_eq!(read_by_all(&reply), Err(Unanswered::Malformed), "{reply:?}");
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
        assert_eq!(time(&reply), Err(Unanswered::Malformed), "{reply:?}");
    }
}

#[test]
fn an_answer_that_too_few_replicas_have_is_another() {
    let replicas = Replicas::new(2, Duration::from_secs(1)).unwrap();
    let fence = FencingToken::new(7);
    let after = |answer: &Answer, by| answer.clone().acknowledged(Ok(by), replicas).unwrap();
    for left in [None, Some(Duration::from_secs(1))] {
        let granted = Answer::Granted { fence, left };
        assert_eq!(after(&granted, 2), granted);
        assert_eq!(after(&granted, 3), granted);
        let few = Answer::Unacknowledged(replicas.error(1), Some(fence));
        assert_eq!(after(&granted, 1), few);
    }
    let extended = Answer::Extended(None);
    assert_eq!(after(&extended, 2), extended);
    let few = Answer::Unacknowledged(replicas.error(1), None);
    assert_eq!(after(&extended, 1), few);
    let overtaken = Answer::Extended(Some(Duration::from_secs(1)));
    let nobody = Answer::Unacknowledged(replicas.error(0), None);
    assert_eq!(after(&overtaken, 2), nobody);
    for other in [Answer::Lost, Answer::Stale, Answer::Held(HeldBy::new())] {
        assert_eq!(after(&other, 0), other);
    }
}

#[test]
fn a_server_that_does_not_say_who_has_acknowledged_makes_what_it_wrote_a_doubt() {
    let replicas = Replicas::new(1, Duration::from_secs(1)).unwrap();
    let refused = || Err(ServerError::new("NOPERM", "no permission").into());
    let fence = FencingToken::new(7);
    for written in [
        Answer::Granted { fence, left: None },
        Answer::Extended(None),
        Answer::Extended(Some(Duration::from_secs(1))),
    ] {
        let error = written.acknowledged(refused(), replicas).unwrap_err();
        assert!(error.may_have_executed());
    }
    for other in [Answer::Lost, Answer::Stale, Answer::Held(HeldBy::new())] {
        let same = other.clone().acknowledged(refused(), replicas);
        assert_eq!(same.unwrap(), other);
    }
}

#[test]
fn the_number_of_replicas_is_a_number() {
    let count = |reply| answer_to(&reply, Kind::Wait(1)).map(|(answer, _)| answer);
    assert_eq!(count(Value::Int(0)), Ok(Answer::Acknowledged(0)));
    assert_eq!(count(Value::Int(3)), Ok(Answer::Acknowledged(3)));
    assert_eq!(
        count(Value::Int(i64::MAX)),
        Ok(Answer::Acknowledged(u32::MAX))
    );
    for reply in [Value::Int(-1), Value::Okay, Value::Nil] {
        assert_eq!(count(reply), Err(Unanswered::Malformed));
    }
}

#[test]
fn only_ok_means_done() {
    assert_eq!(done(&Value::Okay), Ok(()));
    for reply in [Value::Nil, Value::Int(1), bulk("OK"), Value::Array(vec![])] {
        assert_eq!(done(&reply), Err(Unanswered::Malformed), "{reply:?}");
    }
}
