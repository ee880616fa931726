//! URLs with a password, in its place and in wrong ones.

/// What must not be shown.
pub const SECRET: &str = "s3cret";

/// The text in the halves before and after a [`SECRET`] that stands where a password stands, or
/// where somebody may have put one by mistake. None for a text that has the secret in it itself;
/// the URL of a folder, which has no password, is left out.
#[must_use]
pub fn with_passwords(text: &str) -> Vec<String> {
    if text.contains(SECRET) {
        return Vec::new();
    }
    let half = text.chars().count() / 2;
    let before: String = text.chars().take(half).collect();
    let after: String = text.chars().skip(half).collect();
    let mut urls = vec![
        format!("{before}:{SECRET}{after}@host"),
        format!("{before}?{SECRET}{after}"),
    ];
    for scheme in ["redis", "memcache", "unix", "memcache+unix", "other"] {
        urls.extend([
            format!("{scheme}://:{SECRET}{before}@{after}"),
            format!("{scheme}://{before}:{SECRET}@{after}"),
            format!("{scheme}:///{before}:{SECRET}{after}@/run/x"),
            format!("{scheme}://host/{before}:{SECRET}{after}@run/x"),
            format!("{scheme}://host?pass={SECRET}{text}"),
            format!("{scheme}://{SECRET}{before}@{after}"),
        ]);
    }
    // The host was forgotten. A path may have a colon.
    for scheme in ["redis", "memcache", "other"] {
        urls.push(format!("{scheme}://{before}:{SECRET}{after}"));
    }
    urls.retain(|url| !url.starts_with("file:"));
    urls
}
