//! How a prefix and an id become the key in the store.
//!
//! | text of `prefix:id` | key |
//! | --- | --- |
//! | printable ASCII but braces, percent and space, at most the store's `max_key` bytes | the text itself, as in PHP dlock |
//! | other characters | each byte of them as `%` and two hex digits |
//! | longer than `max_key` once encoded | as much of its start as fits, `%h`, SHA-256 of the encoded text in hex |
//!
//! `%h` and `%o` are no escapes, so no encoded name equals a shortened one or a run-once mark.

use std::borrow::Cow;
use std::fmt::Write as _;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Separates prefix and id.
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

/// The ASCII characters that are escaped, besides all bytes that are not ASCII: a store or protocol
/// could take them for something other than a letter of a name.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'{').add(b'}').add(b'%');

/// Percent-encodes a name.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).collect()
}

/// Appends the result of [`encode`].
pub(crate) fn push_encoded(encoded: &mut String, text: &str) {
    encoded.extend(utf8_percent_encode(text, ESCAPED));
}

/// The inverse of [`encode`]; `None` if an escape is malformed or the result is not UTF-8. It also
/// accepts text that `encode` would write differently.
pub(crate) fn decode(encoded: &str) -> Option<Cow<'_, str>> {
    let decoded = percent_decode_str(encoded).decode_utf8().ok()?;
    // The decoder leaves a malformed escape as it is. A whole one is two bytes longer than the byte
    // that it stands for.
    let escapes = encoded.bytes().filter(|byte| *byte == b'%').count();
    (encoded.len() == decoded.len() + 2 * escapes).then_some(decoded)
}

/// Shortens a key that is too long: keeps its start, so that rights that are granted by key prefix
/// still apply, and replaces the rest by a hash of the whole. The result depends on the joined text
/// alone, so two ways to split a text into prefix and id still name one lock.
fn shorten(mut key: String, max_key: usize) -> String {
    if key.len() <= max_key {
        return key;
    }
    let hash = hmac_sha256::Hash::hash(key.as_bytes());
    let mut end = max_key.saturating_sub(HASH_SUFFIX);
    // Do not cut in the middle of an escape.
    if let Some(escape) = key[..end].rfind('%').filter(|at| at + 3 > end) {
        end = escape;
    }
    key.truncate(end);
    key.push_str(HASHED);
    for byte in hash {
        // Writing to a String cannot fail.
        let _ = write!(key, "{byte:02x}");
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
    fn a_malformed_escape_is_no_text() {
        for malformed in ["%", "%4", "a%zz", "%4%41", "%%41", "%FF"] {
            assert_eq!(decode(malformed), None, "{malformed}");
        }
        assert_eq!(decode("a%c3%9Fb%25").as_deref(), Some("a\u{df}b%"));
        assert!(matches!(decode("plain"), Some(Cow::Borrowed("plain"))));
    }

    #[test]
    fn each_byte_that_is_no_letter_of_a_name_is_escaped() {
        for byte in 0..=0x7f_u8 {
            let text = char::from(byte).to_string();
            let is_letter = byte.is_ascii_graphic() && !b"{}%".contains(&byte);
            let expected = if is_letter {
                text.clone()
            } else {
                format!("%{byte:02X}")
            };
            assert_eq!(encode(&text), expected);
        }
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
    fn a_run_once_mark_has_a_key_that_no_lock_has() {
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
