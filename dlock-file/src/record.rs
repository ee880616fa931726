//! The content of a record file: lines of text, so that an operator can read them with `cat`.
//!
//! ```text
//! dlock record 1
//! key dlock:hourly-import
//! fence 1795476271000000
//! owner 6f1d…              (32 hex digits; who has them can release the lock)
//! sequence 3
//! boot 406f2a9e-93b7-49b2-bdb9-e159d8c7eb78
//! ends-boottime 86400.000000000
//! ends-wall 1795476301.000000
//! holder dlock1 web-3 4121 … running
//! check 0123456789abcdef…
//! ```
//!
//! Spaces pad it to a multiple of 512 bytes, so that most records have the same length and one can
//! be written over another.
//!
//! A key that was handed to a waiter, which has not claimed it yet, has `handed` instead of
//! `owner`.
//! A key that nobody holds keeps its last token. Its record has the line `free` instead of those
//! from `owner` to `holder`.

use std::fmt::Write as _;

use dlock_core::{Holder, OwnerToken, Time};
use hmac_sha256::Hash;

/// The first line without its version.
const TITLE: &str = "dlock record ";
const VERSION: &str = "1";
/// Lengths of records are multiples of this.
const BLOCK: usize = 512;
/// Enough to pad any record.
const SPACES: &str = match str::from_utf8(&[b' '; BLOCK]) {
    Ok(spaces) => spaces,
    Err(_) => panic!("spaces are text"),
};
/// The longest record: a key of 250 bytes, a holder of 512 and some 350 bytes of the rest, with
/// room to spare.
pub(crate) const MAX_BYTES: u64 = 4096;

/// The state of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: String,
    /// The fencing token of the latest grant.
    pub(crate) fence: u64,
    /// The latest grant, which may have ended; `None` after a release.
    pub(crate) holding: Option<StoredGrant>,
}

/// A grant as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredGrant {
    pub(crate) owner: OwnerToken,
    /// Whether it was handed to this owner, which has not claimed it yet.
    pub(crate) is_handed: bool,
    /// The number of the highest extend that was carried out.
    pub(crate) sequence: u64,
    pub(crate) ends: End,
    pub(crate) holder: String,
}

/// The end of a grant, on the clock of the boot in which it was made and on the wall clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// The boot in which `boottime` was read; empty if the system cannot tell boots apart.
    pub(crate) boot: String,
    pub(crate) boottime: Time,
    /// Microseconds since 1970.
    pub(crate) wall: u64,
}

/// Why a file is not a valid record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// Truncated, damaged or written by other software.
    Garbage,
    /// Written by a newer version of dlock.
    Newer,
}

