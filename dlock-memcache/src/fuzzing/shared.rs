//! Answers on a connection that calls share.

use std::fmt::Debug;

use dlock_core::{DatastoreError, ErrorKind};
use dlock_net::Wire;
use dlock_net::testing::Pieces;

use crate::operations::commands::Item;
use crate::wire::shared::{Answer, Kind, Reader};
use crate::wire::{acknowledged, deleted, item, stored};

/// The answers to requests of one kind are the same however the bytes arrive, and the first is the
/// one that a call reads that has its connection for itself.
pub(super) fn reply(bytes: &[u8], rhythm: usize, asked: u8) {
    let kind = match asked % 6 {
        0 | 1 => Kind::Stored,
        2 => Kind::Deleted,
        3 => Kind::Acknowledged,
        4 => Kind::Item,
        _ => Kind::Stats,
    };
    let answers = read(bytes, bytes.len().max(1), kind);
    assert_eq!(answers, read(bytes, 1 + rhythm, kind), "in pieces");
    // After an answer that leaves the order in doubt there is no other.
    let retired = answers.iter().position(|answer| answer.retires);
    assert!(
        retired.is_none_or(|at| at + 1 == answers.len()),
        "{answers:?}"
    );
    match kind {
        Kind::Stored => same_alone(bytes, kind, stored),
        Kind::Deleted => same_alone(bytes, kind, deleted),
        Kind::Acknowledged => same_alone(bytes, kind, acknowledged),
        Kind::Item => same_alone(bytes, kind, item),
        Kind::Stats => {}
    }
}

/// Whether `expected` is the first answer to a get.
pub(super) fn is_first(bytes: &[u8], expected: &Option<Item>) -> bool {
    let expected = format!("{:?}", Ok::<_, DatastoreError>(expected));
    let answers = read(bytes, bytes.len(), Kind::Item);
    answers.first().is_some_and(|first| first.shown == expected)
}

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    shown: String,
    length: usize,
    retires: bool,
}

/// Reads as a connection does to which `piece` bytes come at a time: all answers that have arrived
/// are split off, then they are read.
fn read(bytes: &[u8], piece: usize, kind: Kind) -> Vec<Seen> {
    let mut reader = Reader::new("peer".to_owned());
    let (mut at, mut answers) = (0, Vec::new());
    for arrived in (0..bytes.len()).step_by(piece).map(|start| start + piece) {
        let arrived = arrived.min(bytes.len());
        let mut frames = Vec::new();
        let end = loop {
            match reader.split(&bytes[at..arrived]) {
                Ok(Some(length)) => {
                    assert!(length > 0 && at + length <= arrived, "it has arrived");
                    frames.push(at..at + length);
                    at += length;
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        for frame in frames {
            let length = frame.len();
            let Ok((answer, retires)) = reader.read(&bytes[frame], kind) else {
                return answers;
            };
            let shown = shown(answer);
            answers.push(Seen {
                shown,
                length,
                retires,
            });
        }
        if end.is_err() {
            return answers;
        }
    }
    answers
}

fn shown(answer: Result<Answer, DatastoreError>) -> String {
    let ok = |answer: &dyn Debug| format!("Ok({answer:?})");
    match answer {
        Ok(Answer::Stored(stored)) => ok(&stored),
        Ok(Answer::Deleted(deleted)) => ok(&deleted),
        Ok(Answer::Acknowledged) => ok(&()),
        Ok(Answer::Item(item)) => ok(&item),
        Ok(Answer::Stats(stats)) => ok(&stats),
        Err(error) => format!("Err({error:?})"),
    }
}

fn same_alone<T: Debug>(
    bytes: &[u8],
    kind: Kind,
    read_alone: impl Fn(&mut Wire<Pieces>) -> Result<T, DatastoreError>,
) {
    let mut wire = super::wire(bytes, 0);
    let alone = read_alone(&mut wire);
    let is_cut = |error: &DatastoreError| error.kind() == ErrorKind::Unreachable;
    let answers = read(bytes, bytes.len().max(1), kind);
    let Some(first) = answers.first() else {
        // A value is waited for, though it is no answer to this request.
        let refuses = alone.as_ref().is_err();
        assert!(refuses, "{alone:?}");
        return;
    };
    assert!(!alone.as_ref().is_err_and(is_cut), "{first:?}");
    // A call that has its connection for itself does not read values of more than 64 KiB.
    if first.length > 64 << 10 {
        return;
    }
    assert_eq!(first.shown, format!("{alone:?}"));
    if first.length == bytes.len() {
        assert_eq!(wire.is_usable(), !first.retires, "{first:?}");
    }
}
