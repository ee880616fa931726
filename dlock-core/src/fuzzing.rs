//! What holds for every input, as functions of any bytes. The targets in `fuzz/` run them for as long as one likes, the tests here
//! on their seeds.

use std::borrow::Cow;
use std::time::Duration;

use crate::Holder;
use crate::duration::{format, parse};
use crate::key::{decode, encode, lock_key, once_key};

/// What is read of a duration is written and read again as the same one, parts add up, and an error is a short line.
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

/// Keys are harmless and short, two names are one key only if they join to the same text, and a mark is no lock. The names stand
/// in `data` between bytes that no UTF-8 has; the first byte says how long keys may be.
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

/// A holder that is read was written so, and what is shown of it is one line.
pub fn holder(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(holder) = Holder::from_text(&text) {
        assert_eq!(holder.to_text(), text);
        let shown = holder.to_string();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
}

#[cfg(test)]
#[path = "../../fuzz/shared/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_seeds_of_the_fuzz_targets_keep_what_is_promised() {
        seeds::keep("duration", duration);
        seeds::keep("key", key);
        seeds::keep("lock_value", holder);
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
