//! Bytes of a server, as replies.

use std::time::Duration;

use dlock_core::ErrorKind;
use dlock_net::deadline_in;
use dlock_net::testing::Pieces;

use super::*;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// The end of a reply, after which the server is in this state.
fn ready(status: u8) -> Vec<u8> {
    message(b'Z', &[status])
}

fn data(columns: &[Option<&str>]) -> Vec<u8> {
    let mut body = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
    for column in columns {
        let length = column.map_or(-1, |text| i32::try_from(text.len()).unwrap());
        body.extend(length.to_be_bytes());
        body.extend(column.unwrap_or_default().bytes());
    }
    message(b'D', &body)
}

fn failure(severity: &str, code: &str, text: &str) -> Vec<u8> {
    let fields = format!("S{severity} translated\0V{severity}\0C{code}\0M{text}\0Hhint\0\0");
    message(b'E', fields.as_bytes())
}

fn notification(payload: &str) -> Vec<u8> {
    let body = [
        &7_u32.to_be_bytes()[..],
        b"dlock_p\0",
        payload.as_bytes(),
        b"\0",
    ];
    message(b'A', &body.concat())
}

fn wire(bytes: &[u8]) -> Wire<Pieces> {
    let mut wire = Wire::new(Pieces::new(bytes, 3), "db:1");
    wire.set_deadline(deadline_in(Duration::from_secs(60)));
    wire.send(b"a request").unwrap();
    wire
}

/// The reply, whether the connection can be used further, and what was notified meanwhile.
fn read(messages: &[Vec<u8>]) -> (Result<Reply, ErrorKind>, bool, Vec<String>) {
    let (mut wire, mut notified) = (wire(&messages.concat()), Vec::new());
    let reply = read_reply(&mut wire, &mut notified).map_err(|error| {
        assert!(error.may_have_executed());
        error.kind()
    });
    (reply, wire.is_usable(), notified)
}

fn rows(messages: &[Vec<u8>]) -> Vec<Row> {
    let (reply, is_usable, _) = read(messages);
    assert!(is_usable);
    reply.unwrap().unwrap()
}

#[test]
fn a_script_is_sent_as_it_is_written() {
    let mut request = BytesMut::new();
    push_script(&mut request, "LISTEN dlock_p; SELECT 1").unwrap();
    assert_eq!(request, message(b'Q', b"LISTEN dlock_p; SELECT 1\0"));
    assert!(
        push_script(&mut request, "a\0b").is_err(),
        "PostgreSQL has no NUL in a text"
    );
}

#[test]
fn rows_are_read_and_what_says_nothing_is_passed_over() {
    let passed = [
        (b'3', &b""[..]),
        (b'1', b""),
        (b'2', b""),
        (b'n', b""),
        (b'T', b"\0\0"),
        (b'C', b"SELECT 1\0"),
        (b'I', b""),
        (b'N', b"\0"),
        (b'S', b"TimeZone\0UTC\0"),
    ];
    let mut reply: Vec<_> = passed.map(|(kind, body)| message(kind, body)).into();
    reply.push(data(&[Some("a"), None, Some("")]));
    reply.push(data(&[Some("ä")]));
    reply.push(ready(b'I'));
    let text = |text: &str| Some(text.to_owned());
    let first = vec![text("a"), None, text("")];
    assert_eq!(rows(&reply), [first, vec![text("ä")]]);
    assert!(rows(&[ready(b'I')]).is_empty());
}

#[test]
fn a_connection_within_a_transaction_takes_no_further_request() {
    for (status, usable) in [(b'I', true), (b'T', false), (b'E', false)] {
        let (reply, is_usable, _) = read(&[data(&[None]), ready(status)]);
        assert_eq!(reply, Ok(Ok(vec![vec![None]])));
        assert_eq!(is_usable, usable);
    }
}

#[test]
fn the_first_error_of_a_reply_is_its_outcome() {
    let (reply, is_usable, _) = read(&[
        data(&[Some("a")]),
        failure("ERROR", "55P03", "locked"),
        failure("ERROR", "22012", "later"),
        ready(b'I'),
    ]);
    let first = ServerError::new("ERROR", "55P03", "locked");
    assert_eq!(reply, Ok(Err(first)));
    assert!(is_usable);
}

#[test]
fn an_error_that_ends_the_connection_is_the_end_of_the_reply() {
    for (severity, code) in [("FATAL", "57P01"), ("PANIC", "XX000"), ("ERROR", "25006")] {
        let (reply, is_usable, _) = read(&[failure(severity, code, "over"), ready(b'I')]);
        assert_eq!(reply, Ok(Err(ServerError::new(severity, code, "over"))));
        assert!(!is_usable, "{severity} {code}");
    }
}

