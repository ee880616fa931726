use std::fmt::Debug;

use dlock_core::ErrorKind;
use proptest::prelude::*;

use super::*;
use crate::fuzzing::wire;
use crate::operations::record::MAX_RECORD;
use dlock_net::testing::Pieces;

/// Reads an answer. Returns it, and whether the connection can be used again.
fn read<T: Debug>(
    bytes: &[u8],
    read: impl Fn(&mut Wire<Pieces>) -> Result<T, DatastoreError>,
) -> (Result<T, Failure>, bool) {
    let mut wire = wire(bytes, 0);
    let answer = read(&mut wire).map_err(|error| failure(&error));
    (answer, wire.is_usable())
}

/// The kind of an error, and whether the command may have been carried out.
type Failure = (ErrorKind, bool);

fn failure(error: &DatastoreError) -> Failure {
    (error.kind(), error.may_have_executed())
}

const UNEXPECTED: Failure = (ErrorKind::Protocol, true);
const CUT_OFF: Failure = (ErrorKind::Unreachable, true);
const FULL: Failure = (ErrorKind::Refused, true);

#[test]
fn the_answer_to_a_store_is_read() {
    for (answer, stored_now) in [
        (&b"HD c7\r\n"[..], Ok(Stored::Done(7))),
        (b"HD c0\r\n", Ok(Stored::Done(0))),
        (b"HD t3 c7\r\n", Ok(Stored::Done(7))),
        (b"NF\r\n", Ok(Stored::NotFound)),
        (b"EX\r\n", Ok(Stored::Other)),
        (b"NS\r\n", Ok(Stored::Other)),
        (b"SERVER_ERROR out of memory\r\n", Err(FULL)),
        (b"HD\r\n", Err(UNEXPECTED)),
        (b"HD c\r\n", Err(UNEXPECTED)),
        (b"HD c-7\r\n", Err(UNEXPECTED)),
        (b"EN\r\n", Err(UNEXPECTED)),
    ] {
        let usable = stored_now != Err(UNEXPECTED);
        assert_eq!(read(answer, stored), (stored_now, usable), "{answer:?}");
    }
}

#[test]
fn the_answer_to_a_delete_is_read() {
    for (answer, deleted_now) in [
        (&b"HD\r\n"[..], Ok(Deleted::Done)),
        (b"NF\r\n", Ok(Deleted::NotFound)),
        (b"EX\r\n", Ok(Deleted::Other)),
        (b"NS\r\n", Err(UNEXPECTED)),
        (b"EN\r\n", Err(UNEXPECTED)),
    ] {
        let usable = deleted_now != Err(UNEXPECTED);
        assert_eq!(read(answer, deleted), (deleted_now, usable), "{answer:?}");
        let acknowledged = read(answer, acknowledged);
        assert_eq!(acknowledged, (Ok(()), true), "{answer:?}");
    }
}

#[test]
fn after_an_answer_that_may_go_on_the_connection_is_not_used_again() {
    let rejected = (ErrorKind::Unsupported, false);
    for (answer, failure) in [
        (&b"ERROR\r\n"[..], rejected),
        (b"CLIENT_ERROR bad data chunk\r\n", rejected),
        (b"XX\r\n", UNEXPECTED),
        (b"\r\n", UNEXPECTED),
        (b"HD c7", CUT_OFF),
        (b"", CUT_OFF),
    ] {
        assert_eq!(read(answer, stored), (Err(failure), false), "{answer:?}");
        assert_eq!(read(answer, deleted), (Err(failure), false), "{answer:?}");
        let acknowledged = read(answer, acknowledged);
        assert_eq!(acknowledged, (Err(failure), false), "{answer:?}");
        assert_eq!(read(answer, item), (Err(failure), false), "{answer:?}");
    }
}

