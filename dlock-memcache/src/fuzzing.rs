//! What holds for every input, as functions of any bytes. The targets in `fuzz/` run them for as long as one likes, the tests here
//! on their seeds.

use dlock_core::{FencingToken, OwnerToken};
use dlock_net::Endpoint;

use crate::config::endpoint;
use crate::record::Record;

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
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_seeds_of_the_fuzz_targets_keep_what_is_promised() {
        seeds("lock_value", lock_value);
        seeds("url", url);
    }

    fn seeds(target: &str, promise: fn(&[u8])) {
        let folder = format!("{}/../fuzz/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(&folder).expect(&folder);
        let mut count = 0;
        for file in files {
            promise(&std::fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 2, "{folder} has {count} seeds");
    }

    proptest! {
        #[test]
        fn any_bytes_keep_what_is_promised(data in any::<Vec<u8>>()) {
            lock_value(&data);
            url(&data);
        }
    }
}
