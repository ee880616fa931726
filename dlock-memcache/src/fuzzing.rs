//! Properties that must hold for every input, as functions of arbitrary bytes. The targets in
//! `fuzz/` run them on random inputs, the tests here on the targets' seeds.

mod shared;

use std::fmt::Debug;

use dlock_core::{DatastoreError, ErrorKind, FencingToken, OwnerToken};
use dlock_net::testing::{Pieces, SECRET, with_passwords};
use dlock_net::{Endpoint, Wire};

use crate::config::endpoint;
use crate::handshake::read_stats;
use crate::operations::commands::{Item, Key, Replacement, Stored};
use crate::operations::record::{MAX_RECORD, Record};
use crate::wire::{self, push_replace};

/// A server's bytes are read the same however they arrive, and the same on a connection that calls
/// share; a value that was sent is what is read. The first byte says what was asked, the second how
/// the bytes arrive.
pub fn reply(data: &[u8]) {
    let [asked, rhythm, bytes @ ..] = data else {
        return;
    };
    let rhythm = usize::from(*rhythm);
    match asked % 6 {
        0 => same_in_pieces(bytes, rhythm, true, wire::stored),
        1 => same_in_pieces(bytes, rhythm, false, |wire| wire::many_stored(wire, 3)),
        2 => same_in_pieces(bytes, rhythm, true, wire::deleted),
        3 => same_in_pieces(bytes, rhythm, true, wire::acknowledged),
        4 => {
            same_in_pieces(bytes, rhythm, true, wire::item);
            same_in_pieces(bytes, rhythm, false, |wire| wire::many_items(wire, 3));
        }
        _ => same_in_pieces(bytes, rhythm, false, |wire| {
            let stats = read_stats(wire)?;
            let incarnation = stats.incarnation("peer")?;
            stats.check("peer").map(|()| incarnation)
        }),
    }

    shared::reply(bytes, rhythm, *asked);

    let cas = u64::from(*asked) << 56 | bytes.len() as u64;
    let mut answer = format!("VA {} t{rhythm} c{cas}\r\n", bytes.len()).into_bytes();
    answer.extend_from_slice(bytes);
    answer.extend_from_slice(b"\r\nHD c7\r\n");
    let mut wire = wire(&answer, rhythm);
    let value = match bytes.len() {
        ..=MAX_RECORD => bytes.to_vec(),
        _ => Vec::new(),
    };
    let item = wire::item(&mut wire).expect("a value");
    assert!(shared::is_first(&answer, &item));
    let seconds = u32::try_from(rhythm).ok();
    assert_eq!(
        item,
        Some(Item {
            value,
            seconds,
            cas
        })
    );
    if bytes.len() <= MAX_RECORD {
        let next = wire::stored(&mut wire).expect("the next answer");
        assert_eq!(next, Stored::Done(7));
    }
}

fn same_in_pieces<T: Debug>(
    bytes: &[u8],
    rhythm: usize,
    asks_one: bool,
    read: impl Fn(&mut Wire<Pieces>) -> Result<T, DatastoreError>,
) {
    let seen = |rhythm| {
        let mut wire = wire(bytes, rhythm);
        let answer = read(&mut wire);
        let usable = wire.is_usable();
        // What was cut off, and what the server took for something else than was sent, may go on.
        let may_go_on = |error: &DatastoreError| error.kind() == ErrorKind::Unreachable;
        let is_confused = bytes.starts_with(b"ERROR\r\n") || bytes.starts_with(b"CLIENT_ERROR ");
        let goes_on = answer.as_ref().is_err_and(may_go_on) || asks_one && is_confused;
        assert!(!(usable && goes_on), "{answer:?}");
        (format!("{answer:?}"), usable)
    };
    assert_eq!(seen(0), seen(rhythm));
}

pub(crate) fn wire(bytes: &[u8], rhythm: usize) -> Wire<Pieces> {
    let mut wire = Wire::new(Pieces::new(bytes, rhythm), "peer");
    wire.send(b"a request\r\n").expect("it takes everything");
    wire
}

