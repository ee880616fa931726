//! What operators are shown of what endangers the locks in a store.

use dlock_core::{
    AcquireOutcome, ErrorKind, FencingToken, Finding, Holder, Inspect, Severity, Signal,
};

use crate::case::{Case, Law, broken, check};
use crate::client::described;
use crate::{Subject, Verdict};

/// The least length of a secret in bytes that is looked for: every text has any one letter.
const SHORTEST_SECRET: usize = 2;
/// The parameters of a URL that are secrets, as `?password=…`.
const SECRET_PARAMETERS: [&str; 4] = ["pass", "password", "secret", "token"];

/// Where a store checks itself, each finding says what was found, what it can do and what to do
/// about it, each on one line, without the secrets of the store's place and of its locks. A store
/// that is set up well has no danger.
pub fn findings_help_the_operator(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Declared);
    let store = subject.first();
    let Some(inspect) = store.inspect() else {
        return Verdict::NotApplicable("the store cannot be looked into");
    };
    let holder = case.client(&case.key());
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let findings = findings(&case, inspect);
    holder.frees(&lease, "the lease had half an hour left");
    let Some(findings) = findings else {
        return Verdict::NotApplicable("the store does not check itself");
    };
    let mut secrets = secrets_of(subject.place().unwrap_or_default());
    secrets.push(lease.owner().to_string());
    for finding in &findings {
        judge(&case, finding, &secrets);
        let is_danger = finding.severity == Severity::Danger;
        check!(
            case,
            !(is_danger && subject.is_without_dangers()),
            "the store is set up well, but a danger was found in it: {}",
            finding.what
        );
    }
    Verdict::Kept
}

fn judge(case: &Case<'_>, finding: &Finding, secrets: &[String]) {
    let Finding {
        what, why, remedy, ..
    } = finding;
    for (part, text) in [("what", what), ("why", why), ("remedy", remedy)] {
        check!(
            case,
            !text.trim().is_empty(),
            "`{part}` of a finding is empty: {finding:?}"
        );
        check!(
            case,
            !text.chars().any(char::is_control),
            "`{part}` of a finding has a control character, and is printed as a line: {text:?}"
        );
        check!(
            case,
            !secrets.iter().any(|secret| text.contains(secret)),
            "`{part}` of a finding shows a secret"
        );
    }
}

/// Where a store checks itself, that changes nothing: a lock that is held stays held as it was, its
/// waiters go on waiting, and a free lock stays free.
pub fn a_check_changes_nothing(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Declared);
    let store = subject.first();
    let Some(inspect) = store.inspect() else {
        return Verdict::NotApplicable("the store cannot be looked into");
    };
    let (held, free) = (case.key(), case.key());
    let former = case.client(&free);
    let ended = former.take(case.long(), "nobody had claimed the key").lease;
    former.frees(&ended, "the lease had half an hour left");
    let holder = case.client(&held);
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let signal = Signal::new();
    let waiter = case.traits.wakes.then(|| {
        let waiter = case.client_on(&subject.another(), &held).waiting();
        let watch = waiter.watch(&signal);
        if let AcquireOutcome::Granted(_) = waiter.ask(case.long()).value {
            broken!(
                case,
                "a waiting claimant was granted a key that somebody held"
            );
        }
        (waiter, watch)
    });
    let before = Shown::of(&case, inspect, &held);
    let found = findings(&case, inspect);
    let after = Shown::of(&case, inspect, &held);
    check!(
        case,
        before == after,
        "the store checked itself, and shows a held key differently: before {before:?}, then \
         {after:?}"
    );
    let since = "the store checked itself, and the lease had half an hour left";
    case.client(&held).refused(case.long(), since);
    let lease = holder.prolong(&lease, case.long(), since).lease;
    match inspect.holder(&free) {
        Ok(None) => {}
        other => broken!(
            case,
            "the store checked itself, and a look at a free key was answered with {other:?}"
        ),
    }
    if let Some((waiter, watch)) = waiter {
        drop(watch);
        waiter.abandon();
    }
    holder.frees(&lease, since);
    match found {
        Some(_) => Verdict::Kept,
        None => Verdict::NotApplicable("the store does not check itself"),
    }
}

/// What operators see of a held key, as far as it stays the same while time passes.
#[derive(Debug, PartialEq)]
struct Shown {
    fence: Option<FencingToken>,
    holder: Option<String>,
    /// `None` if the store does not count them.
    waiting: Option<usize>,
}

impl Shown {
    fn of(case: &Case<'_>, inspect: &dyn Inspect, key: &str) -> Self {
        let held = match inspect.holder(key) {
            Ok(Some(held)) => held,
            other => broken!(case, "a look at a held key was answered with {other:?}"),
        };
        Shown {
            fence: held.fence(),
            holder: held.holder().map(Holder::to_text),
            waiting: inspect.waiting(key).ok(),
        }
    }
}

/// What the store finds in itself; `None` if it does not check itself.
fn findings(case: &Case<'_>, inspect: &dyn Inspect) -> Option<Vec<Finding>> {
    match inspect.findings() {
        Ok(findings) => Some(findings),
        Err(error) if error.kind() == ErrorKind::Unsupported => None,
        Err(error) => broken!(
            case,
            "the store could not check itself: {}",
            described(&error)
        ),
    }
}

/// The secrets in the place of a store, if that is a URL: its password, or its only login, and the
/// values of some parameters.
fn secrets_of(place: &str) -> Vec<String> {
    let Some((_, rest)) = place.split_once("://") else {
        return Vec::new();
    };
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let login = address.rsplit_once('@').map(|(login, _)| login);
    let password = login.map(|login| login.split_once(':').map_or(login, |(_, word)| word));
    let parameters = query.split('&').filter_map(|part| part.split_once('='));
    let values = parameters
        .filter(|(name, _)| SECRET_PARAMETERS.contains(name))
        .map(|(_, value)| value);
    let secrets = password.into_iter().chain(values);
    secrets
        .filter(|secret| secret.len() >= SHORTEST_SECRET)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secrets_of_a_url_are_its_password_and_some_parameters() {
        for (place, secrets) in [
            ("redis://app:pw@host:1/", &["pw"][..]),
            ("redis://:p@w:x@host", &["p@w:x"]),
            ("redis://only@host", &["only"]),
            ("redis://app:p@host", &[]),
            ("unix:///run/x.sock?db=1&pass=hush", &["hush"]),
            ("memcache://host:1", &[]),
            ("/var/lib/locks", &[]),
            ("", &[]),
        ] {
            assert_eq!(secrets_of(place), secrets, "{place}");
        }
    }
}