#[test]
fn an_answer_to_another_request_makes_the_connection_unusable() {
    for odd in [&b"VA 3 t30 c7\r\n"[..], b"EN\r\n", b"MN\r\n"] {
        assert_eq!(read(odd, stored), (Err(UNEXPECTED), false));
        assert_eq!(read(odd, deleted), (Err(UNEXPECTED), false));
        let (answers, usable) = read(odd, |wire| many_stored(wire, 1));
        assert!(answers.unwrap()[0].is_err() && !usable);
    }
    assert_eq!(read(b"HD\r\n", stored), (Err(UNEXPECTED), false));
    assert_eq!(read(b"HD\r\n", item), (Err(UNEXPECTED), false));
    assert_eq!(
        read(b"VA 3 t30 c7\r\n", acknowledged),
        (Err(UNEXPECTED), false)
    );
}

#[test]
fn the_answers_to_many_gets_are_read_one_by_one() {
    let three = |bytes: &[u8]| {
        let (answers, usable) = read(bytes, |wire| many_items(wire, 3));
        let seen = |answer: Result<Option<Item>, DatastoreError>| match answer {
            Ok(Some(item)) => format!("{} {}", item.cas, item.value.len()),
            Ok(None) => "none".to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        };
        let answers = answers.map(|answers| answers.into_iter().map(seen).collect::<Vec<_>>());
        (answers, usable)
    };
    let ok = |answers: &[&str]| Ok(answers.iter().map(ToString::to_string).collect::<Vec<_>>());
    let value = b"VA 3 t30 c7\r\nabc\r\n";
    assert_eq!(
        three(&[&value[..], b"EN\r\n", value].concat()),
        (ok(&["7 3", "none", "7 3"]), true)
    );
    // An error of one answer does not affect the next.
    assert_eq!(
        three(&[&b"SERVER_ERROR out of memory\r\n"[..], value, b"EN\r\n"].concat()),
        (ok(&["Refused", "7 3", "none"]), true)
    );
    // After a value that was not read to its end, nothing more is read.
    assert_eq!(
        three(&[&value[..], b"VA 70000 t30 c8\r\n", b"EN\r\n"].concat()),
        (ok(&["7 3", "8 0"]), false)
    );
    assert_eq!(
        three(&[&value[..], b"HD\r\n", b"EN\r\n"].concat()),
        (ok(&["7 3", "Protocol"]), false)
    );
    assert_eq!(
        three(&[&value[..], b"VA 3"].concat()),
        (ok(&["7 3", "Unreachable"]), false)
    );
    assert!(three(b"").0.is_err());
}

/// The answers to three stores, as far as they arrived.
fn three_stored(bytes: &[u8]) -> (Result<Vec<Result<Stored, Failure>>, Failure>, bool) {
    let (answers, usable) = read(bytes, |wire| many_stored(wire, 3));
    let each = |answer: Result<Stored, DatastoreError>| answer.map_err(|error| failure(&error));
    let answers = answers.map(|answers| answers.into_iter().map(each).collect());
    (answers, usable)
}

#[test]
fn the_answers_to_many_stores_are_read_one_by_one() {
    let seven = || Ok(Stored::Done(7));
    for (bytes, answers, usable) in [
        (
            &b"HD c7\r\nNF\r\nEX\r\n"[..],
            vec![seven(), Ok(Stored::NotFound), Ok(Stored::Other)],
            true,
        ),
        // An error of one answer does not affect the next.
        (
            b"SERVER_ERROR out of memory\r\nHD c7\r\nEN\r\n",
            vec![Err(FULL), seven(), Err(UNEXPECTED)],
            false,
        ),
        (
            b"HD c7\r\nERROR\r\nHD c7\r\n",
            vec![seven(), Err((ErrorKind::Unsupported, false))],
            false,
        ),
        (b"HD c7\r\nHD c", vec![seven(), Err(CUT_OFF)], false),
    ] {
        assert_eq!(three_stored(bytes), (Ok(answers), usable), "{bytes:?}");
    }
}

#[test]
fn where_nothing_was_answered_there_are_no_answers_to_many_stores() {
    assert_eq!(three_stored(b""), (Err(CUT_OFF), false));
    assert_eq!(three_stored(b"HD c"), (Err(CUT_OFF), false));
    let rejected = Err((ErrorKind::Unsupported, false));
    assert_eq!(three_stored(b"ERROR\r\nHD c7\r\n"), (rejected, false));
    // A refusal counts as an answer.
    let (answers, usable) = three_stored(b"SERVER_ERROR full\r\nNS\r\nNS\r\n");
    assert_eq!(answers.map(|answers| answers.len()), Ok(3));
    assert!(usable);
}

