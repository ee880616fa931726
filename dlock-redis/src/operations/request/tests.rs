//! Requests, read back.

use dlock_core::{Claim, Clock, FencingToken, Grant, Lease, Time};

use super::super::call::Kind;
use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const NOT_AFTER: u64 = 1_795_476_271_000_000;

/// The words of the requests, as the redis crate reads them; a script's hash or text left out.
fn words(packer: &Packer) -> Vec<Vec<String>> {
    let (mut rest, mut requests) = (packer.bytes(), Vec::new());
    while !rest.is_empty() {
        let mut parser = crate::wire::Parser::default();
        let redis::Value::Array(words) = parser.reply(&mut rest).unwrap() else {
            panic!("a request is a list")
        };
        let mut words: Vec<String> = words
            .into_iter()
            .map(|word| redis::from_redis_value(word).unwrap())
            .collect();
        let script = words.remove(1);
        assert_eq!(script.len() == 40, words[0] == "EVALSHA", "{script}");
        requests.push(words);
    }
    requests
}

fn claim(key: &str) -> Claim {
    let claim = Claim::new(key, &Clock::BOOTTIME, MINUTE).unwrap();
    claim.with_holder("who holds it")
}

/// The words of a request with all keys of `key`.
fn expected(name: &str, key: &str, arguments: &[&str]) -> Vec<String> {
    with_keys(4, name, key, arguments)
}

/// The same with only the first `count` of them.
fn with_keys(count: usize, name: &str, key: &str, arguments: &[&str]) -> Vec<String> {
    let beside = |name: &str| format!("{{{key}}}:{name}");
    let keys = [
        key.to_owned(),
        beside("fence"),
        beside("queue"),
        beside("heartbeats"),
    ];
    let arguments = arguments.iter().map(ToString::to_string);
    [name.to_owned(), count.to_string()]
        .into_iter()
        .chain(keys.into_iter().take(count))
        .chain(arguments)
        .collect()
}

#[test]
fn each_request_names_its_own_keys_whatever_was_sent_before() {
    let mut packer = Packer::default();
    let mut right = Vec::new();
    // An empty one first: nothing was packed before it.
    for key in ["", "dlock:a", "dlock:a", "dlock:b", "dlock:a", ""] {
        let (claim, owner) = (claim(key), claim(key).owner());
        let acquire = |process, queues| Call::Acquire {
            claim: &claim,
            ttl: Duration::from_micros(1_500),
            process,
            queues,
            again: false,
            keys: Keys::Few,
        };
        let release = |process| Call::Release {
            record: Record {
                key,
                owner,
                sequence: 12,
                process,
                holder: "who holds it",
            },
            keys: Keys::Few,
        };
        let record = format!("{} 0 who holds it", claim.owner());
        let named = format!("{} 0@abc who holds it", claim.owner());
        let extended = format!("{owner} 12 who holds it");
        let extended_there = format!("{owner} 12@abc who holds it");
        let now = (NOT_AFTER / 1000).to_string();
        let process = "abc";
        let leave = Call::Leave {
            key,
            owner,
            process,
        };
        let give_back = Call::GiveBack {
            key,
            owner,
            process,
        };
        let heartbeat = |asks, last| Call::Heartbeat {
            key,
            process,
            asks,
            last,
        };
        let last = Some(owner);
        let owner = owner.to_string();

        let mut sent = |call: Call<'_>, form, expected| {
            packer.push(call, form, NOT_AFTER);
            right.push(expected);
        };
        let acquires = [
            (acquire(None, false), 2, &record, [].as_slice()),
            (acquire(Some("abc"), false), 2, &named, &[]),
            (acquire(Some("abc"), true), 4, &named, &["abc"]),
            (acquire(None, false).once_more(), 2, &record, &["", "again"]),
            (
                acquire(Some("abc"), true).once_more(),
                4,
                &named,
                &["abc", "again"],
            ),
            (acquire(None, false).with_all_keys(), 4, &record, &[]),
        ];
        for (call, keys, record, more) in acquires {
            let arguments = [&[&**record, "2", &*now], more].concat();
            let expected = |name| with_keys(keys, name, key, &arguments);
            sent(call, Form::Hash, expected("EVALSHA"));
            sent(call, Form::Text, expected("EVAL"));
        }
        for (call, keys, record) in [
            (release(None), 1, &extended),
            (release(Some("abc")), 1, &extended_there),
            (release(None).with_all_keys(), 4, &extended),
        ] {
            let arguments = match keys {
                1 => &[&**record, "", "", "deletes"][..],
                _ => &[&**record],
            };
            sent(call, Form::Hash, with_keys(keys, "EVALSHA", key, arguments));
        }
        packer.push(leave, Form::Hash, NOT_AFTER);
        right.push(expected("EVALSHA", key, &[&owner, "abc"]));
        packer.push(give_back, Form::Hash, NOT_AFTER);
        right.push(expected("EVALSHA", key, &[&owner, "abc", "handed"]));
        packer.push(heartbeat(false, None), Form::Hash, NOT_AFTER);
        right.push(expected("EVALSHA", key, &["abc", "0"]));
        packer.push(heartbeat(true, last), Form::Hash, NOT_AFTER);
        right.push(expected("EVALSHA", key, &["abc", "1", &owner]));
        packer.push(Call::Holder(key), Form::Hash, NOT_AFTER);
        let fence = format!("{{{key}}}:fence");
        right.push(["EVALSHA", "2", key, &fence].map(String::from).to_vec());
        let seventeen = FencingToken::new(17);
        packer.push(
            Call::Break(key, seventeen, Keys::All),
            Form::Hash,
            NOT_AFTER,
        );
        right.push(expected("EVALSHA", key, &["17"]));
        packer.push(
            Call::TakeBack(&claim, seventeen, Keys::All),
            Form::Hash,
            NOT_AFTER,
        );
        let claimant = claim.owner().to_string();
        right.push(expected("EVALSHA", key, &["17", &claimant]));
        let few = Call::Break(key, seventeen, Keys::All).with_few_keys();
        packer.push(few.unwrap(), Form::Hash, NOT_AFTER);
        right.push(
            ["EVALSHA", "2", key, &fence, "17"]
                .map(String::from)
                .to_vec(),
        );
        let few = Call::TakeBack(&claim, seventeen, Keys::All).with_few_keys();
        packer.push(few.unwrap(), Form::Hash, NOT_AFTER);
        let words = ["EVALSHA", "2", key, &fence, "17", &claimant];
        right.push(words.map(String::from).to_vec());
    }
    assert_eq!(words(&packer), right);
    packer.clear();
    assert!(packer.bytes().is_empty());
}