/// A record survives being written and read again.
pub fn lock_value(data: &[u8]) {
    if let Some(record) = Record::parse(data) {
        let value = record.to_value();
        assert_eq!(Record::parse(value.as_bytes()), Some(record), "{value}");
    }

    let number = |at: usize| {
        let bytes = data.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    let printable = data.iter().map(|byte| char::from(b' ' + byte % 95));
    let holder: String = printable.take(512).collect();
    let record = Record {
        owner: OwnerToken::from_hex(&format!("{:032x}", number(0))).expect("32 digits"),
        fence: Some(FencingToken::new(number(8))).filter(|fence| fence.get() != 0),
        sequence: number(16),
        holder: &holder,
    };
    let value = record.to_value();
    assert_eq!(Record::parse(value.as_bytes()), Some(record), "{value}");
}

/// A key that is accepted is nothing but a key in the request.
pub fn key(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(key) = Key::new(&text) {
        let mut request = Vec::new();
        let replacement = Replacement {
            key,
            cas: 3,
            seconds: 5,
            value: "value".to_owned(),
        };
        push_replace(&mut request, &replacement);
        let request = String::from_utf8_lossy(&request);
        let lines: Vec<&str> = request.split("\r\n").collect();
        assert_eq!(lines[1..], ["value", ""], "{request:?}");
        let words: Vec<&str> = lines[0].split(' ').collect();
        assert_eq!(words, ["ms", &*text, "5", "C3", "T5", "c"]);
    }
}

/// An address survives being written and read again, and nothing before an `@` is shown.
pub fn url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(found @ Endpoint::Tcp { .. }) = endpoint(&text) {
        assert_eq!(endpoint(&format!("memcache://{found}/")), Ok(found));
    }
    #[cfg(unix)]
    {
        let path: String = text.chars().filter(|c| *c != '\0').collect();
        let encoded: String = path.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let found = endpoint(&format!("memcache+unix:///{encoded}x"));
        assert_eq!(found, Ok(Endpoint::Unix(format!("/{path}x").into())));
    }
    for url in with_passwords(&text) {
        // An error of a connection names the endpoint.
        let shown = match endpoint(&url) {
            Ok(endpoint) => format!("{endpoint} {endpoint:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains(SECRET), "{url} is shown as {shown}");
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
            concat!(env!("CARGO_MANIFEST_DIR"), "/seeds/memcache_reply"),
            reply,
        );
        hold_on_seeds(
            concat!(env!("CARGO_MANIFEST_DIR"), "/seeds/lock_value"),
            lock_value,
        );
        hold_on_seeds(concat!(env!("CARGO_MANIFEST_DIR"), "/seeds/key"), key);
        hold_on_seeds(concat!(env!("CARGO_MANIFEST_DIR"), "/seeds/url"), url);
    }

    /// Of what answers are made, and what is none.
    const PARTS: [&[u8]; 24] = [
        b"HD c7\r\n",
        b"HD\r\n",
        b"HD",
        b" c7",
        b"NS\r\n",
        b"EX\r\n",
        b"NF\r\n",
        b"EN\r\n",
        b"MN\r\n",
        b"VA 3 t30 c7\r\n",
        b"VA 2 c7\r\n",
        b"VA 2000000 t1 c5\r\n",
        b"VA x\r\n",
        b"abc\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"STAT pid 7\r\n",
        b"STAT ",
        b"STAT\r\n",
        b"END\r\n",
        b"ERROR\r\n",
        b"SERVER_ERROR busy\r\n",
        b"CLIENT_ERROR bad\r\n",
    ];

    proptest! {
        #[test]
        fn any_answers_keep_what_is_promised(
            asked in any::<u8>(),
            rhythm in 0..12u8,
            parts in prop::collection::vec(prop::sample::select(&PARTS[..]), 0..7),
        ) {
            reply(&[&[asked, rhythm], &*parts.concat()].concat());
        }

        #[test]
        fn any_bytes_keep_what_is_promised(data in any::<Vec<u8>>()) {
            reply(&data);
            lock_value(&data);
            key(&data);
            url(&data);
        }

        #[test]
        fn no_part_of_a_password_is_shown(text in "[a-z1@:/?#%&=\\[\\].]{0,12}") {
            url(text.as_bytes());
        }
    }
}
