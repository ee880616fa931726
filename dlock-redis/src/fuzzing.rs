//! What holds for every input, as functions of any bytes. The targets in `fuzz/` run them for as
//! long as one likes, the tests here on their seeds.

use std::fmt::Debug;
use std::io::{BufReader, ErrorKind as ErrorOfIo, Read as _};
use std::time::Duration;

use dlock_core::{Claim, Clock, DatastoreError, ErrorKind, FencingToken, Grant, Holder, Lease};
use dlock_net::testing::{Pieces, SECRET, with_passwords};
use dlock_net::{Endpoint, Link, deadline_in};
use redis::Value;

use crate::RedisBuilder;
use crate::config::{Login, Place};
use crate::connection::Connection;
use crate::handshake::Wanted;
use crate::operations::{self, Answer, Call, Keys, Record};
use crate::wire::{Parser, frame};

/// The answer to the handshake of a connection without login.
const TIME: &[u8] = b"*2\r\n$10\r\n1795476271\r\n$6\r\n000000\r\n";
const MINUTE: Duration = Duration::from_secs(60);

/// A server's bytes are read the same however they arrive, and the same as by the redis crate; what
/// a script answers is what is read. The first byte says what was asked, the second how the bytes
/// arrive.
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
        queues: process.is_some(),
        again: process.is_some(),
        keys: Keys::Few,
    };
    let record = Record {
        key,
        owner,
        sequence: 3,
        process: None,
        holder: claim.holder(),
    };
    let calls = [
        acquire(None),
        acquire(Some(process)),
        Call::Extend(&lease, MINUTE),
        Call::Release {
            record,
            keys: Keys::Few,
        },
        Call::Heartbeat {
            key,
            process,
            asks: true,
            last: Some(owner),
        },
    ];
    match usize::from(*asked % 7) {
        5 => handshake_reply(bytes, rhythm),
        6 => same_in_pieces(bytes, rhythm, |connection| {
            connection.call_many(&calls, None)
        }),
        at => same_in_pieces(bytes, rhythm, |connection| {
            connection.call_and_wait(calls[at], None)
        }),
    }
    held_is_read(bytes, rhythm, calls[0]);
}

/// What is read as a reply is what the redis crate reads, and what follows it stays.
fn value(bytes: &[u8], rhythm: usize) {
    let length = frame::length(bytes);
    let mut arriving = BufReader::with_capacity(1 + rhythm, bytes);
    let value = match Parser::default().reply(&mut arriving) {
        Ok(value) => value,
        Err(error) => {
            // What was split off is whole, though it may be no reply.
            let is_whole = matches!(length, Ok(Some(_)));
            assert!(
                !is_whole || error.kind() == ErrorOfIo::InvalidData,
                "{error}"
            );
            return;
        }
    };
    assert_eq!(redis::parse_redis_value(bytes).ok().as_ref(), Some(&value));
    let _ = operations::message(&value);

    let mut rest = Vec::new();
    arriving.read_to_end(&mut rest).expect("it is in memory");
    let (reply, _) = bytes.split_at(bytes.len() - rest.len());
    assert_eq!(length.ok().flatten(), Some(reply.len()), "where it ends");
    for cut in [
        reply.len() / 3,
        reply.len() / 2,
        reply.len().saturating_sub(1),
    ] {
        assert_eq!(frame::length(&reply[..cut]).ok(), Some(None), "not before");
    }
    let both = [reply, b":7\r\n"].concat();
    let mut arriving = BufReader::with_capacity(1 + rhythm, &*both);
    let mut parser = Parser::default();
    assert_eq!(parser.reply(&mut arriving).ok(), Some(value));
    assert_eq!(parser.reply(&mut arriving).ok(), Some(Value::Int(7)));
}

/// A login is refused or done the same however the answers arrive, and its password is not shown.
fn handshake_reply(bytes: &[u8], rhythm: usize) {
    let login = Login {
        user: Some("user".to_owned()),
        password: Some("s3cret".to_owned()),
        database: 1,
        over_tls: true,
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
    ask: impl Fn(&mut Connection<Pieces>) -> Result<T, DatastoreError>,
) {
    let seen = |rhythm| {
        let sent = [TIME, bytes].concat();
        let mut connection = open(&sent, rhythm, &Login::default()).expect("a handshake");
        connection.set_deadline(deadline_in(MINUTE));
        let answer = ask(&mut connection);
        let is_cut_off = |error: &DatastoreError| error.kind() == ErrorKind::Unreachable;
        let usable = connection.is_usable();
        assert!(!usable || !answer.as_ref().is_err_and(is_cut_off));
        (format!("{answer:?}"), usable)
    };
    assert_eq!(seen(0), seen(rhythm));
}

fn open(bytes: &[u8], rhythm: usize, login: &Login) -> Result<Connection<Pieces>, DatastoreError> {
    Connection::open(Pieces::new(bytes, rhythm), "peer", login, Wanted::Any)
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
    let mut connection = open(&sent, rhythm, &Login::default()).expect("a handshake");
    connection.set_deadline(deadline_in(MINUTE));
    let answer = connection.call_and_wait(acquire, None);
    let Ok(Answer::Held(held)) = answer else {
        panic!("{answer:?}");
    };
    assert!(connection.is_usable());
    assert_eq!(held.expires_in(), Some(Duration::from_secs(29)));
    let text = std::str::from_utf8(record).ok();
    let ours = text
        .and_then(|text| text.split_once(' '))
        .filter(|(state, _)| {
            let sequence = state
                .split_once('@')
                .map_or(*state, |(sequence, _)| sequence);
            state.starts_with('@') || sequence.parse::<u64>().is_ok()
        });
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

    for url in with_passwords(&text) {
        // It is no password in the place of the user, or of the path of a file.
        let is_elsewhere = url.contains("ca=")
            || url
                .parse::<Place>()
                .is_ok_and(|place| place.login.user.is_some_and(|user| user.contains(SECRET)));
        let shown = match RedisBuilder::new(&url) {
            _ if is_elsewhere => continue,
            // An error of a connection names the endpoint.
            Ok(builder) => format!("{builder:?} {}", builder.endpoint()),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains(SECRET), "{url} is shown as {shown}");
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dlock_net::testing::hold_on_seeds;
    use proptest::prelude::*;

    #[test]
    fn the_seeds_of_the_fuzz_targets_keep_what_is_promised() {
        hold_on_seeds(
            concat!(env!("CARGO_MANIFEST_DIR"), "/seeds/redis_reply"),
            reply,
        );
        hold_on_seeds(concat!(env!("CARGO_MANIFEST_DIR"), "/seeds/url"), url);
    }

    proptest! {
        #[test]
        fn no_part_of_a_password_is_shown(text in "[a-z1@:/?#%&=\\[\\].]{0,12}") {
            url(text.as_bytes());
        }
    }
}
