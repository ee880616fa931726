//! A forked child has its parent's memory, but none of its locks.

use dlock_core::OwnerToken;
#[cfg(unix)]
use dlock_core::ReleaseError;

#[cfg(unix)]
use crate::case::broken;
use crate::case::{Case, Law, check};
#[cfg(unix)]
use crate::form::{LockGuard, Store};
use crate::{Subject, Verdict};

/// In a forked child an inherited guard is lost, its drop frees nothing, and a new owner token is
/// not the parent's.
#[cfg(unix)]
pub fn a_child_has_no_lock(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Fork);
    let store = Store::new(subject.first());
    let locks = ["released", "dropped"].map(|id| case.lock(&store, id, |options| options));
    let guards = locks
        .each_ref()
        .map(|lock| case.acquired(lock, "nobody held the lock"));
    let (guards, sent) = crate::forked::in_child(guards, end_inherited);
    let sent = match sent {
        Ok(sent) => sent,
        Err(error) => broken!(case, "not shown: a forked child failed: {error}"),
    };
    let words: Vec<&str> = sent.split(' ').collect();
    let [valid, released, tokens @ ..] = &words[..] else {
        broken!(case, "a forked child ended with: {sent}")
    };
    check!(
        case,
        *valid == "lost",
        "in a forked child an inherited guard is {valid}"
    );
    check!(
        case,
        *released == "lost",
        "in a forked child the release of an inherited guard was answered `{released}`"
    );
    let own = drawn();
    check!(
        case,
        tokens.len() == own.len()
            && tokens
                .iter()
                .all(|token| !own.iter().any(|own| own == token)),
        "a forked child drew the owner tokens {tokens:?} (its parent, the same ones: {})",
        own.iter().any(|own| tokens.contains(&&**own))
    );
    for (lock, guard) in locks.iter().zip(guards) {
        let since = "a forked child ended a guard that it inherited";
        case.client(lock.key()).refused(case.long(), since);
        check!(case, guard.is_valid(), "{since}, and the parent's is lost");
        if let Err(error) = guard.release() {
            broken!(case, "{since}, and the parent's release failed: {error:?}");
        }
        case.client(lock.key())
            .take(case.long(), "the parent released its lock after a fork");
    }
    Verdict::Kept
}

/// In a forked child an inherited guard is lost, its drop frees nothing, and a new owner token is
/// not the parent's.
#[cfg(not(unix))]
pub fn a_child_has_no_lock(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Fork);
    let tokens = drawn();
    check!(
        case,
        tokens[0] != tokens[1],
        "the same owner token was drawn twice"
    );
    Verdict::NotApplicable("this system cannot fork a process")
}

/// The child uses the guards that it has inherited.
#[cfg(unix)]
fn end_inherited([released, dropped]: [LockGuard; 2]) -> String {
    let valid = match released.is_valid() || dropped.is_valid() {
        true => "valid",
        false => "lost",
    };
    drop(dropped);
    let released = match released.release() {
        Err(ReleaseError::Lost) => "lost",
        Err(_) => "failed",
        Ok(()) => "released",
    };
    format!("{valid} {released} {}", drawn().join(" "))
}

/// Owner tokens, as claims would draw them.
fn drawn() -> Vec<String> {
    (0..4)
        .map(|_| {
            OwnerToken::random().map_or_else(|error| error.to_string(), |token| token.to_string())
        })
        .collect()
}