impl Record {
    /// The file's content.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::with_capacity(1024);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{TITLE}{VERSION}\nkey {}\nfence {}\n",
            self.key, self.fence
        );
        let _ = match &self.holding {
            None => writeln!(text, "free"),
            Some(holding) => writeln!(
                text,
                "{} {}\nsequence {}\nboot {}\nends-boottime {}\nends-wall {}\nholder {}",
                if holding.is_handed { "handed" } else { "owner" },
                holding.owner,
                holding.sequence,
                holding.ends.boot,
                Decimal::<9>(holding.ends.boottime.as_nanos()),
                Decimal::<6>(holding.ends.wall),
                holding.holder
            ),
        };
        with_check(text)
    }

    /// Reads the content of a file. The checksum at its end proves that the file is complete.
    pub(crate) fn from_text(bytes: &[u8]) -> Result<Self, Unreadable> {
        let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::Garbage)?;
        let version = text
            .strip_prefix(TITLE)
            .and_then(|rest| rest.split_once('\n'));
        match version {
            Some((VERSION, _)) => Self::of_version_1(text).ok_or(Unreadable::Garbage),
            Some((other, _)) if other.parse::<u32>().is_ok() => Err(Unreadable::Newer),
            _ => Err(Unreadable::Garbage),
        }
    }

    fn of_version_1(text: &str) -> Option<Self> {
        let text_and_spaces = text.strip_suffix('\n')?;
        let last = text_and_spaces.bytes().rposition(|byte| byte != b' ')?;
        let unfilled = text_and_spaces.get(..=last)?;
        let (body, found) = unfilled.strip_suffix('\n')?.rsplit_once("\ncheck ")?;
        let (body, _) = text.split_at(body.len() + 1);
        if !text.len().is_multiple_of(BLOCK) || found != check(body) {
            return None;
        }
        let mut lines = body.strip_suffix('\n')?.split('\n').skip(1);
        let mut field = |name: &str| lines.next()?.strip_prefix(name);
        let key = field("key ")?.to_owned();
        let fence = field("fence ")?.parse().ok()?;
        let first = field("")?;
        let holding = if first == "free" {
            None
        } else {
            let (state, owner) = first.split_once(' ')?;
            Some(StoredGrant {
                owner: OwnerToken::from_hex(owner)?,
                is_handed: match state {
                    "owner" => false,
                    "handed" => true,
                    _ => return None,
                },
                sequence: field("sequence ")?.parse().ok()?,
                ends: End {
                    boot: field("boot ")?.to_owned(),
                    boottime: Time::from_nanos(Decimal::<9>::parse(field("ends-boottime ")?)?.0),
                    wall: Decimal::<6>::parse(field("ends-wall ")?)?.0,
                },
                holder: field("holder ")?.to_owned(),
            })
        };
        lines.next().is_none().then_some(Record {
            key,
            fence,
            holding,
        })
    }
}

/// Returns whether a holder's text fits into one line of a record.
pub(crate) fn is_holder(text: &str) -> bool {
    let fits_a_line = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    text.len() <= Holder::MAX_TEXT && text.bytes().all(fits_a_line)
}

/// Appends the checksum of the text, and the padding.
pub(crate) fn with_check(mut text: String) -> String {
    let check = check(&text);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "check {check}");
    let length = (text.len() + 1).next_multiple_of(BLOCK) - 1;
    text.push_str(&SPACES[..length - text.len()]);
    text.push('\n');
    text
}

/// The same record padded to `length` bytes; `None` if records cannot have that length, or this one
/// is longer.
pub(crate) fn padded_to(text: &[u8], length: usize) -> Option<Vec<u8>> {
    let body = text.strip_suffix(b"\n")?;
    if length < text.len() || !length.is_multiple_of(BLOCK) {
        return None;
    }
    let mut filled = body.to_vec();
    filled.resize(length - 1, b' ');
    filled.push(b'\n');
    Some(filled)
}

/// A time in units of 10^-DIGITS seconds, formatted in seconds: `date -d @…` can read it.
struct Decimal<const DIGITS: u32>(u64);

impl<const DIGITS: u32> std::fmt::Display for Decimal<DIGITS> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = 10_u64.pow(DIGITS);
        let width = DIGITS as usize;
        write!(f, "{}.{:0width$}", self.0 / unit, self.0 % unit)
    }
}

impl<const DIGITS: u32> Decimal<DIGITS> {
    fn parse(text: &str) -> Option<Self> {
        let (seconds, fraction) = text.split_once('.')?;
        if fraction.len() != DIGITS as usize {
            return None;
        }
        let seconds: u64 = seconds.parse().ok()?;
        let whole = seconds.checked_mul(10_u64.pow(DIGITS))?;
        whole.checked_add(fraction.parse().ok()?).map(Decimal)
    }
}