#[test]
fn a_fence_is_kept_for_as_long_as_was_asked_and_for_twice_a_time_to_live() {
    let claim = claim("dlock:a");
    let day = Duration::from_secs(86_400);
    let kept = |keep: Option<Duration>, ttl, again| {
        let mut packer = Packer::default();
        if let Some(keep) = keep {
            packer.keep_fences_for(keep);
        }
        let call = Call::Acquire {
            claim: &claim,
            ttl,
            process: None,
            queues: false,
            again,
            keys: Keys::Few,
        };
        packer.push(call, Form::Hash, NOT_AFTER);
        words(&packer)[0].get(7..).unwrap_or_default().to_vec()
    };
    let nothing: [&str; 0] = [];
    assert_eq!(kept(None, MINUTE, false), nothing);
    assert_eq!(kept(Some(FENCE_KEEP), FENCE_KEEP / 2, false), nothing);
    assert_eq!(kept(None, day * 4, false), ["", "", "691200000"]);
    assert_eq!(kept(Some(day), MINUTE, false), ["", "", "86400000"]);
    assert_eq!(kept(Some(day), day, true), ["", "again", "172800000"]);
}

#[test]
fn a_record_without_a_mark_is_deleted_as_the_server_can() {
    let claim = claim("dlock:a");
    let record = Record {
        key: "dlock:a",
        owner: claim.owner(),
        sequence: 3,
        process: Some("abc"),
        holder: "who holds it",
    };
    let text = format!("{} 3@abc who holds it", claim.owner());
    let few = Keys::Few;
    let call = Call::Release { record, keys: few };
    let written = |deletes| {
        let mut packer = Packer {
            deletes,
            ..Packer::default()
        };
        packer.push(call, Form::Hash, NOT_AFTER);
        let mut parser = crate::wire::Parser::default();
        let request = parser.reply(packer.bytes()).unwrap();
        redis::from_redis_value::<Vec<String>>(request).unwrap()
    };
    assert_eq!(
        written(Deletes::Delifeq),
        ["DELIFEQ", "dlock:a", &text].map(String::from)
    );
    let delex = ["DELEX", "dlock:a", "IFEQ", &text];
    assert_eq!(written(Deletes::Delex), delex.map(String::from));
    assert_eq!(written(Deletes::ByScript)[2..], ["1", "dlock:a", &text]);

    for (deletes, kind) in [
        (Deletes::Unknown, Kind::Free),
        (Deletes::ByScript, Kind::Free),
        (Deletes::Delifeq, Kind::Delete),
        (Deletes::Delex, Kind::Delete),
    ] {
        assert_eq!(call.kind_with(deletes), kind);
        let all = call.with_all_keys();
        assert_eq!(all.kind_with(deletes), Kind::Free, "a script");
    }
}

#[test]
fn an_extend_names_the_queue_only_if_it_may_end_within_a_heartbeat() {
    let lease = Lease::new(claim("dlock:a"), Grant::new(MINUTE)).for_call(7, Time::MAX);
    let owner = lease.owner().to_string();
    let now = NOT_AFTER.to_string();
    let arguments = |ttl| [&*owner, "who holds it", ttl, &*now, "7"];

    let mut packer = Packer::default();
    let short = HEARTBEAT_EVERY - Duration::from_millis(1);
    packer.push(Call::Extend(&lease, short), Form::Hash, NOT_AFTER);
    packer.push(Call::Extend(&lease, HEARTBEAT_EVERY), Form::Hash, NOT_AFTER);
    let mut long = vec!["EVALSHA", "1", "dlock:a"];
    long.extend(arguments("1000"));
    let right = [
        expected("EVALSHA", "dlock:a", &arguments("999")),
        long.into_iter().map(String::from).collect(),
    ];
    assert_eq!(words(&packer), right);
}

#[test]
fn the_replicas_are_asked_for_behind_what_they_shall_have() {
    let mut packer = Packer::default();
    packer.push(Call::Holder(""), Form::Hash, NOT_AFTER);
    let before = packer.bytes().len();
    packer.push_wait(2, 100);
    let wait = "*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$3\r\n100\r\n";
    assert_eq!(&packer.bytes()[before..], wait.as_bytes());
}

#[test]
fn a_time_to_live_is_rounded_up() {
    assert_eq!(millis_up(Duration::ZERO), 0);
    assert_eq!(millis_up(Duration::from_nanos(1)), 1);
    assert_eq!(millis_up(Duration::from_millis(10)), 10);
    assert_eq!(millis_up(Duration::MAX), u64::MAX);
}
