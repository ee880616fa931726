//! What holds for every input, as functions of any bytes. The targets in `fuzz/` run them for as long as one likes, the tests here
//! on their seeds.

#[path = "../../fuzz/shared/pieces.rs"]
mod pieces;

use std::fmt::Debug;
use std::io::{BufReader, Read as _};
use std::time::Duration;

use dlock_core::{Claim, Clock, DatastoreError, ErrorKind, FencingToken, Grant, Holder, Lease};
use dlock_net::{Endpoint, Link, deadline_in};
use redis::Value;

use crate::config::{Login, Place};
use crate::connection::Connection;
use crate::protocol::{self, Answer, Call};
use crate::resp::Parser;
use crate::stream::Stream;
use crate::{RedisBuilder, UrlError};
pub(crate) use pieces::Pieces;

/// The answer to the greeting of a connection without login.
const TIME: &[u8] = b"*2\r\n$10\r\n1795476271\r\n$6\r\n000000\r\n";
const MINUTE: Duration = Duration::from_secs(60);

/// A server's bytes are read the same however they arrive, and the same as by the redis crate; what a script answers is what is read. The
/// first byte says what was asked, the second how the bytes arrive.
pub fn reply(data: &[u8]) {
    let [asked, rhythm, bytes @ ..] = data else {
        return;
    };
    let rhythm = usize::from(*rhythm);
    value(bytes, rhythm);
    let claim = Claim::new("dlock:a", &Clock::BOOTTIME, MINUTE).expect("random numbers");
    let lease = Lease::new(claim.clone(), Grant::new(MINUTE));
    let (key, owner, process) = (claim.key(), claim.owner(), "process");
    let acquire = |process| Call::Acquire {
        claim: &claim,
        ttl: MINUTE,
        process,
    };
    let calls = [
        acquire(None),
        acquire(Some(process)),
        Call::Extend(&lease, MINUTE),
        Call::Release {
            key,
            owner,
            process: None,
        },
        Call::Look { key, process },
    ];
    match usize::from(*asked % 7) {
        5 => greeting(bytes, rhythm),
        6 => same_in_pieces(bytes, rhythm, |connection| connection.call_many(&calls)),
        at => same_in_pieces(bytes, rhythm, |connection| connection.call(calls[at])),
    }
    held_is_read(bytes, rhythm, calls[0]);
}

/// What is read as a reply is what the redis crate reads, and what follows it stays.
fn value(bytes: &[u8], rhythm: usize) {
    let mut arriving = BufReader::with_capacity(1 + rhythm, bytes);
    let Ok(value) = Parser::default().reply(&mut arriving) else {
        return;
    };
    assert_eq!(redis::parse_redis_value(bytes).ok().as_ref(), Some(&value));
    let _ = protocol::message(&value);

    let mut rest = Vec::new();
    arriving.read_to_end(&mut rest).expect("it is in memory");
    let (reply, _) = bytes.split_at(bytes.len() - rest.len());
    let both = [reply, b":7\r\n"].concat();
    let mut arriving = BufReader::with_capacity(1 + rhythm, &*both);
    let mut parser = Parser::default();
    assert_eq!(parser.reply(&mut arriving).ok(), Some(value));
    assert_eq!(parser.reply(&mut arriving).ok(), Some(Value::Int(7)));
}

/// A login is refused or done the same however the answers arrive, and its password is not shown.
fn greeting(bytes: &[u8], rhythm: usize) {
    let login = Login {
        user: Some("user".to_owned()),
        password: Some("s3cret".to_owned()),
        database: 1,
    };
    let seen = |rhythm| {
        let opened = open(bytes, rhythm, &login);
        format!("{opened:?}")
    };
    let shown = seen(0);
    let sent_by_server = String::from_utf8_lossy(bytes).contains("s3cret");
    assert!(sent_by_server || !shown.contains("s3cret"), "{shown}");
    assert_eq!(shown, seen(rhythm));
}

