//! What a lock's key holds.

use dlock_core::{FencingToken, HeldBy, OwnerToken};
use serde_json::Value;

use super::requests::{bytes_of, number};

/// The digits of a sequence, so that texts compare as their numbers do.
const SEQUENCE: usize = 20;
/// The digits of an owner.
const OWNER: usize = 32;

/// A key as it was read: `<owner> <sequence> <holder>` with a lease.
///
/// The server compares values byte by byte. The owner comes first, so that one comparison says
/// whether a key is an owner's; then the sequence, so that the same comparison says whether a call
/// is newer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) owner: OwnerToken,
    pub(crate) value: String,
    /// The revision of the grant: the fencing token.
    pub(super) created: i64,
    /// The revision of the last write.
    pub(super) modified: i64,
    pub(super) lease: i64,
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Lock(Record),
    /// Something that dlock did not write.
    Foreign,
}

impl Found {
    /// The only key of an answer to a range.
    pub(crate) fn of_range(range: &Value) -> Self {
        match &range["kvs"][0] {
            Value::Null => Found::Nothing,
            key => Record::of(key).map_or(Found::Foreign, Found::Lock),
        }
    }
}

impl Record {
    /// Reads a key of an answer; `None` if dlock did not write it.
    pub(super) fn of(key: &Value) -> Option<Self> {
        let value = String::from_utf8(bytes_of(&key["value"])).ok()?;
        let lease = number(&key["lease"]);
        let owner = OwnerToken::from_hex(value.get(..OWNER)?)?;
        let rest = value.get(OWNER..)?.strip_prefix(' ')?;
        let (sequence, _) = rest.split_once(' ')?;
        let is_ours = sequence.len() == SEQUENCE
            && sequence.bytes().all(|byte| byte.is_ascii_digit())
            && lease != 0;
        is_ours.then(|| Record {
            owner,
            created: number(&key["create_revision"]),
            modified: number(&key["mod_revision"]),
            lease,
            value,
        })
    }

    pub(crate) fn fence(&self) -> FencingToken {
        fence(self.created)
    }

    pub(super) fn held(&self) -> HeldBy {
        let holder = self.value.get(OWNER + SEQUENCE + 2..).unwrap_or_default();
        HeldBy::new()
            .with_fence(self.fence())
            .with_holder_text(holder)
    }
}

/// A revision as a fencing token.
pub(super) fn fence(revision: i64) -> FencingToken {
    FencingToken::new(u64::try_from(revision).unwrap_or_default())
}

pub(crate) fn value(owner: OwnerToken, sequence: u64, holder: &str) -> String {
    format!("{} {holder}", start(owner, sequence))
}

/// What the value of this owner's call starts with. All calls with lower numbers compare less.
pub(super) fn start(owner: OwnerToken, sequence: u64) -> String {
    format!("{owner} {sequence:0SEQUENCE$}")
}

/// Less than all values of this owner.
pub(super) fn below_all_of(owner: OwnerToken) -> String {
    format!("{owner} ")
}

/// Greater than all values of this owner: `!` follows the space.
pub(super) fn above_all_of(owner: OwnerToken) -> String {
    format!("{owner}!")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::requests::bytes;
    use serde_json::json;

    fn owner() -> OwnerToken {
        OwnerToken::from_hex("00000000000000000000000000000aff").unwrap()
    }

    fn key(value: &str, lease: &str) -> Value {
        json!({"value": bytes(value), "lease": lease, "create_revision": "7", "mod_revision": "9"})
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let holder = "dlock1 web-3 4121 00000000000000aa 1764000271000 running";
        let text = value(owner(), 3, holder);
        let record = Record::of(&key(&text, "5")).unwrap();
        assert_eq!(record.owner, owner());
        assert_eq!((record.created, record.modified, record.lease), (7, 9, 5));
        assert_eq!(record.value, text);
        let held = record.held();
        assert_eq!(held.fence(), Some(FencingToken::new(7)));
        assert_eq!(held.holder().map(ToString::to_string), {
            let held = HeldBy::new().with_holder_text(holder);
            Some(held.holder().unwrap().to_string())
        });
        assert_eq!(
            Record::of(&key(&value(owner(), 0, ""), "5"))
                .unwrap()
                .held()
                .holder(),
            None
        );
    }

    #[test]
    fn what_others_wrote_is_foreign() {
        let ours = value(owner(), 3, "x");
        let (few_digits, no_digits) = (ours.replace("00003", "3"), ours.replace("00003", "0000x"));
        for (text, lease) in [
            (few_digits.as_str(), "5"),
            (&no_digits, "5"),
            ("", "5"),
            ("hello", "5"),
            (&ours, "0"),
            (&ours[1..], "5"),
            (&ours[..40], "5"),
            (&ours.to_uppercase(), "5"),
        ] {
            let range = json!({"kvs": [key(text, lease)]});
            assert_eq!(Found::of_range(&range), Found::Foreign, "{text}");
        }
        let not_text = json!({"kvs": [{"value": "/w==", "lease": "5"}]});
        assert_eq!(Found::of_range(&not_text), Found::Foreign);
        assert_eq!(Found::of_range(&json!({"header": {}})), Found::Nothing);
    }

    #[test]
    fn values_compare_by_owner_and_then_by_sequence() {
        let (low, high) = (below_all_of(owner()), above_all_of(owner()));
        for (sequence, next) in [(0, 1), (9, 10), (99, 100), (u64::MAX - 1, u64::MAX)] {
            let text = value(owner(), sequence, "zzz");
            assert!(low < text && text < high);
            assert!(text < start(owner(), next), "{sequence} is older");
            assert!(text > start(owner(), sequence), "the same is not");
        }
        let other = OwnerToken::from_hex("00000000000000000000000000000b00").unwrap();
        let text = value(other, 0, "");
        assert!(text > high);
        let lower = OwnerToken::from_hex("00000000000000000000000000000afe").unwrap();
        assert!(value(lower, u64::MAX, "zzz") < low);
    }
}
