//! Maps a key to its files.

use std::fmt::Write as _;

use hmac_sha256::Hash;

/// The number of shard files. It is part of the layout: two processes with different numbers would
/// not exclude each other.
pub(crate) const SHARDS: u8 = 64;
/// The end of a record's file name.
const SUFFIX: &str = ".lease";
/// The most characters of a key in its file name, so that the name stays far below 255 bytes.
const MAX_SHOWN: usize = 100;

/// The file of a key's record, and the shard whose lock protects it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RecordPath {
    pub(crate) shard: u8,
    pub(crate) file: String,
}

impl RecordPath {
    /// The path for `key`. The name has the start of the key, for people, and the SHA-256 of the
    /// whole key, which is unique whatever the file system makes of upper case, dots and slashes.
    pub(crate) fn of(key: &str) -> Self {
        let hash = Hash::hash(key.as_bytes());
        let mut file = String::with_capacity(MAX_SHOWN + 1 + 64 + SUFFIX.len());
        for byte in key.bytes().take(MAX_SHOWN) {
            file.push(match byte.to_ascii_lowercase() {
                kept @ (b'a'..=b'z' | b'0'..=b'9' | b'-') => char::from(kept),
                _ => '_',
            });
        }
        file.push('.');
        for half in hash.as_chunks().0 {
            // Writing to a String cannot fail.
            let _ = write!(file, "{:032x}", u128::from_be_bytes(*half));
        }
        file.push_str(SUFFIX);
        RecordPath {
            shard: hash[0] % SHARDS,
            file,
        }
    }

    /// The path for the highest token that was deleted in a shard.
    pub(crate) fn of_swept(shard: u8) -> Self {
        RecordPath {
            shard,
            file: format!("shard-{shard:02}.fence"),
        }
    }

    /// The path of a file of the folder; `None` for a file that is not a record.
    pub(crate) fn of_file(name: &str) -> Option<Self> {
        let (_, hash) = name.strip_suffix(SUFFIX)?.rsplit_once('.')?;
        let hex = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        let first = u8::from_str_radix(hash.get(..2).filter(|_| hex)?, 16).ok()?;
        Some(RecordPath {
            shard: first % SHARDS,
            file: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_file_name_shows_the_key() {
        let path = RecordPath::of("dlock:Hourly-import");
        assert!(path.file.starts_with("dlock_hourly-import."), "{path:?}");
    }

    #[test]
    fn keys_that_differ_only_in_case_or_punctuation_have_files_of_their_own() {
        let keys = ["dlock:a", "dlock:A", "dlock/a", "dlock.a", "dlock_a"];
        let mut files: Vec<_> = keys.iter().map(|key| RecordPath::of(key).file).collect();
        files.sort();
        files.dedup_by(|a, b| a.eq_ignore_ascii_case(b));
        assert_eq!(files.len(), keys.len());
    }

    proptest! {
        #[test]
        fn no_key_escapes_from_the_folder(key in "[!-~]{1,250}") {
            let path = RecordPath::of(&key);
            prop_assert!(path.file.len() <= 255 - 16, "{}", path.file.len());
            prop_assert!(!path.file.contains('/') && !path.file.starts_with('.'));
            prop_assert!(path.shard < SHARDS);
            prop_assert_eq!(RecordPath::of_file(&path.file), Some(path));
        }

        #[test]
        fn other_files_are_no_records(name in any::<String>()) {
            prop_assert_eq!(RecordPath::of_file(&name), None);
        }
    }
}
