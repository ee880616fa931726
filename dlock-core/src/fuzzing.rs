//! Properties that must hold for every input, as functions of arbitrary bytes. The targets in
//! `fuzz/` run them on random inputs, the tests here on the targets' seeds.

use std::borrow::Cow;
use std::time::Duration;

use crate::contract::holder::Holder;
use crate::contract::key::{decode, encode, lock_key, once_key};
use crate::duration::{format, parse};

/// A duration survives being written and read again, parts add up, and an error is a short line.
pub fn duration(data: &[u8]) {
    if let [seconds @ .., a, b, c, d] = data
        && let Ok(seconds) = seconds.try_into()
    {
        let nanos = u32::from_le_bytes([*a, *b, *c, *d]) % 1_000_000_000;
        let duration = Duration::new(u64::from_le_bytes(seconds), nanos);
        assert_eq!(parse(&format(duration)), Ok(duration));
    }
    let text = String::from_utf8_lossy(data);
    match parse(&text) {
        Ok(duration) => {
            let written = format(duration);
            assert_eq!(parse(&written), Ok(duration), "{text:?} as {written}");
        }
        Err(error) => {
            let shown = error.to_string();
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
            assert!(shown.chars().count() < 600, "{shown}");
        }
    }
    for (at, _) in text.char_indices() {
        let (first, rest) = text.split_at(at);
        if !rest.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        if let (Ok(first), Ok(rest)) = (parse(first), parse(rest)) {
            assert_eq!(parse(&text).ok(), first.checked_add(rest), "{text:?}");
        }
    }
}

/// Keys are short and have only safe characters. Two names have the same key only if they join to
/// the same text, and a mark never has the key of a lock. In `data` the names are separated by
/// bytes that UTF-8 does not have; the first byte is the longest key.
pub fn key(data: &[u8]) {
    let (first, data) = data.split_first().unwrap_or((&250, &[]));
    let max_key = usize::from(*first).max(80);
    let mut texts = data
        .split(|byte| *byte == 0xff)
        .map(String::from_utf8_lossy);
    let mut text = || texts.next().unwrap_or(Cow::Borrowed(""));
    let (prefix, id, job) = (text(), text(), text());
    let (other_prefix, other_id, other_job) = (text(), text(), text());

    assert_eq!(decode(&encode(&id)).as_deref(), Some(&*id));
    let harmless = |key: &str| {
        key.bytes()
            .all(|b| b.is_ascii_graphic() && !b"{}".contains(&b))
    };
    let lock = lock_key(&prefix, &id, max_key);
    let mark = once_key(&prefix, &id, &job, max_key);
    for key in [&lock, &mark] {
        assert!(key.len() <= max_key && harmless(key), "{key}");
    }

    let other_lock = lock_key(&other_prefix, &other_id, max_key);
    let other_mark = once_key(&other_prefix, &other_id, &other_job, max_key);
    let same = format!("{prefix}:{id}") == format!("{other_prefix}:{other_id}");
    assert_eq!(lock == other_lock, same, "{lock} {other_lock}");
    assert_eq!(
        mark == other_mark,
        same && job == other_job,
        "{mark} {other_mark}"
    );
    assert!(lock != mark && lock != other_mark && mark != other_lock);
}

/// A holder that can be read is written as the same text, and is shown as one line.
pub fn holder(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(holder) = Holder::from_text(&text) {
        assert_eq!(holder.to_text(), text);
        let shown = holder.to_string();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Holds what a target promises against each of its seeds.
    fn hold_on_seeds(target: &str, promise: fn(&[u8])) {
        let folder = format!("{}/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(&folder).expect(&folder);
        let mut count = 0;
        for file in files {
            promise(&std::fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 2, "{folder} has {count} seeds");
    }

    #[test]
    fn the_seeds_of_the_fuzz_targets_keep_what_is_promised() {
        hold_on_seeds("duration", duration);
        hold_on_seeds("key", key);
        hold_on_seeds("lock_value", holder);
    }

    proptest! {
        #[test]
        fn any_bytes_keep_what_is_promised(data in any::<Vec<u8>>()) {
            duration(&data);
            key(&data);
            holder(&data);
        }
    }
}
