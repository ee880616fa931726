//! Properties that must hold for every input, as functions of arbitrary bytes. The targets in
//! `fuzz/` run them on random inputs, the tests here on the targets' seeds.

use std::os::unix::ffi::OsStrExt;

use dlock_core::{OwnerToken, Time};

use crate::FileBuilder;
use crate::record::{End, MAX_BYTES, Record, StoredGrant, with_check};
use crate::record_path::{RecordPath, SHARDS};

/// A record survives being written and read again, with or without a correct checksum. A written
/// record can be read, unless it was damaged.
pub fn lock_value(data: &[u8]) {
    for bytes in [
        data,
        with_check(String::from_utf8_lossy(data).into_owned()).as_bytes(),
    ] {
        if let Ok(record) = Record::from_text(bytes) {
            let text = record.to_text();
            assert_eq!(Record::from_text(text.as_bytes()), Ok(record), "{text}");
        }
    }

    let record = made_of(data);
    let mut text = record.to_text().into_bytes();
    assert!(text.len() as u64 <= MAX_BYTES);
    assert_eq!(Record::from_text(&text), Ok(record));
    let (at, byte) = match data {
        [a, b, byte, ..] => (usize::from(u16::from_le_bytes([*a, *b])), *byte),
        _ => (0, 0),
    };
    let at = at % text.len();
    assert!(Record::from_text(&text[..at]).is_err());
    if text[at] != byte {
        text[at] = byte;
        assert!(Record::from_text(&text).is_err());
    }
}

/// A record with fields from `data`.
fn made_of(data: &[u8]) -> Record {
    let printable = |bytes: &[u8]| {
        let bytes = bytes.iter().map(|byte| char::from(b' ' + byte % 95));
        bytes.collect::<String>()
    };
    let number = |at: usize| {
        let bytes = data.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    let text = data.get(40..).unwrap_or_default();
    let (key, holder) = text.split_at(text.len().min(250));
    let holding = StoredGrant {
        owner: OwnerToken::from_hex(&format!("{:032x}", number(0))).expect("32 digits"),
        is_handed: number(16) % 2 == 1,
        sequence: number(8),
        ends: End {
            boot: printable(&data[..data.len().min(36)]),
            boottime: Time::from_nanos(number(16)),
            wall: number(24),
        },
        holder: printable(&holder[..holder.len().min(512)]),
    };
    Record {
        key: printable(key),
        fence: number(32),
        holding: (number(32) % 4 != 0).then_some(holding),
    }
}

/// Different keys have different files in the folder, even on a file system that ignores case.
pub fn key(data: &[u8]) {
    let mut texts = data
        .split(|byte| *byte == 0xff)
        .map(String::from_utf8_lossy);
    let (key, other) = (
        texts.next().unwrap_or_default(),
        texts.next().unwrap_or_default(),
    );
    if key.is_empty() {
        return;
    }
    let (place, other_place) = (RecordPath::of(&key), RecordPath::of(&other));
    assert!(place.file.len() <= 255 - 16 && place.shard < SHARDS);
    assert!(!place.file.contains('/') && !place.file.starts_with('.'));
    let same = place.file.eq_ignore_ascii_case(&other_place.file);
    assert_eq!(same, key == other, "{key:?} {other:?}");
    assert_eq!(RecordPath::of_file(&place.file), Some(place));
}

/// The path of a folder survives being written as a URL. An error about the URL of another store
/// does not show its password.
pub fn url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = FileBuilder::from_url(&text);

    let path: Vec<u8> = data.iter().copied().filter(|byte| *byte != 0).collect();
    let encoded: String = path.iter().map(|byte| format!("%{byte:02x}")).collect();
    let builder = FileBuilder::from_url(&format!("file:/{encoded}")).expect("an encoded path");
    assert_eq!(
        builder.path().as_os_str().as_bytes(),
        [b"/", path.as_slice()].concat()
    );

    if text.contains("s3cret") {
        return;
    }
    for url in [
        format!("{text}:s3cret@host"),
        format!("redis://user:s3cret{text}@host"),
        format!("redis://host?pass=s3cret{text}"),
    ] {
        if url.starts_with("file:") {
            continue;
        }
        let error = FileBuilder::from_url(&url).expect_err("no file store");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Holds what a target promises against each of its seeds.
    fn hold_on_seeds(target: &str, promise: fn(&[u8])) {
        let folder = format!("{}/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(&folder).expect(&folder);
        let mut count = 0;
        for file in files {
            promise(&std::fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 2, "{folder} has {count} seeds");
    }

    #[test]
    fn the_seeds_of_the_fuzz_targets_keep_what_is_promised() {
        hold_on_seeds("lock_value", lock_value);
        hold_on_seeds("key", key);
        hold_on_seeds("url", url);
    }

    proptest! {
        #[test]
        fn any_bytes_keep_what_is_promised(data in any::<Vec<u8>>()) {
            lock_value(&data);
            key(&data);
            url(&data);
        }
    }
}
