//! What operators see of a store beside the holder of one key: who waits, and which keys are held.

use std::collections::HashMap;

use dlock_core::{AcquireOutcome, ErrorKind, FencingToken, Inspect, Signal};

use crate::case::{Case, Law, broken, check};
use crate::client::{Client, described, fence_of};
use crate::{Subject, Verdict};

/// The most pages that are read: a list that has more does not end.
const MOST_PAGES: usize = 10_000;

/// Where operators can count the waiters of a key, those that were refused are counted until they
/// leave.
pub fn waiters_are_counted(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Declared);
    let store = subject.first();
    let key = case.key();
    let holder = case.client(&key);
    let lease = holder.take(case.long(), "nobody had claimed the key").lease;
    let Some(inspect) = store.inspect() else {
        holder.frees(&lease, "the lease had half an hour left");
        return Verdict::NotApplicable("the store cannot be looked into");
    };
    let count = || match inspect.waiting(&key) {
        Ok(count) => Some(count),
        Err(error) if error.kind() == ErrorKind::Unsupported => None,
        Err(error) => broken!(case, "waiters could not be counted: {}", described(&error)),
    };
    let Some(nobody) = count().filter(|_| case.traits.wakes) else {
        holder.frees(&lease, "the lease had half an hour left");
        return Verdict::NotApplicable("the store does not count its waiters");
    };
    check!(
        case,
        nobody == 0,
        "{nobody} wait for a key that only its holder has claimed"
    );
    let signals = [Signal::new(), Signal::new()];
    let waiters = signals.each_ref().map(|signal| {
        let waiter = case.client_on(&subject.another(), &key).waiting();
        let watch = waiter.watch(signal);
        if let AcquireOutcome::Granted(_) = waiter.ask(case.long()).value {
            broken!(
                case,
                "a waiting claimant was granted a key that somebody held"
            );
        }
        (waiter, watch)
    });
    let both = count();
    check!(
        case,
        both == Some(2),
        "two claimants wait for a key, and {both:?} are counted"
    );
    for (waiter, watch) in waiters {
        drop(watch);
        // Through the handle that waited, as a lock does: an async watch may end a little later.
        waiter.abandon();
    }
    let none = count();
    check!(
        case,
        none == Some(0),
        "two claimants have left the queue, and {none:?} are counted"
    );
    holder.frees(&lease, "its waiters have left");
    Verdict::Kept
}

/// Where operators can list the keys that are held, the list has those with the prefix, each with
/// its holder, and no others.
pub fn held_keys_are_listed(subject: &Subject) -> Verdict {
    let case = Case::new(subject, Law::Declared);
    let store = subject.first();
    let Some(inspect) = store.inspect() else {
        return Verdict::NotApplicable("the store cannot be looked into");
    };
    let start = case.key();
    let prefix = format!("{start}-a");
    let inside: Vec<_> = (0..20)
        .map(|number| case.client(&format!("{prefix}{number}")))
        .collect();
    let outside = case.client(&format!("{start}-b"));
    let take = |client: &Client<'_>| client.take(case.long(), "nobody had claimed the key").lease;
    let leases: Vec<_> = inside.iter().map(take).collect();
    let other = take(&outside);
    // Half of them are free again.
    let (freed, kept) = leases.split_at(10);
    for (client, lease) in inside.iter().zip(freed) {
        client.frees(lease, "the lease had half an hour left");
    }
    let listed = match listed(inspect, &prefix) {
        Ok(Some(listed)) => listed,
        Ok(None) => broken!(case, "a list of keys has more than {MOST_PAGES} pages"),
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            return Verdict::NotApplicable("the store does not list its keys");
        }
        Err(error) => broken!(case, "keys could not be listed: {}", described(&error)),
    };
    for lease in kept {
        let fence = fence_of(&case, lease.grant());
        match listed.get(lease.key()) {
            Some(shown) => check!(
                case,
                *shown == Some(fence),
                "the list shows the fencing token {shown:?} for a key, its holder has {fence}"
            ),
            None => broken!(case, "the list lacks a key that is held"),
        }
    }
    for lease in freed.iter().chain([&other]) {
        check!(
            case,
            !listed.contains_key(lease.key()),
            "the list has a key that is free or does not start with the prefix"
        );
    }
    for (client, lease) in inside.iter().skip(10).zip(kept) {
        client.frees(lease, "the keys were listed");
    }
    outside.frees(&other, "the keys were listed");
    Verdict::Kept
}

/// All keys with the prefix, with the fencing tokens of their holders; `None` if the list has no
/// end.
fn listed(
    inspect: &dyn Inspect,
    prefix: &str,
) -> Result<Option<HashMap<String, Option<FencingToken>>>, dlock_core::DatastoreError> {
    let (mut listed, mut after) = (HashMap::new(), None);
    for _ in 0..MOST_PAGES {
        let page = inspect.held(prefix, after.as_ref())?;
        let keys = page.keys.into_iter();
        listed.extend(keys.map(|(key, held)| (key, held.fence())));
        after = page.next;
        if after.is_none() {
            return Ok(Some(listed));
        }
    }
    Ok(None)
}
