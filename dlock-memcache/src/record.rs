//! The value of a lock: whose it is, and what a refusal can say of them.
//!
//! `<owner token> <fencing token> <sequence> <holder>`, one line of printable ASCII. The claim that creates the record does not know its
//! fencing token yet, since it follows from the number that the server gives the record; it writes 0, and whoever reads a 0
//! works the token out of the record's own number. Every later writer writes the token out.

use std::fmt::Write as _;

use dlock_core::{FencingToken, OwnerToken};

/// No record of ours is longer; whatever is was written by somebody else.
pub(crate) const MAX_RECORD: usize = 1024;
/// What stands before the holder is not longer.
const MAX_HEAD: usize = 32 + 1 + 20 + 1 + 20 + 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) owner: OwnerToken,
    /// `None` until the record is written for the second time.
    pub(crate) fence: Option<FencingToken>,
    /// The highest number of a call that the record saw.
    pub(crate) sequence: u64,
    pub(crate) holder: &'a str,
}

impl<'a> Record<'a> {
    /// Reads a value; `None` if it is not one of ours.
    pub(crate) fn parse(value: &'a [u8]) -> Option<Self> {
        if value.len() > MAX_RECORD {
            return None;
        }
        let text = std::str::from_utf8(value).ok()?;
        let mut fields = text.splitn(4, ' ');
        let owner = OwnerToken::from_hex(fields.next()?)?;
        let fence = number(fields.next()?)?;
        let sequence = number(fields.next()?)?;
        let holder = fields.next()?;
        Some(Record {
            owner,
            fence: (fence != 0).then_some(FencingToken::new(fence)),
            sequence,
            holder,
        })
    }

    /// The value to store.
    pub(crate) fn to_value(&self) -> String {
        let Record {
            owner,
            fence,
            sequence,
            holder,
        } = self;
        let mut value = String::with_capacity(MAX_HEAD + holder.len());
        // Writing to a String cannot fail.
        let _ = write!(value, "{owner} ");
        for number in [fence.map_or(0, FencingToken::get), *sequence] {
            value.push_str(itoa::Buffer::new().format(number));
            value.push(' ');
        }
        value.push_str(holder);
        value
    }
}

/// Digits only: `parse` would take a sign, and then two texts would be one record.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_survives_the_round_trip() {
        let owner = OwnerToken::random().unwrap();
        for (fence, sequence, holder) in [
            (None, 0, ""),
            (
                Some(FencingToken::new(7)),
                3,
                "dlock1 host 1 2 3 running a label",
            ),
            (
                Some(FencingToken::new(u64::MAX)),
                u64::MAX,
                &"h".repeat(512),
            ),
        ] {
            let record = Record {
                owner,
                fence,
                sequence,
                holder,
            };
            let value = record.to_value();
            assert_eq!(Record::parse(value.as_bytes()), Some(record), "{value}");
        }
    }

    #[test]
    fn no_record_begins_with_more_than_there_is_room_for() {
        let record = Record {
            owner: OwnerToken::random().unwrap(),
            fence: Some(FencingToken::new(u64::MAX)),
            sequence: u64::MAX,
            holder: "",
        };
        assert_eq!(record.to_value().len(), MAX_HEAD);
    }

    #[test]
    fn what_others_wrote_is_no_record() {
        let token = "0123456789abcdef0123456789abcdef";
        for value in [
            String::new(),
            "1".to_owned(),
            token.to_owned(),
            format!("{token} 1"),
            format!("{token} 1 2"),
            format!("{token} +1 2 x"),
            format!("{token} 1 -2 x"),
            format!("{token} 1  x"),
            format!("{token} 99999999999999999999 2 x"),
            format!("{} 1 2 x", token.to_uppercase()),
            format!("{token} 1 2 {}", "x".repeat(MAX_RECORD)),
        ] {
            assert_eq!(Record::parse(value.as_bytes()), None, "{value}");
        }
        assert_eq!(Record::parse(b"\xff\xfe"), None);
    }

    #[test]
    fn the_longest_record_is_read() {
        let start = "0123456789abcdef0123456789abcdef 1 2 ";
        let value = start.to_owned() + &"x".repeat(MAX_RECORD - start.len());
        assert!(Record::parse(value.as_bytes()).is_some());
        assert_eq!(Record::parse((value + "x").as_bytes()), None);
    }

    proptest! {
        #[test]
        fn reading_never_panics(value in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::parse(&value);
        }

        #[test]
        fn what_is_read_is_what_is_written(text in "[0-9a-f]{32} [0-9]{1,3} [0-9]{1,3} [ -~]{0,40}") {
            if let Some(record) = Record::parse(text.as_bytes()) {
                let again = record.to_value();
                prop_assert_eq!(Record::parse(again.as_bytes()), Some(record));
            }
        }
    }
}