/// The checksum: half of the SHA-256 in hex. It protects against damage, not against malice.
fn check(body: &str) -> String {
    let hash = Hash::hash(body.as_bytes());
    format!("{:032x}", u128::from_be_bytes(hash.as_chunks().0[0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records() -> impl Strategy<Value = Record> {
        let end = ("[0-9a-f+-]{0,40}", any::<u64>(), any::<u64>());
        let owner = (any::<u64>(), any::<bool>());
        let holding = (owner, any::<u64>(), end, "[ -~]{0,512}");
        let holding = holding.prop_map(
            |((owner, is_handed), sequence, (boot, boottime, wall), holder)| StoredGrant {
                owner: OwnerToken::from_hex(&format!("{owner:032x}")).unwrap(),
                is_handed,
                sequence,
                ends: End {
                    boot,
                    boottime: Time::from_nanos(boottime),
                    wall,
                },
                holder,
            },
        );
        let record = ("[!-~]{1,250}", any::<u64>(), proptest::option::of(holding));
        record.prop_map(|(key, fence, holding)| Record {
            key,
            fence,
            holding,
        })
    }

    #[test]
    fn the_times_are_seconds_that_date_can_read() {
        assert_eq!(
            Decimal::<6>(1_795_476_301_000_042).to_string(),
            "1795476301.000042"
        );
        assert_eq!(Decimal::<9>(42).to_string(), "0.000000042");
    }

    #[test]
    fn a_record_of_a_later_version_is_told_apart_from_garbage() {
        let read = |text: &str| Record::from_text(text.as_bytes());
        assert_eq!(read("dlock record 2\nanything"), Err(Unreadable::Newer));
        for garbage in [
            "",
            "dlock record",
            "dlock record x\n",
            "dlock record 1\n",
            "{}",
        ] {
            assert_eq!(read(garbage), Err(Unreadable::Garbage), "{garbage}");
        }
        assert_eq!(Record::from_text(&[0; 512]), Err(Unreadable::Garbage));
        assert_eq!(Record::from_text(&[0xff; 512]), Err(Unreadable::Garbage));
    }

    #[test]
    fn a_record_of_any_length_fills_its_blocks() {
        for length in 0..BLOCK {
            let record = Record {
                key: "k".repeat(length),
                fence: 1,
                holding: None,
            };
            let text = record.to_text();
            assert!(text.len().is_multiple_of(BLOCK), "{length}: {text}");
            assert_eq!(Record::from_text(text.as_bytes()), Ok(record));
        }
    }

    proptest! {
        #[test]
        fn padding_does_not_change_a_record(record in records(), blocks in 0_usize..10) {
            let text = record.to_text();
            let length = blocks * BLOCK;
            match padded_to(text.as_bytes(), length) {
                None => prop_assert!(length < text.len()),
                Some(filled) => {
                    prop_assert_eq!(filled.len(), length);
                    prop_assert_eq!(Record::from_text(&filled), Ok(record));
                }
            }
            prop_assert_eq!(padded_to(text.as_bytes(), text.len() + 1), None);
        }

        #[test]
        fn a_record_survives_the_round_trip(record in records()) {
            let text = record.to_text();
            prop_assert!(text.len() as u64 <= MAX_BYTES);
            prop_assert_eq!(Record::from_text(text.as_bytes()), Ok(record));
        }

        #[test]
        fn a_record_cut_anywhere_is_garbage(record in records(), cut in any::<proptest::sample::Index>()) {
            let text = record.to_text();
            let cut = cut.index(text.len());
            prop_assert_eq!(Record::from_text(&text.as_bytes()[..cut]), Err(Unreadable::Garbage));
        }

        #[test]
        fn a_record_with_a_byte_changed_is_never_read(
            record in records(), at in any::<proptest::sample::Index>(), byte in any::<u8>()
        ) {
            let mut bytes = record.to_text().into_bytes();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            prop_assert!(Record::from_text(&bytes).is_err());
        }

        #[test]
        fn no_content_panics(bytes in any::<Vec<u8>>(), text in "(dlock record 1\n)?[a-z0-9. \n-]*") {
            let _ = Record::from_text(&bytes);
            prop_assert!(Record::from_text(text.as_bytes()).is_err());
        }

        #[test]
        fn no_body_with_a_correct_checksum_panics(body in "dlock record 1\n(key a\n)?(fence [0-9]{0,30}\n)?(free\n|(owner|handed) [0-9a-f]{30,34}\n)?[ -~\n]{0,200}") {
            let text = with_check(body);
            if let Ok(record) = Record::from_text(text.as_bytes()) {
                prop_assert_eq!(Record::from_text(record.to_text().as_bytes()), Ok(record));
            }
        }
    }
}
