//! Properties that must hold for every input, as functions of arbitrary bytes. The targets in
//! `fuzz/` run them on random inputs, the tests here on the targets' seeds.

use std::io;
use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind, OwnerToken, at_once};
use dlock_net::testing::Pieces;
use dlock_net::{Wire, deadline_in};
use serde_json::{Value, json};

use crate::connection::value_of;
use crate::operations::commands::{Commands, Method};
use crate::operations::listing;
use crate::operations::queue::{key_of, place};
use crate::operations::record::{self, Found};
use crate::operations::requests::bytes;
use crate::operations::watching::Report;
use crate::wire::stream::{Lines, push_line};
use crate::wire::{self, Answer};

/// A server's bytes are read the same however they arrive, and the same on a connection that calls
/// share; no JSON of a server makes anything panic. The first byte says what was asked, the second
/// how the bytes arrive.
pub fn reply(data: &[u8]) {
    let [asked, rhythm, bytes @ ..] = data else {
        return;
    };
    let rhythm = usize::from(*rhythm);
    match asked % 3 {
        0 => answer(bytes, rhythm),
        1 => lines(bytes, rhythm),
        _ => json(bytes),
    }
    sent_lines(bytes, rhythm);
}

/// One answer.
fn answer(bytes: &[u8], rhythm: usize) {
    let whole = wire::parse(bytes);
    let read = |rhythm| {
        let mut wire = Wire::new(Pieces::new(bytes, rhythm), "here:1");
        wire.set_deadline(deadline_in(Duration::from_secs(60)));
        wire::answer(&mut wire).map_err(|error| error.kind())
    };
    match &whole {
        Ok(Some((answer, length))) => {
            assert!(*length <= bytes.len());
            assert_eq!(read(rhythm).as_ref(), Ok(answer));
            // Nothing is decided before its end has arrived.
            let step = length / 64 + 1;
            for end in (0..*length).step_by(step) {
                assert!(matches!(wire::parse(&bytes[..end]), Ok(None)), "{end}");
            }
        }
        Ok(None) => assert_eq!(read(rhythm), Err(ErrorKind::Unreachable)),
        Err(_) => assert_eq!(read(rhythm), Err(ErrorKind::Protocol)),
    }
    let split = wire::split(bytes).map_err(|error| error.kind());
    let whole = whole.map(|parsed| parsed.map(|(_, length)| length));
    assert_eq!(split, whole.map_err(|error| error.kind()));
}

/// The lines of an answer that goes on.
fn lines(bytes: &[u8], rhythm: usize) {
    assert_eq!(
        lines_of(bytes, rhythm % 11 + 1),
        lines_of(bytes, bytes.len())
    );
}

/// The lines in `bytes`, which arrive in pieces of `size`, and the error at their end.
fn lines_of(bytes: &[u8], size: usize) -> (Vec<Vec<u8>>, Option<io::ErrorKind>) {
    let (mut lines, mut received, mut found) = (Lines::default(), Vec::new(), Vec::new());
    for piece in bytes.chunks(size.max(1)) {
        received.extend_from_slice(piece);
        match lines.read(&received, |line| found.push(line.to_vec())) {
            Ok(length) => drop(received.drain(..length)),
            Err(error) => return (found, Some(error.kind())),
        }
    }
    (found, None)
}

/// What is sent as lines is read as the same lines.
fn sent_lines(bytes: &[u8], rhythm: usize) {
    let text = String::from_utf8_lossy(bytes);
    let mut sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let all: Vec<_> = text.split('\n').take(16).map(str::to_owned).collect();
    for line in &all {
        push_line(&mut sent, line);
    }
    let (read, error) = lines_of(&sent, rhythm + 1);
    let all: Vec<_> = all.into_iter().map(String::into_bytes).collect();
    assert_eq!((read, error), (all, None));
}

/// A server that answers everything alike.
pub(crate) struct Constant(pub(crate) Value);

impl Commands for Constant {
    async fn ask(&mut self, _: Method, _: &Value) -> Result<Value, DatastoreError> {
        Ok(self.0.clone())
    }

    fn unexpected(&self, answer: &Value) -> DatastoreError {
        crate::error::unexpected("here:1", answer)
    }
}

/// JSON in an answer and in a line.
fn json(bytes: &[u8]) {
    let _ = Report::of(bytes);
    let answer = Answer {
        status: 200,
        body: bytes.to_vec(),
        is_last: false,
    };
    let Ok(Ok(value)) = value_of("here:1", &answer) else {
        return;
    };
    let _ = Found::of_range(&value);
    let _ = at_once(listing::page(&mut Constant(value), "", None));
}

/// What is kept of a lock and of a place is what was written. The bytes are the holder's text.
pub fn lock_value(data: &[u8]) {
    let holder = String::from_utf8_lossy(data);
    let sequence = data.len() as u64;
    let owner = OwnerToken::from_hex(&format!("{:032x}", u128::from(sequence) << 64 | 7));
    let owner = owner.expect("32 hex digits");
    let value = record::value(owner, sequence, &holder);
    let key = json!({"value": bytes(&value), "lease": "5", "create_revision": "7"});
    let Found::Lock(record) = Found::of_range(&json!({ "kvs": [key] })) else {
        panic!("{value:?} is not read as a lock");
    };
    assert_eq!((record.owner, &record.value), (owner, &value));
    assert_eq!(record.fence().get(), 7);

    let revision = i64::try_from(sequence).unwrap_or(i64::MAX);
    let place = place("dlock:a", revision, owner);
    assert_eq!(key_of(&place), Some("dlock:a"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use dlock_net::testing::hold_on_seeds;
    use proptest::prelude::*;

    #[test]
    fn the_seeds_of_the_fuzz_targets_keep_what_is_promised() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds");
        hold_on_seeds(&format!("{seeds}/etcd_reply"), reply);
        hold_on_seeds(&format!("{seeds}/lock_value"), lock_value);
    }

    proptest! {
        #[test]
        fn answers_in_chunks_are_read_however_they_arrive(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            rhythm in any::<u8>(),
            is_line in any::<bool>(),
            cut in 0_usize..400,
        ) {
            let mut sent = vec![u8::from(is_line), rhythm];
            sent.extend_from_slice(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            for chunk in &chunks {
                sent.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                sent.extend_from_slice(chunk);
                sent.extend_from_slice(b"\r\n");
            }
            sent.extend_from_slice(b"0\r\n\r\n");
            if !is_line {
                let (answer, length) = wire::parse(&sent[2..]).unwrap().unwrap();
                prop_assert_eq!(answer.body, chunks.concat());
                prop_assert_eq!(length, sent.len() - 2);
            }
            reply(&sent);
            reply(&sent[..sent.len().min(cut)]);
        }

        #[test]
        fn no_bytes_of_a_server_make_anything_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
            reply(&data);
            lock_value(&data);
        }
    }
}
