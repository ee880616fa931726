//! The names of locks, and the description of a holder in a refusal.

use std::time::{Duration, SystemTime};

use dlock_core::LockOptions;

use crate::case::{Case, Law, broken, check};
use crate::form::{Lock, Store};
use crate::{Subject, Verdict};

/// Ids with any characters, of any length, are locks of their own.
pub fn unusual_names_are_different_locks(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Names);
    let store = Store::new(subject.first());
    let long = "x".repeat(10_000);
    let names = [
        " ",
        "  ",
        "a",
        "A",
        " a",
        "a ",
        "a b",
        "a\tb",
        "a\nb",
        "a\r\nb",
        "a\0",
        "\0",
        "a\0b",
        // The same letter, composed and decomposed, and letters that look alike.
        "\u{e9}",
        "e\u{301}",
        "\u{c9}",
        "e",
        "\u{430}",
        "ß",
        "ss",
        "SS",
        "\u{131}",
        "i",
        "I",
        "\u{fb01}",
        "fi",
        "\u{200b}a",
        "a\u{200b}",
        "\u{feff}a",
        "\u{1f512}",
        "{",
        "}",
        "{a}",
        "}x",
        "{}",
        "%",
        "%25",
        "%7B",
        "%7b",
        "a%20b",
        "a+b",
        "..",
        ".",
        "/",
        "../a",
        "a/b",
        "a\\b",
        "x\r\nflush_all",
        "x\r\nset y 0 0 1\r\nz",
        "*",
        "?",
        "[a]",
        "'",
        "\"",
        "';--",
        "$(true)",
        "`true`",
        "NULL",
        ":",
        "::",
        "a:",
        ":a",
        &long,
        &long[1..],
        &long[..250],
        &long[..200],
        &long[..186],
    ];
    let mut guards = Vec::new();
    for name in names {
        let lock = case.lock(&store, name, |options| options);
        let since = format!("only locks with other names than {name:.40?} were held");
        guards.push((name, case.acquired(&lock, &since)));
    }
    for (name, guard) in guards {
        let lock = case.lock(&store, name, |options| options);
        case.held(&lock, &format!("the lock {name:.40?} was held"));
        case.released(guard);
    }
    Verdict::Kept
}

/// A prefix and an id that join to the same text are the same lock, and an empty id is none.
pub fn joined_names_are_one_lock(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Names);
    let store = Store::new(subject.first());
    let lock = |prefix: &str, id: &str| -> Lock {
        let prefix = format!("{}{prefix}", subject.prefix());
        let options = LockOptions::builder().key_prefix(prefix).ttl(case.long());
        match Lock::with_options(&store, id, options) {
            Ok(lock) => lock,
            Err(error) => broken!(case, "a lock could not be made: {error}"),
        }
    };
    let guard = case.acquired(&lock("a:b", "c"), "nobody held the lock");
    case.held(&lock("a", "b:c"), "`a:b` + `c` was held");
    let empty = Lock::with_options(&store, "", LockOptions::builder().ttl(case.long()));
    check!(case, empty.is_err(), "a lock without a name was made");
    drop(guard);
    Verdict::Kept
}

/// A refusal names the holder of the lock: host, process, label, since when, its fencing token, and
/// the longest remaining time.
pub fn a_refusal_names_the_holder(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Names);
    let (here, there) = (Store::new(subject.first()), Store::new(subject.another()));
    let label = "nightly {report}\n\u{e9}";
    let before = SystemTime::now() - Duration::from_secs(1);
    let lock = case.lock(&here, "named", |options| options.label(label));
    let guard = case.acquired(&lock, "nobody held the lock");
    let there = case.lock(&there, "named", |options| options);
    let held = case.held(&there, "the lock was held");
    let Some(holder) = held.holder() else {
        broken!(
            case,
            "the refusal does not show who holds the lock (a store keeps `Claim::holder` beside the key and gives it to \
             `HeldBy::with_holder_text`)"
        )
    };
    check!(
        case,
        holder.pid() == std::process::id() && holder.is_this_process(),
        "this process {} holds the lock, the refusal shows {holder:?}",
        std::process::id()
    );
    check!(case, !holder.host().is_empty(), "the refusal shows no host");
    check!(
        case,
        holder.label() == Some(label),
        "the holder's label is {label:?}, the refusal shows {:?}",
        holder.label()
    );
    check!(
        case,
        holder.since() >= before && holder.since() <= SystemTime::now() + Duration::from_secs(1),
        "the lock was taken just now, the refusal shows {:?}",
        holder.since()
    );
    check!(
        case,
        held.fence()
            .is_none_or(|fence| guard.fencing_token() == Some(fence)),
        "the holder's fencing token is {:?}, the refusal shows {:?}",
        guard.fencing_token(),
        held.fence()
    );
    check!(
        case,
        held.to_string().starts_with("held by this process"),
        "the refusal reads `{held}`"
    );
    case.released(guard);
    Verdict::Kept
}
