//! Redacts URLs, and escapes foreign text, for messages.

use std::borrow::Cow;

use crate::{Endpoint, UrlParts};

/// The schemes of dlock's stores. Any other word before a `://` may be the start of a password.
const SCHEMES: [&str; 22] = [
    "etcd",
    "etcds",
    "file",
    "memcache",
    "memcache+unix",
    "postgres",
    "postgresql",
    "redis",
    "rediss",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+unix",
    "redis+cluster",
    "rediss+cluster",
    "unix",
    "valkey",
    "valkeys",
    "valkey+sentinel",
    "valkeys+sentinel",
    "valkey+unix",
    "valkey+cluster",
    "valkeys+cluster",
];

/// Redacts a URL for messages, for every store and the command.
///
/// A URL of a known form is shown without its login and without the part after the `?`. Of a URL
/// that cannot be parsed only the scheme is shown: a password may be in the place of any other
/// part. Of the path of a sentinels' URL or of PostgreSQL's, the name of a service or a database,
/// nothing is shown either. The path of a `file:` URL, which has no login, is shown whole. So is a
/// path in place of a URL, if no part of it may be a login or an option. Control characters are
/// escaped.
///
/// ```
/// use dlock_url::redacted;
///
/// assert_eq!(redacted("redis://app:s3cret@db/0?token=x"), "redis://***@db/0?***");
/// assert_eq!(redacted("memcache://cache:11211"), "memcache://cache:11211");
/// assert_eq!(redacted("redis+sentinel://:s3cret@a,b/locks"), "redis+sentinel://***@a,b/***");
/// assert_eq!(redacted("postgres://app:s3cret@db/shop"), "postgres://***@db/***");
/// assert_eq!(redacted("redis://app:s3cret"), "redis://***"); // the host is missing
/// assert_eq!(redacted("unix:///:s3cret@/run/redis.sock"), "unix://***");
/// assert_eq!(redacted("/var/lib/locks"), "/var/lib/locks");
/// ```
pub fn redacted(url: &str) -> String {
    if url.starts_with("file:") || url.starts_with('/') && !url.contains(['@', '?', ':']) {
        return escaped(url).into_owned();
    }
    let Some(parts) = UrlParts::of(url) else {
        return "***".to_owned();
    };
    let scheme = parts.scheme;
    let is_known = SCHEMES.contains(&scheme);
    let is_scheme = !scheme.is_empty()
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !is_known && (url.contains('@') || !is_scheme) {
        return "***".to_owned();
    }
    // An `@` after the `?` may end a password with an unescaped question mark.
    let is_read = is_read(&parts) && !parts.query.is_some_and(|query| query.contains('@'));
    if !is_read {
        return format!("{scheme}://***");
    }
    let login = parts.login.map_or("", |_| "***@");
    let query = parts.query.map_or("", |_| "?***");
    let host = escaped(parts.host);
    // If the host is missing, as in `redis+sentinel://app:12/34`, it is a part of a password.
    let path = match path_is_name(scheme) {
        true => "/***".into(),
        false => escaped(parts.path),
    };
    format!("{scheme}://{login}{host}{path}{query}")
}

/// Returns whether host and path are certainly a host and a path.
fn is_read(parts: &UrlParts<'_>) -> bool {
    let UrlParts {
        scheme, host, path, ..
    } = *parts;
    if scheme == "unix" || scheme.ends_with("+unix") {
        return host.is_empty() && path.len() > 1 && !path.contains('@');
    }
    if path_is_name(scheme) {
        return Endpoint::parse_list(host, Some(1)).is_ok() && !path.contains('@');
    }
    let database = path.strip_prefix('/').unwrap_or(path);
    let are_hosts = match matches!(scheme, "etcd" | "etcds") || scheme.ends_with("+cluster") {
        true => Endpoint::parse_list(host, Some(1)).is_ok(),
        false => Endpoint::parse(host, Some(1)).is_ok(),
    };
    are_hosts && database.bytes().all(|b| b.is_ascii_digit())
}

/// Returns whether the path of such a URL is a name, of a service or a database, which may be any
/// text.
fn path_is_name(scheme: &str) -> bool {
    scheme.ends_with("+sentinel") || scheme.starts_with("postgres")
}

