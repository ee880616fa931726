//! The value of a lock: its owner, and the description of the holder for refusals.
//!
//! `<owner token> <fencing token> <sequence> <holder>`, one line of printable ASCII. The claim that
//! creates the record does not know its fencing token yet, since the token follows from the CAS
//! number that the server gives the record. So it writes 0, and a reader of 0 computes the token
//! from the record's CAS number. Every later write includes the token.

use dlock_core::{FencingToken, OwnerToken};

/// The longest record. Anything longer was written by other software.
pub const MAX_RECORD: usize = 1024;
/// The longest part before the holder.
const MAX_HEAD: usize = 32 + 1 + 20 + 1 + 20 + 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    pub owner: OwnerToken,
    /// `None` until the record is written for the second time.
    pub fence: Option<FencingToken>,
    /// The highest number of a call on the record.
    pub sequence: u64,
    pub holder: &'a str,
}

impl<'a> Record<'a> {
    /// Parses a value; `None` if dlock did not write it.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
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
    pub fn to_value(&self) -> String {
        let Record {
            owner,
            fence,
            sequence,
            holder,
        } = self;
        let mut value = String::with_capacity(MAX_HEAD + holder.len());
        owner.push_to(&mut value);
        value.push(' ');
        for number in [fence.map_or(0, FencingToken::get), *sequence] {
            value.push_str(itoa::Buffer::new().format(number));
            value.push(' ');
        }
        value.push_str(holder);
        value
    }
}

/// Digits only: `parse` accepts a sign, and then two texts would be the same record.
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
    fn the_part_before_the_holder_always_fits() {
        let record = Record {
            owner: OwnerToken::random().unwrap(),
            fence: Some(FencingToken::new(u64::MAX)),
            sequence: u64::MAX,
            holder: "",
        };
        assert_eq!(record.to_value().len(), MAX_HEAD);
    }

    #[test]
    fn a_foreign_value_is_not_a_record() {
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
