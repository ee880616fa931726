//! What holds for every input, as functions of any bytes. The targets in `fuzz/` run them for as long as one likes, the tests here
//! on their seeds.

use crate::{Endpoint, percent_decoded, redacted};

/// What must not be shown.
const SECRET: &str = "s3cret";

/// An address that is read is written and read again as the same one; what stands before an `@` or after a `?` is not shown; text
/// survives being percent-encoded.
pub fn url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(endpoint) = Endpoint::parse(&text, Some(7)) {
        assert_eq!(Endpoint::parse(&endpoint.to_string(), None), Ok(endpoint));
    }

    let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
    assert_eq!(percent_decoded(&encoded).as_deref(), Some(&*text));

    if text.contains(SECRET) {
        return;
    }
    let half = text.chars().count() / 2;
    let (before, after): (String, String) = (
        text.chars().take(half).collect(),
        text.chars().skip(half).collect(),
    );
    for url in [
        format!("{before}:{SECRET}{after}@host"),
        format!("redis://:{SECRET}{before}@{after}"),
        format!("{before}?{SECRET}{after}"),
    ] {
        let shown = redacted(&url);
        assert!(!shown.contains(SECRET), "{url} is shown as {shown}");
    }
}

#[cfg(test)]
#[path = "../../fuzz/shared/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_of_the_fuzz_targets_keep_what_is_promised() {
        seeds::keep("url", url);
    }
}
