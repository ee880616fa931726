//! From a prefix and an id to the key that a store is given.
//!
//! | text of `prefix:id` | key |
//! | --- | --- |
//! | printable ASCII but braces, percent and space, at most the store's `max_key` bytes | the text itself, as in PHP dlock |
//! | other characters | each byte of them as `%` and two hex digits |
//! | longer than `max_key` once encoded | as much of its start as fits, `%h`, SHA-256 of the encoded text in hex |
//!
//! `%h` and `%o` are no escapes, so no encoded name equals a shortened one or a run-once mark.

use std::borrow::Cow;

/// What separates prefix and id.
const SEPARATOR: char = ':';
/// Leads the hash in a shortened key.
const HASHED: &str = "%h";
/// Separates a lock's key from the job in a run-once mark.
const ONCE: &str = "%once:";
/// Bytes of `%h` and a SHA-256 in hex.
const HASH_SUFFIX: usize = HASHED.len() + 64;

/// The key of the lock `prefix:id` in a store that takes keys of at most `max_key` bytes.
pub(crate) fn lock_key(prefix: &str, id: &str, max_key: usize) -> String {
    shorten(encode(&format!("{prefix}{SEPARATOR}{id}")), max_key)
}

/// The key of the mark that says that `job` was done under the lock `prefix:id`.
pub(crate) fn once_key(prefix: &str, id: &str, job: &str, max_key: usize) -> String {
    let lock = encode(&format!("{prefix}{SEPARATOR}{id}"));
    shorten(format!("{lock}{ONCE}{}", encode(job)), max_key)
}

/// Percent-encodes every byte that some store or protocol could read as more than a letter of a name.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    push_encoded(&mut encoded, text);
    encoded
}

/// Appends what [`encode`] gives.
pub(crate) fn push_encoded(encoded: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}' | b'%') {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            for digit in [byte >> 4, byte & 15] {
                encoded.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
}

/// The inverse of [`encode`]; `None` if an escape is broken or the result is not UTF-8. It also reads what `encode` would write in
/// another way.
pub(crate) fn decode(encoded: &str) -> Option<Cow<'_, str>> {
    if !encoded.contains('%') {
        return Some(Cow::Borrowed(encoded));
    }
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// Keeps the start of a key that is too long, so that rights given by key prefix still fit, and replaces the rest by
/// a hash of the whole. The result depends on the joined text alone: two ways to split it into prefix and id
/// stay one lock.
fn shorten(mut key: String, max_key: usize) -> String {
    if key.len() <= max_key {
        return key;
    }
    let hash = hmac_sha256::Hash::hash(key.as_bytes());
    let mut end = max_key.saturating_sub(HASH_SUFFIX);
    // Not in the middle of an escape.
    if let Some(escape) = key[..end].rfind('%').filter(|at| at + 3 > end) {
        end = escape;
    }
    key.truncate(end);
    key.push_str(HASHED);
    for byte in hash {
        for digit in [byte >> 4, byte & 15] {
            key.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_names_give_the_key_of_php_dlock() {
        assert_eq!(
            lock_key("dlock", "hourly-import", 250),
            "dlock:hourly-import"
        );
        assert_eq!(lock_key("app/x", "a.b:c_d,e", 250), "app/x:a.b:c_d,e");
        let longest = "x".repeat(244);
        assert_eq!(lock_key("dlock", &longest, 250), format!("dlock:{longest}"));
    }

    #[test]
    fn other_names_are_escaped() {
        assert_eq!(
            lock_key("dlock", "{a} b%\r\nß", 250),
            "dlock:%7Ba%7D%20b%25%0D%0A%C3%9F"
        );
    }

    #[test]
    fn long_names_keep_their_start_and_differ() {
        let a = lock_key("dlock", &("x".repeat(300) + "a"), 250);
        let b = lock_key("dlock", &("x".repeat(300) + "b"), 250);
        assert!(
            a.len() <= 250 && a.starts_with("dlock:xxx") && a != b,
            "{a}"
        );
        assert_eq!(
            lock_key("a", &format!("b:{}", "c".repeat(300)), 250),
            lock_key("a:b", &"c".repeat(300), 250)
        );
    }

    #[test]
    fn a_long_name_is_never_cut_inside_an_escape() {
        for length in 0..9 {
            let key = lock_key("dlock", &("x".repeat(length) + &" ".repeat(300)), 250);
            let start = &key[..key.len() - HASH_SUFFIX];
            let expected = format!("dlock:{}", "x".repeat(length));
            assert_eq!(start.replace("%20", ""), expected, "{key}");
            assert!(key.len() > 250 - "%20".len(), "as much as fits: {key}");
        }
    }

    #[test]
    fn a_mark_is_no_lock() {
        let mark = once_key("dlock", "import", "2026-11-24T19", 250);
        assert_eq!(mark, "dlock:import%once:2026-11-24T19");
        assert_ne!(mark, lock_key("dlock", "import%once:2026-11-24T19", 250));
        assert!(once_key("dlock", "import", &"j".repeat(300), 250).len() <= 250);
    }

    proptest! {
        #[test]
        fn encoding_is_injective(text in any::<String>()) {
            let encoded = encode(&text);
            let harmless = encoded.bytes().all(|b| b.is_ascii_graphic() && !b"{}".contains(&b));
            prop_assert!(harmless, "{}", encoded);
            let decoded = decode(&encoded);
            prop_assert_eq!(decoded.as_deref(), Some(text.as_str()));
        }
    }
}
