//! The names behind keys.

use percent_encoding::percent_decode_str;

/// What a key of the store belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// The name of the lock.
    pub(super) lock: String,
    /// The job whose mark it is, if it is one.
    pub(super) job: Option<String>,
}

/// The name of the lock that has `key`, which begins with `prefix`; `None` for a key that was
/// shortened, or is no key of a lock.
pub(super) fn of_key(prefix: &str, key: &str) -> Option<Named> {
    let rest = key.strip_prefix(prefix)?;
    let (lock, job) = match rest.split_once("%once:") {
        Some((lock, job)) => (lock, Some(decoded(job)?)),
        None => (rest, None),
    };
    let lock = decoded(lock)?;
    Some(Named { lock, job })
}

fn decoded(text: &str) -> Option<String> {
    // The decoder leaves what is no escape as it is.
    let (mut rest, is_hex) = (text, |text: &str| {
        text.bytes().all(|b| b.is_ascii_hexdigit())
    });
    while let Some((_, escape)) = rest.split_once('%') {
        escape.get(..2).filter(|two| is_hex(two))?;
        rest = &escape[2..];
    }
    let text = percent_decode_str(text).decode_utf8().ok()?;
    Some(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(key: &str) -> Option<(String, Option<String>)> {
        of_key("dlock:", key).map(|named| (named.lock, named.job))
    }

    #[test]
    fn a_key_shows_the_name_that_the_lock_was_made_with() {
        let lock = |name: &str| Some((name.to_owned(), None));
        assert_eq!(named("dlock:import"), lock("import"));
        assert_eq!(named("dlock:a%20b%25"), lock("a b%"));
        let job = Some(("import".to_owned(), Some("12 h".to_owned())));
        assert_eq!(named("dlock:import%once:12%20h"), job);
    }

    #[test]
    fn a_key_that_was_shortened_has_no_name() {
        let hash = "0".repeat(64);
        for key in [
            &format!("dlock:long%h{hash}"),
            "app:import",
            "dlock:a%2",
            "dlock:%FF",
        ] {
            assert_eq!(named(key), None, "{key}");
        }
    }
}