#[test]
fn what_is_notified_during_a_reply_is_kept() {
    let (reply, is_usable, notified) = read(&[
        notification("one"),
        data(&[Some("a")]),
        notification("two"),
        ready(b'I'),
    ]);
    assert_eq!(reply.unwrap().unwrap().len(), 1);
    assert!(is_usable);
    assert_eq!(notified, ["one", "two"]);
}

#[test]
fn a_reply_has_no_more_rows_than_a_page_and_no_longer_a_message_than_can_be() {
    let mut page = vec![data(&[Some("k")]); MOST_ROWS];
    page.push(ready(b'I'));
    assert_eq!(rows(&page).len(), MOST_ROWS);
    page.insert(0, data(&[Some("k")]));
    assert_eq!(read(&page).0, Err(ErrorKind::Protocol));

    // The kind of a message is not counted by its length, and a row has six bytes more.
    let longest = "x".repeat(LONGEST_MESSAGE - HEADER - 6);
    assert_eq!(rows(&[data(&[Some(&longest)]), ready(b'I')])[0].len(), 1);
    let longer = format!("{longest}x");
    let (reply, ..) = read(&[data(&[Some(&longer)]), ready(b'I')]);
    assert_eq!(reply, Err(ErrorKind::Protocol));
}

#[test]
fn what_is_no_reply_is_refused() {
    for bytes in [
        b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
        // A message that is shorter than its own length.
        vec![b'Z', 0, 0, 0, 3, b'I'],
        // What nobody has asked for.
        message(b'R', &[0; 4]),
        message(b'G', &[0, 0, 0]),
        // A column that is no text, and one that is cut off.
        message(b'D', b"\0\x01\0\0\0\x01\xff"),
        message(b'D', b"\0\x01\0\0\0\x02a"),
        message(b'A', b"\0\0\0\x07dlock_p\0\xff\0"),
    ] {
        let (reply, is_usable, _) = read(std::slice::from_ref(&bytes));
        assert_eq!(reply, Err(ErrorKind::Protocol), "{bytes:?}");
        assert!(!is_usable);
    }
    let (reply, ..) = read(&[data(&[Some("a")])]);
    assert_eq!(reply, Err(ErrorKind::Unreachable), "it ends in the middle");
}

#[test]
fn a_notification_has_its_text_and_what_else_comes_by_itself_has_none() {
    let notified = |bytes: &[u8]| read_notification(&mut wire(bytes));
    let payload = notified(&notification("5ca1ab1e"));
    assert_eq!(payload.unwrap().as_deref(), Some("5ca1ab1e"));
    assert_eq!(notified(&message(b'N', b"\0")).unwrap(), None);
    assert_eq!(notified(&message(b'S', b"a\0b\0")).unwrap(), None);
    let garbled = message(b'A', b"\0\0\0\x07dlock_p\0\xff\0");
    assert_eq!(notified(&garbled).unwrap_err().kind(), ErrorKind::Protocol);
    let ended = notified(&failure("FATAL", "57P01", "over")).unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::Unreachable);
    let other = notified(&ready(b'I')).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Protocol);
}

#[cfg(feature = "tokio")]
#[test]
fn the_end_of_a_reply_is_found_when_all_of_it_has_arrived() {
    for reply in [
        vec![data(&[Some("Z")]), ready(b'I')],
        vec![failure("ERROR", "55P03", "locked"), ready(b'I')],
        vec![data(&[None]), failure("FATAL", "57P01", "over")],
    ] {
        let mut bytes = reply.concat();
        let length = bytes.len();
        for end in 0..length {
            assert_eq!(end_of_reply(&bytes[..end]).unwrap(), None, "{end}");
        }
        bytes.extend(data(&[Some("the next reply")]));
        assert_eq!(end_of_reply(&bytes).unwrap(), Some(length));
    }
}

#[cfg(feature = "tokio")]
#[test]
fn a_reply_without_an_end_and_what_is_none_are_refused_as_soon_as_they_can_be() {
    let column = "x".repeat(LONGEST_MESSAGE / 2);
    let row = data(&[Some(&column)]);
    let mut bytes = row.repeat(3);
    assert_eq!(end_of_reply(&bytes).unwrap(), None);
    bytes.extend(ready(b'I'));
    assert_eq!(end_of_reply(&bytes).unwrap(), Some(bytes.len()));
    let endless = row.repeat(LONGEST_REPLY / row.len() + 1);
    for bytes in [
        &endless[..],
        &[b'Z', 0, 0, 0, 3],
        &[b'D', 0, 0x10, 0, 0],
        &[b'D', 0xff, 0xff, 0xff, 0xff],
    ] {
        let error = end_of_reply(bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
    let longest = u32::try_from(LONGEST_MESSAGE - 1).unwrap().to_be_bytes();
    let begun = [&[b'D'][..], &longest].concat();
    assert_eq!(end_of_reply(&begun).unwrap(), None);
}