fn same_in_pieces<T: Debug>(
    bytes: &[u8],
    rhythm: usize,
    ask: impl Fn(&mut Connection) -> Result<T, DatastoreError>,
) {
    let seen = |rhythm| {
        let sent = [TIME, bytes].concat();
        let mut connection = open(&sent, rhythm, &Login::default()).expect("a greeting");
        connection.set_deadline(deadline_in(MINUTE));
        let answer = ask(&mut connection);
        let is_cut_off = |error: &DatastoreError| error.kind() == ErrorKind::Unreachable;
        let usable = connection.is_usable();
        assert!(!usable || !answer.as_ref().is_err_and(is_cut_off));
        (format!("{answer:?}"), usable)
    };
    assert_eq!(seen(0), seen(rhythm));
}

fn open(bytes: &[u8], rhythm: usize, login: &Login) -> Result<Connection, DatastoreError> {
    let stream = Stream::Pieces(Pieces::new(bytes, rhythm));
    Connection::open(stream, "peer", login)
}

/// What a refusal says of the holder, whatever stands in the record.
fn held_is_read(record: &[u8], rhythm: usize, acquire: Call<'_>) {
    if record.len() > 60_000 {
        return;
    }
    let mut sent = TIME.to_vec();
    sent.extend_from_slice(format!("*5\r\n$4\r\nheld\r\n${}\r\n", record.len()).as_bytes());
    sent.extend_from_slice(record);
    sent.extend_from_slice(b"\r\n:29000\r\n:1795476271000000\r\n:17\r\n");
    let mut connection = open(&sent, rhythm, &Login::default()).expect("a greeting");
    connection.set_deadline(deadline_in(MINUTE));
    let answer = connection.call(acquire);
    let Ok(Answer::Held(held)) = answer else {
        panic!("{answer:?}");
    };
    assert!(connection.is_usable());
    assert_eq!(held.expires_in(), Some(Duration::from_secs(29)));
    let text = std::str::from_utf8(record).ok();
    let ours = text
        .and_then(|text| text.split_once(' '))
        .filter(|(state, _)| state.starts_with('@') || state.parse::<u64>().is_ok());
    let holder = ours.and_then(|(_, holder)| Holder::from_text(holder));
    assert_eq!(held.holder(), holder.as_ref());
    assert_eq!(held.fence().map(FencingToken::get), ours.map(|_| 17));
}

/// A login and a place survive being written as a URL, and a password is never shown.
pub fn url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(place) = text.parse::<Place>() {
        let shown = format!("{place:?}");
        assert!(!shown.chars().any(char::is_control), "{shown}");
    }

    let encoded = |text: &str| -> String { text.bytes().map(|b| format!("%{b:02x}")).collect() };
    let (user, password) = text.split_once('/').unwrap_or(("", &text));
    let number = u32::from(data.first().copied().unwrap_or(0));
    let url = format!(
        "redis://{}:{}@db:7000/{number}",
        encoded(user),
        encoded(password)
    );
    let place: Place = url.parse().expect("an encoded login");
    let host = "db".to_owned();
    assert_eq!(place.endpoint, Endpoint::Tcp { host, port: 7000 });
    assert_eq!(place.login.database, number);
    assert_eq!(place.login.user.as_deref().unwrap_or(""), user);
    assert_eq!(place.login.password.as_deref().unwrap_or(""), password);

    if text.contains("s3cret") {
        return;
    }
    for url in [
        format!("redis://user:s3cret{text}@host"),
        format!("redis://:s3cret@{text}"),
        format!("unix://:s3cret@{text}"),
        format!("redis://{}:s3cret@{text}", encoded(user)),
        format!("redis://host?pass=s3cret{}", encoded(&text)),
        format!("{text}:s3cret@host"),
    ] {
        // There it is not the password's place: in a user's name, in the path of a file.
        let is_elsewhere = url.split("s3cret").next().is_some_and(|before| {
            let place = before.split_once("unix://").map(|(_, place)| place);
            before.contains("user=")
                || before.contains("ca=")
                || place.is_some_and(|place| place.contains('/'))
        });
        let shown = match RedisBuilder::new(&url) {
            Ok(builder) => format!("{builder:?}"),
            Err(UrlError::Certificates(_)) => continue,
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(
            is_elsewhere || !shown.contains("s3cret"),
            "{url} is shown as {shown}"
        );
    }
}

#[cfg(test)]
#[path = "../../fuzz/shared/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_of_the_fuzz_targets_keep_what_is_promised() {
        seeds::keep("redis_reply", reply);
        seeds::keep("url", url);
    }
}