/// Escapes a text for messages: control characters, invisible characters and those that change the
/// direction of text are written like `\u{202e}`. So a foreign text cannot imitate a message of
/// this program.
///
/// ```
/// assert_eq!(dlock_url::escaped("ERR bad\u{202e}\n"), r"ERR bad\u{202e}\n");
/// ```
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_unprintable(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Returns whether it is a control character, or a format character of Unicode that directs, joins,
/// separates or hides text.
pub(crate) fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_url_is_shown_without_its_login_and_query() {
        for (url, shown) in [
            ("redis://user:s3cret@host/", "redis://***@host/"),
            ("redis://user:a@s3cret@host", "redis://***@host"),
            ("rediss://:s3cret@[::1]:7/3", "rediss://***@[::1]:7/3"),
            ("redis://host/?password=s3cret", "redis://host/?***"),
            ("redis://host:1?db=1", "redis://host:1?***"),
            ("unix://:s3cret@/run/x.sock", "unix://***@/run/x.sock"),
            ("unix:///run/x.sock?pass=s3cret", "unix:///run/x.sock?***"),
            ("memcache+unix:///run/m", "memcache+unix:///run/m"),
            (
                "redis+cluster://u:s3cret@a,b:1/0?ca=x",
                "redis+cluster://***@a,b:1/0?***",
            ),
            (
                "redis+sentinel://user:s3cret@a:1,[::1]/locks/0?sentinel_password=s3cret",
                "redis+sentinel://***@a:1,[::1]/***?***",
            ),
            ("valkeys+sentinel://a,b/x", "valkeys+sentinel://a,b/***"),
            ("etcd://u:s3cret@a,b:1,[::1]", "etcd://***@a,b:1,[::1]"),
            (
                "etcds://u:s3cret@a,b?cert=/s3cret.crt&key=/s3cret.key",
                "etcds://***@a,b?***",
            ),
            (
                "postgres://u@a/?sslkey=/s3cret.key&sslmode=require",
                "postgres://***@a/***?***",
            ),
            (
                "postgres://user:s3cret@a:1,b/shop?port=7",
                "postgres://***@a:1,b/***?***",
            ),
            ("postgresql://db", "postgresql://db/***"),
            ("http://host", "http://host"),
            ("file:/home/me@work/a?b", "file:/home/me@work/a?b"),
            ("unix:///a\u{1b}", "unix:///a\\u{1b}"),
            ("/home/me/locks\n", "/home/me/locks\\n"),
        ] {
            assert_eq!(redacted(url), shown, "{url}");
        }
    }

    #[test]
    fn of_an_invalid_url_only_a_known_scheme_is_shown() {
        for (url, shown) in [
            ("redis://app:s3cret", "redis://***"),
            ("redis://:s3cret", "redis://***"),
            ("redis://u:s3cret@", "redis://***"),
            ("redis://u:s3cret@db:x", "redis://***"),
            ("redis://host/s3cret", "redis://***"),
            ("redis://a,s3cret", "redis://***"),
            ("redis+cluster://u:s3cret,a", "redis+cluster://***"),
            ("redis://user:a/s3cret@host", "redis://***"),
            ("redis://user:1/s3cret@host", "redis://***"),
            ("redis://user:a?s3cret@host", "redis://***"),
            ("redis://user:1?s3cret@host", "redis://***"),
            ("redis+sentinel://app:s3cret/x", "redis+sentinel://***"),
            (
                "redis+sentinel://app:12/s3cret",
                "redis+sentinel://app:12/***",
            ),
            ("redis+sentinel://app:1/s3cret@h", "redis+sentinel://***"),
            ("redis+sentinel://a,:s3cret", "redis+sentinel://***"),
            ("etcds://app:s3cret", "etcds://***"),
            ("etcds://a?key=/s3cret@x", "etcds://***"),
            ("postgres://app:s3cret/x", "postgres://***"),
            ("postgres://app:s3cret@/x?host=/run", "postgres://***"),
            ("postgres://app:1/s3cret@h", "postgres://***"),
            ("unix:///:s3cret@/run/redis.sock", "unix://***"),
            ("redis+unix:///:s3cret@/x?db=1", "redis+unix://***"),
            ("unix:///user:s3cret@run/x.sock", "unix://***"),
            ("unix://user:s3cret@run/x.sock", "unix://***"),
            ("unix:///", "unix://***"),
            ("user:s3cret@host", "***"),
            ("user:s3cret://a@host", "***"),
            ("s3cret://a@host", "***"),
            ("redis:/:s3cret@host", "***"),
            ("://s3cret", "***"),
            ("/:s3cret@db", "***"),
            ("/app:s3cret", "***"),
            ("/db?pass=s3cret", "***"),
            ("locks", "***"),
            ("s3cret", "***"),
            ("", "***"),
        ] {
            assert_eq!(redacted(url), shown, "{url}");
        }
    }

    #[test]
    fn characters_that_control_a_terminal_are_escaped() {
        for c in [
            '\u{0}',
            '\n',
            '\u{1b}',
            '\u{7f}',
            '\u{9b}',
            '\u{200f}',
            '\u{2028}',
            '\u{202e}',
            '\u{2066}',
            '\u{2069}',
            '\u{feff}',
            '\u{e0041}',
        ] {
            let shown = escaped(&format!("a{c}b")).into_owned();
            assert!(shown.starts_with("a\\") && shown.ends_with('b'), "{shown}");
            assert!(!shown.contains(c));
        }
        assert_eq!(escaped("schlüssel ключ 鍵 \\"), "schlüssel ключ 鍵 \\");
    }
}
