//! Decodes percent-escapes, and refuses malformed ones.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Decodes a part of a URL to text; `None` if an escape is malformed or the result is not UTF-8.
pub fn percent_decoded(text: &str) -> Option<String> {
    String::from_utf8(percent_decoded_bytes(text)?).ok()
}

/// Decodes a part of a URL to bytes; `None` if an escape is malformed.
pub fn percent_decoded_bytes(text: &str) -> Option<Vec<u8>> {
    let bytes = Vec::from(Cow::from(percent_decode_str(text)));
    // The decoder leaves a malformed escape unchanged, and a valid one becomes two bytes shorter.
    // So the lengths show whether all escapes were valid.
    let escapes = text.bytes().filter(|byte| *byte == b'%').count();
    (text.len() == bytes.len() + 2 * escapes).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_or_refused() {
        assert_eq!(percent_decoded("a%40%c3%9F").as_deref(), Some("a@ß"));
        assert_eq!(percent_decoded("").as_deref(), Some(""));
        assert_eq!(percent_decoded("%25%32%35").as_deref(), Some("%25"));
        for broken in ["%", "%4", "%zz", "%+1", "%ff", "%%41", "%41%", "%4%41"] {
            assert_eq!(percent_decoded(broken), None, "{broken}");
        }
        assert_eq!(
            percent_decoded_bytes("a%ff").as_deref(),
            Some(&b"a\xff"[..])
        );
    }
}
