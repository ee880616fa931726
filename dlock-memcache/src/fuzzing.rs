//! What holds for every input, as functions of any bytes. The targets in `fuzz/` run them for as long as one likes, the tests here
//! on their seeds.

#[path = "../../fuzz/shared/pieces.rs"]
mod pieces;

use std::fmt::Debug;

use dlock_core::{DatastoreError, ErrorKind, FencingToken, OwnerToken};
use dlock_net::{Endpoint, Wire};

use crate::config::endpoint;
use crate::greeting::read_stats;
use crate::protocol::{Key, push_replace};
use crate::record::{MAX_RECORD, Record};
use crate::reply::{self, Item, Stored};
pub(crate) use pieces::Pieces;

/// A server's bytes are read the same however they arrive, and a value that was sent is what is read. The first byte says what was
/// asked, the second how the bytes arrive.
pub fn reply(data: &[u8]) {
    let [asked, rhythm, bytes @ ..] = data else {
        return;
    };
    let rhythm = usize::from(*rhythm);
    match asked % 6 {
        0 => same_in_pieces(bytes, rhythm, true, reply::stored),
        1 => same_in_pieces(bytes, rhythm, false, |wire| reply::many_stored(wire, 3)),
        2 => same_in_pieces(bytes, rhythm, true, reply::deleted),
        3 => same_in_pieces(bytes, rhythm, true, reply::acknowledged),
        4 => same_in_pieces(bytes, rhythm, true, reply::item),
        _ => same_in_pieces(bytes, rhythm, false, |wire| {
            let stats = read_stats(wire)?;
            let life = stats.life("peer")?;
            stats.check("peer").map(|()| life)
        }),
    }

    let cas = u64::from(*asked) << 56 | bytes.len() as u64;
    let mut answer = format!("VA {} t{rhythm} c{cas}\r\n", bytes.len()).into_bytes();
    answer.extend_from_slice(bytes);
    answer.extend_from_slice(b"\r\nHD c7\r\n");
    let mut wire = wire(&answer, rhythm);
    let value = match bytes.len() {
        ..=MAX_RECORD => bytes.to_vec(),
        _ => Vec::new(),
    };
    let item = reply::item(&mut wire).expect("a value");
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
        let next = reply::stored(&mut wire).expect("the next answer");
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

/// A record that is read is written and read again as the same one, and a written one is read.
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

/// A key that is taken is nothing but a key in the request.
pub fn key(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(key) = Key::new(&text) {
        let mut request = Vec::new();
        push_replace(&mut request, key, 3, 5, "value");
        let request = String::from_utf8_lossy(&request);
        let lines: Vec<&str> = request.split("\r\n").collect();
        assert_eq!(lines[1..], ["value", ""], "{request:?}");
        let words: Vec<&str> = lines[0].split(' ').collect();
        assert_eq!(words, ["ms", &*text, "5", "C3", "T5", "c"]);
    }
}

/// An address that is read is written and read again as the same one, and what stands before an `@` is not shown.
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
    if text.contains("s3cret") {
        return;
    }
    for url in [
        format!("memcache://user:s3cret{text}@host"),
        format!("memcache://:s3cret@{text}"),
        format!("{text}:s3cret@host"),
        format!("memcache://host?pass=s3cret{text}"),
    ] {
        if url.starts_with("memcache+unix://") {
            continue;
        }
        let error = endpoint(&url).expect_err("a URL with a secret");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

#[cfg(test)]
#[path = "../../fuzz/shared/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_seeds_of_the_fuzz_targets_keep_what_is_promised() {
        seeds::keep("memcache_reply", reply);
        seeds::keep("lock_value", lock_value);
        seeds::keep("key", key);
        seeds::keep("url", url);
    }

    proptest! {
        #[test]
        fn any_bytes_keep_what_is_promised(data in any::<Vec<u8>>()) {
            reply(&data);
            lock_value(&data);
            key(&data);
            url(&data);
        }
    }
}
