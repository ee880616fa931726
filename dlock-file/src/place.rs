//! From a key to the files that stand for it.

use hmac_sha256::Hash;

/// How many shard files there are. Part of the layout: two processes that disagree about it do not exclude each other.
pub(crate) const SHARDS: u8 = 64;
/// What a record's file name ends with.
const SUFFIX: &str = ".lease";
/// The most characters of a key that its file name shows, so that the whole stays far below the 255 bytes of a file name.
const SHOWN: usize = 100;

/// Where a key's record is kept, and under which shard lock.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: u8,
    pub(crate) file: String,
}

impl Place {
    /// The place of `key`: as much of it as a file name can show, then its whole SHA-256, which tells the keys apart whatever the
    /// file system thinks of upper case, dots and slashes.
    pub(crate) fn of(key: &str) -> Self {
        let hash = Hash::hash(key.as_bytes());
        let mut file = String::with_capacity(SHOWN + 1 + 64 + SUFFIX.len());
        for byte in key.bytes().take(SHOWN) {
            file.push(match byte.to_ascii_lowercase() {
                plain @ (b'a'..=b'z' | b'0'..=b'9' | b'-') => char::from(plain),
                _ => '_',
            });
        }
        file.push('.');
        push_hex(&mut file, &hash);
        file.push_str(SUFFIX);
        Place {
            shard: hash[0] % SHARDS,
            file,
        }
    }

    /// The place that a file of the folder stands for; `None` for one that is no record.
    pub(crate) fn of_file(name: &str) -> Option<Self> {
        let (_, hash) = name.strip_suffix(SUFFIX)?.rsplit_once('.')?;
        let hex = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        let first = u8::from_str_radix(hash.get(..2).filter(|_| hex)?, 16).ok()?;
        Some(Place {
            shard: first % SHARDS,
            file: name.to_owned(),
        })
    }
}

/// Appends the bytes as lower-case hex digits.
pub(crate) fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_file_name_shows_the_key() {
        let place = Place::of("dlock:Hourly-import");
        assert!(place.file.starts_with("dlock_hourly-import."), "{place:?}");
    }

    #[test]
    fn keys_that_differ_only_in_case_or_punctuation_have_files_of_their_own() {
        let keys = ["dlock:a", "dlock:A", "dlock/a", "dlock.a", "dlock_a"];
        let mut files: Vec<_> = keys.iter().map(|key| Place::of(key).file).collect();
        files.sort();
        files.dedup_by(|a, b| a.eq_ignore_ascii_case(b));
        assert_eq!(files.len(), keys.len());
    }

    proptest! {
        #[test]
        fn no_key_escapes_from_the_folder(key in "[!-~]{1,250}") {
            let place = Place::of(&key);
            prop_assert!(place.file.len() <= 255 - 16, "{}", place.file.len());
            prop_assert!(!place.file.contains('/') && !place.file.starts_with('.'));
            prop_assert!(place.shard < SHARDS);
            prop_assert_eq!(Place::of_file(&place.file), Some(place));
        }

        #[test]
        fn other_files_are_no_records(name in any::<String>()) {
            prop_assert_eq!(Place::of_file(&name), None);
        }
    }
}
