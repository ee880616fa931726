//! Properties that must hold for every input, as functions of arbitrary bytes. The targets in
//! `fuzz/` run them on random inputs, the tests here on the targets' seeds.

use crate::testing::{SECRET, with_passwords};
use crate::{Endpoint, escaped, percent_decoded, redacted};

/// An address survives being written and read again. Nothing in the place of a password is shown.
/// Text survives being percent-encoded. Nothing that is shown controls a terminal.
pub fn url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(endpoint) = Endpoint::parse(&text, Some(7)) {
        assert_eq!(Endpoint::parse(&endpoint.to_string(), None), Ok(endpoint));
    }

    let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
    assert_eq!(percent_decoded(&encoded).as_deref(), Some(&*text));

    assert!(!escaped(&text).chars().any(char::is_control));
    assert_eq!(escaped(&escaped(&text)), escaped(&text));

    for url in with_passwords(&text) {
        let shown = redacted(&url);
        assert!(!shown.contains(SECRET), "{url} is shown as {shown}");
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hold_on_seeds;
    use proptest::prelude::*;

    #[test]
    fn the_seeds_of_the_fuzz_targets_keep_what_is_promised() {
        hold_on_seeds(concat!(env!("CARGO_MANIFEST_DIR"), "/seeds/url"), url);
    }

    proptest! {
        #[test]
        fn no_part_of_a_password_is_shown(text in "[a-z1@:/?#%\\[\\].]{0,12}") {
            url(text.as_bytes());
        }
    }
}