#[test]
fn the_answer_to_a_get_is_read() {
    let there = |value: &[u8], seconds| {
        let value = value.to_vec();
        Ok(Some(Item {
            value,
            seconds,
            cas: 7,
        }))
    };
    for (answer, found) in [
        (&b"EN\r\n"[..], Ok(None)),
        (b"VA 3 t30 c7\r\nabc\r\n", there(b"abc", Some(30))),
        (b"VA 0 c7 t-1\r\n\r\n", there(b"", None)),
        (b"VA 2 t1 c7\r\n\r\n\r\n", there(b"\r\n", Some(1))),
        (b"SERVER_ERROR busy\r\n", Err(FULL)),
        (b"HD\r\n", Err(UNEXPECTED)),
    ] {
        let usable = found != Err(UNEXPECTED);
        assert_eq!(read(answer, item), (found, usable), "{answer:?}");
    }
    for (answer, failure) in [
        (&b"VA 3 t30 c7\r\nabcd\r\n"[..], UNEXPECTED),
        (b"VA 3 t30 c7\r\nabc", CUT_OFF),
        (b"VA 3 t30 c7\r\n", CUT_OFF),
        (b"VA 3 c7\r\nabc\r\n", UNEXPECTED),
        (b"VA x t30 c7\r\nabc\r\n", UNEXPECTED),
    ] {
        assert_eq!(read(answer, item), (Err(failure), false), "{answer:?}");
    }
}

#[test]
fn a_value_that_is_too_long_for_a_record_is_not_returned_and_a_huge_one_is_not_read() {
    for (length, told, usable) in [
        (MAX_RECORD, MAX_RECORD, true),
        (MAX_RECORD + 1, 0, true),
        (MAX_VALUE, 0, true),
        (MAX_VALUE + 1, 0, false),
    ] {
        let value = "x".repeat(length);
        let answer = format!("VA {length} t30 c7\r\n{value}\r\n");
        let (found, is_usable) = read(answer.as_bytes(), item);
        let found = found.unwrap().expect("it is there");
        assert_eq!((found.value.len(), found.cas), (told, 7), "{length}");
        assert_eq!(is_usable, usable, "{length}");
    }
}

#[test]
fn an_unexpected_answer_is_shown_with_the_server_and_shortened() {
    let error = unexpected("peer", &"x".repeat(1000));
    let shown = std::error::Error::source(&error).unwrap().to_string();
    let most = "x".repeat(80);
    assert_eq!(shown, format!("peer answered {most:?}"));
}

fn header_of(line: &[u8]) -> Option<(usize, Option<u32>, u64)> {
    let header = header("peer", line).ok()??;
    Some((header.length, header.seconds, header.cas))
}

#[test]
fn the_line_before_a_value_is_read() {
    assert_eq!(header_of(b"VA 3 t30 c7"), Some((3, Some(30), 7)));
    assert_eq!(header_of(b"VA 0 c7 t-1"), Some((0, None, 7)));
    assert_eq!(
        header_of(b"VA 3 t99999999999 c7"),
        Some((3, Some(u32::MAX), 7))
    );
    for line in [
        &b"VA 3 t30"[..],
        b"VA 3 c7",
        b"VA 3 t-2 c7",
        b"VA 3 t c7",
        b"VA  3 t30 c7",
        b"VA +3 t30 c7",
    ] {
        assert_eq!(header_of(line), None, "{}", String::from_utf8_lossy(line));
    }
}

proptest! {
    #[test]
    fn no_line_makes_the_reader_panic(line in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = header_of(&line);
    }

    #[test]
    fn no_text_makes_the_reader_panic(line in "(VA|HD|EX|NS)?[ 0-9tc+-]{0,30}") {
        let _ = header_of(line.as_bytes());
    }
}

#[test]
fn only_digits_are_a_number() {
    assert_eq!(answers::number(b"18446744073709551615"), Some(u64::MAX));
    for text in [&b""[..], b"-1", b"+1", b"1 ", b"18446744073709551616", b"x"] {
        assert_eq!(answers::number(text), None, "{text:?}");
    }
}
