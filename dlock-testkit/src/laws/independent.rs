//! Law 2: keys never influence each other, whatever their text.

use crate::case::{Case, Law, check};
use crate::client::Client;
use crate::threads::in_lanes;
use crate::{Subject, Verdict};

/// Endings of keys that a store or protocol could confuse, or take for a pattern, a path or an
/// escape.
const ENDINGS: &[&str] = &[
    "a", "A", "b", "ab", "aB", "AB", "a.", ".a", "a..", "..", ".", "./a", "../a", "a/b", "a//b",
    "a\\b", "/", "a-", "-a", "_a", "a_", "*", "a*", "?", "a?", "[ab]", "a:", "a:b", ":a", "a::b",
    "a:fence", "a:queue", "a%", "a%41", "%41", "a%20", "a+", "a%h", "a%once:b", "%", "%%", "a'",
    "a\"", "a;b", "a|b", "a&b", "a$", "$a", "`a`", "(a)", "<a>", "~a", "a~", "#a", "a#b", "^a",
    "a=b", "a,b", "a@b", "!a", "0", "00", "1", "01", "1e0", "1.0", "-1", "NULL", "nul", "con.txt",
    "a.lock", "a.tmp", "stats", "noreply",
];

/// Keys that look alike are different locks.
pub fn similar_keys_are_different_locks(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Independent);
    let keys: Vec<String> = ENDINGS
        .iter()
        .map(|ending| format!("{}{ending}", subject.prefix()))
        .collect();
    all_apart(&case, &keys);
    Verdict::Kept
}

/// Keys up to the longest that the store takes differ by any one of their bytes.
pub fn long_keys_differ_by_any_byte(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Independent);
    let longest = case.traits.max_key;
    let start = subject.prefix().len();
    let base = format!("{}{}", subject.prefix(), "x".repeat(longest - start));
    let mut keys = vec![base.clone()];
    // Every length, and the longest key with another byte at each position.
    keys.extend((start + 1..longest).map(|length| base[..length].to_owned()));
    keys.extend((start..longest).map(|place| {
        let mut key = base.clone();
        key.replace_range(place..=place, "y");
        key
    }));
    all_apart(&case, &keys);
    Verdict::Kept
}

/// A thousand keys are a thousand locks.
pub fn many_keys_are_many_locks(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Independent);
    let keys: Vec<String> = (0..1000).map(|_| case.key()).collect();
    all_apart(&case, &keys);
    Verdict::Kept
}

/// Claims all keys for different owners, then extends and releases every second one. The others
/// must not be affected.
fn all_apart(case: &Case<'_>, keys: &[String]) {
    let lanes = case.lanes();
    let clients: Vec<Client<'_>> = keys.iter().map(|key| case.client(key)).collect();
    let leases = in_lanes(lanes, &clients, |_, client| {
        let since = format!("only other keys than {:?} were claimed", client.key());
        client.take(case.long(), &since).lease
    });
    in_lanes(lanes, &clients, |index, client| {
        if index % 2 == 0 {
            let since = format!("only other keys than {:?} were released", client.key());
            client.prolong(&leases[index], case.long(), &since);
            client.frees(&leases[index], &since);
        }
    });
    in_lanes(lanes, &clients, |index, client| {
        if index % 2 == 0 {
            return;
        }
        let since = format!("only other keys than {:?} were released", client.key());
        let held = case.client(client.key()).refused(case.long(), &since);
        if let (Some(seen), Some(own)) = (held.fence(), leases[index].fence()) {
            check!(
                case,
                seen == own,
                "{since}, but its refusal shows the fencing token {seen}, not {own}"
            );
        }
        client.frees(&leases[index], &since);
    });
    in_lanes(lanes, keys, |_, key| {
        let client = case.client(key);
        let since = format!("the holder of {key:?} had released it");
        let lease = client.take(case.long(), &since).lease;
        client.frees(&lease, &since);
    });
}
