//! The keys that are held, a page at a time.

use dlock_core::{DatastoreError, HeldBy};
use serde_json::json;

use super::commands::{Commands, Method};
use super::grant::held_by;
use super::queue;
use super::record::Record;
use super::requests::{bytes, bytes_of};

/// How many keys a page has. For each, one more question is asked.
const PAGE: usize = 64;

/// The keys of a page, and the last of them if more may follow.
pub(crate) struct Page {
    pub(crate) keys: Vec<(String, HeldBy)>,
    pub(crate) last: Option<String>,
}

/// Reads the keys that start with `prefix`, in their order, those after `after` only. What dlock
/// did not write is left out.
///
/// # Errors
///
/// Not executed.
pub(crate) async fn page<C: Commands>(
    server: &mut C,
    prefix: &str,
    after: Option<&str>,
) -> Result<Page, DatastoreError> {
    let first = match after {
        // The places of its waiters are between it and the next key.
        Some(after) => queue::after_places(after),
        None if prefix.is_empty() => "\0".to_owned(),
        None => prefix.to_owned(),
    };
    let body = json!({
        "key": bytes(&first), "range_end": bytes(&end_of(prefix)), "limit": PAGE.to_string(),
    });
    let answer = server.ask(Method::Range, &body).await?;
    let found = answer["kvs"].as_array().map_or(&[][..], Vec::as_slice);
    let (mut keys, mut last) = (Vec::with_capacity(found.len()), None);
    for key in found {
        let Ok(name) = String::from_utf8(bytes_of(&key["key"])) else {
            continue;
        };
        if let Some(key) = queue::key_of(&name) {
            last = Some(key.to_owned());
            continue;
        }
        if let Some(record) = Record::of(key) {
            keys.push((name.clone(), held_by(server, &record).await?));
        }
        last = Some(name);
    }
    let more_follow = answer["more"] == json!(true);
    Ok(Page {
        keys,
        last: last.filter(|_| more_follow),
    })
}

/// The first text that is greater than all that start with `prefix`, as etcd wants it.
fn end_of(prefix: &str) -> String {
    let mut end = prefix.to_owned();
    match end.pop() {
        // Keys are ASCII, so there is a next letter.
        Some(letter) => end.push(char::from_u32(u32::from(letter) + 1).unwrap_or(char::MAX)),
        // All keys.
        None => end.push('\0'),
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_behind_all_keys_with_the_prefix() {
        assert_eq!(end_of("dlock:a"), "dlock:b");
        assert_eq!(end_of("dlock:~"), "dlock:\u{7f}");
        assert_eq!(end_of(""), "\0");
    }
}
