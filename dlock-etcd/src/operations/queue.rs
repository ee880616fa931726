//! The waiters of a key, in the order in which they came.
//!
//! Each has a *place*: a key of its own, `<key> waits <revision> <owner>`. The revision is that at
//! which the waiter saw the key taken, in 20 digits, so that the places of a key stand in the order
//! of coming. A place ends with the lease of the process that waits.
//!
//! Who claims a free key is granted it only if no place is before its own, or none at all if it
//! does not wait: the same transaction compares both. So nobody overtakes, and a waiter needs to be
//! woken only when the place right before its own is gone, or, if it is the first, the key.

use std::sync::Arc;

use dlock_core::{Claim, DatastoreError, HeldBy, OwnerToken};
use serde_json::{Value, json};

use super::commands::{Commands, Method};
use super::record::Found;
use super::requests::{bytes, bytes_of, number, range};

/// What is between a key and the rest of a place. No key of a lock has a space in it.
const WAITS: &str = " waits ";
/// The same at the end of all places of a key: `!` follows the space.
const WAITS_END: &str = " waits!";
/// The digits of a revision, so that texts compare as their numbers do.
const REVISION: usize = 20;
/// What the value of a place starts with; the holder's text follows.
const VALUE: &str = "waits ";
/// How many requests one transaction may have, by etcd's default.
pub(crate) const BATCH: usize = 100;

/// The place of a waiter that saw the key taken at this revision.
pub(crate) fn place(key: &str, revision: i64, owner: OwnerToken) -> Arc<str> {
    format!("{key}{WAITS}{revision:0REVISION$} {owner}").into()
}

/// The key of a place; `None` if `name` is the key of a lock.
pub(crate) fn key_of(name: &str) -> Option<&str> {
    name.split_once(WAITS).map(|(key, _)| key)
}

/// The owner token of a place.
pub(crate) fn owner_of(place: &str) -> Option<OwnerToken> {
    OwnerToken::from_hex(place.rsplit_once(' ')?.1)
}

/// What is after all places of `key`, and before all keys that follow.
pub(crate) fn after_places(key: &str) -> String {
    format!("{key}{WAITS_END}")
}

/// What a claim must know of this process's waiters, and they of it.
pub(crate) trait Queue: Send + Sync {
    /// The lease with which the places of this process end, if there is one.
    fn lease(&self) -> Option<i64>;

    /// The place that the waiter has, as far as is known.
    fn place(&self) -> Option<Arc<str>>;

    /// The waiter is about to get this place.
    fn enters(&self, place: Arc<str>);

    /// The waiter need not claim again before `watched` is deleted, at this revision or later.
    fn waits_behind(&self, watched: Arc<str>, since: i64);

    /// The server does not know this lease any more.
    fn lease_ended(&self, lease: i64);
}

/// The key and its waiters, as they were at one moment.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) found: Found,
    /// One whose turn is before that of the claim. If the claim has a place, the last of them.
    pub(super) before: Option<Before>,
    /// Whether the claim has its place.
    pub(super) has_place: bool,
    pub(super) revision: i64,
}

#[derive(Debug)]
pub(super) struct Before {
    pub(super) place: Arc<str>,
    /// Whether dlock did not write it: it ends with no lease, so it would stay for ever.
    is_foreign: bool,
    holder: String,
}

impl Before {
    /// The waiter that will be granted the key.
    pub(super) fn held(&self) -> HeldBy {
        HeldBy::new().with_holder_text(&self.holder)
    }
}

/// What reads the key, its waiters before `place`, and `place`.
pub(super) fn reads(key: &str, place: Option<&str>) -> Vec<Value> {
    let mut before = range_before(key, place);
    before["limit"] = json!("1");
    let mut reads = vec![range(key)];
    if let Some(place) = place {
        // The last of them.
        before["sort_order"] = json!("DESCEND");
        before["sort_target"] = json!("KEY");
        let mut own = range(place);
        own["keys_only"] = json!(true);
        reads.extend([before, own]);
    } else {
        reads.push(before);
    }
    let request = |range: Value| json!({"request_range": range});
    reads.into_iter().map(request).collect()
}

/// The places of the key that are before `place`; all of them without one.
fn range_before(key: &str, place: Option<&str>) -> Value {
    let end = place.map_or_else(|| after_places(key), ToOwned::to_owned);
    json!({"key": bytes(&format!("{key}{WAITS}")), "range_end": bytes(&end)})
}

/// Nobody waits before `place`.
pub(super) fn is_first(key: &str, place: Option<&str>) -> Value {
    let mut compare = range_before(key, place);
    compare["target"] = json!("CREATE");
    compare["result"] = json!("EQUAL");
    compare["create_revision"] = json!("0");
    compare
}

impl Seen {
    /// Whether what is before the claim is none of ours.
    pub(super) fn has_foreign_place(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.is_foreign)
    }

    /// From the last of the responses of a transaction, which are those to [`reads`].
    pub(super) fn of(answer: &Value, place: Option<&str>) -> Self {
        let count = if place.is_some() { 3 } else { 2 };
        let responses = answer["responses"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let reads = &responses[responses.len().saturating_sub(count)..];
        let read = |at: usize| {
            reads
                .get(at)
                .map_or(&Value::Null, |read| &read["response_range"])
        };
        Seen {
            found: Found::of_range(read(0)),
            before: Before::of(&read(1)["kvs"][0]),
            has_place: !read(2)["kvs"][0].is_null(),
            revision: number(&answer["header"]["revision"]),
        }
    }
}

impl Before {
    fn of(key: &Value) -> Option<Self> {
        if key.is_null() {
            return None;
        }
        let text = |name| String::from_utf8_lossy(&bytes_of(&key[name])).into_owned();
        let value = text("value");
        Some(Before {
            place: text("key").into(),
            is_foreign: number(&key["lease"]) == 0,
            holder: value.strip_prefix(VALUE).unwrap_or_default().to_owned(),
        })
    }
}

/// Looks at the key and its waiters.
///
/// # Errors
///
/// Not executed.
pub(super) async fn look<C: Commands>(
    server: &mut C,
    key: &str,
    place: Option<&str>,
) -> Result<Seen, DatastoreError> {
    let body = json!({"success": reads(key, place)});
    let answer = server.ask(Method::Ranges, &body).await?;
    Ok(Seen::of(&answer, place))
}

/// Puts the claim into the queue, behind all who came before it.
///
/// # Errors
///
/// Of kind `Stale` if the lease has ended.
pub(super) async fn enter<C: Commands>(
    server: &mut C,
    claim: &Claim,
    place: &str,
    lease: i64,
) -> Result<Seen, DatastoreError> {
    let value = format!("{VALUE}{}", claim.holder());
    let put = json!({"request_put": {
        "key": bytes(place), "value": bytes(&value), "lease": lease.to_string(),
    }});
    let mut requests = vec![put];
    requests.extend(reads(claim.key(), Some(place)));
    let answer = server
        .ask(Method::Txn, &json!({"success": requests}))
        .await?;
    Ok(Seen::of(&answer, Some(place)))
}

/// What deletes a place.
pub(super) fn delete_place(place: &str) -> Value {
    json!({"request_delete_range": {"key": bytes(place)}})
}

/// Deletes places, at most [`BATCH`] of them.
///
/// # Errors
///
/// As the server says.
pub(crate) async fn leave<C: Commands>(
    server: &mut C,
    places: &[Arc<str>],
) -> Result<(), DatastoreError> {
    let requests: Vec<_> = places.iter().map(|place| delete_place(place)).collect();
    let body = json!({"success": requests});
    server.ask(Method::Txn, &body).await.map(|_| ())
}

/// How many wait for the key.
///
/// # Errors
///
/// Not executed.
pub(crate) async fn count<C: Commands>(server: &mut C, key: &str) -> Result<usize, DatastoreError> {
    let mut body = range_before(key, None);
    body["count_only"] = json!(true);
    let answer = server.ask(Method::Range, &body).await?;
    Ok(usize::try_from(number(&answer["count"])).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::Constant;
    use dlock_core::at_once;

    fn owner() -> OwnerToken {
        OwnerToken::from_hex("00000000000000000000000000000aff").unwrap()
    }

    #[test]
    fn places_stand_in_the_order_of_revisions_behind_their_key_and_before_the_next() {
        let places = [0, 9, 10, i64::MAX].map(|revision| place("dlock:a", revision, owner()));
        assert!(places.is_sorted(), "{places:?}");
        let (first, end) = (format!("dlock:a{WAITS}"), after_places("dlock:a"));
        for place in &places {
            assert!(first.as_str() < &**place && **place < *end);
            assert_eq!(key_of(place), Some("dlock:a"));
            assert_eq!(owner_of(place), Some(owner()));
        }
        assert!("dlock:a" < first.as_str() && end.as_str() < "dlock:a!");
        assert_eq!(key_of("dlock:a"), None);
    }

    #[test]
    fn what_was_seen_is_read_from_the_last_responses() {
        let place = place("dlock:a", 7, owner());
        let key = json!({"key": bytes("dlock:a waits 1 x"), "value": bytes("waits me")});
        let answer = json!({"header": {"revision": "9"}, "responses": [
            {"response_put": {}}, {"response_range": {}}, {"response_range": {"kvs": [key]}},
            {"response_range": {"kvs": [{"key": bytes(&place)}]}},
        ]});
        let seen = Seen::of(&answer, Some(&place));
        assert_eq!(
            (seen.found, seen.has_place, seen.revision),
            (Found::Nothing, true, 9)
        );
        let before = seen.before.unwrap();
        assert_eq!(&*before.place, "dlock:a waits 1 x");
        assert_eq!(before.holder, "me");

        let seen = Seen::of(&json!({}), None);
        assert!(seen.before.is_none() && !seen.has_place && !seen.has_foreign_place());
    }

    #[test]
    fn a_place_without_a_lease_is_foreign_and_another_one_names_who_is_granted_the_key() {
        let holder = "dlock1 web-3 4121 00000000000000aa 1764000271000 running";
        let value = bytes(&format!("{VALUE}{holder}"));
        let seen = |lease: &str| {
            let place = json!({"key": bytes("dlock:a waits 1 x"), "value": value, "lease": lease});
            let range = json!({"response_range": {"kvs": [place]}});
            Seen::of(&json!({"responses": [{"response_range": {}}, range]}), None)
        };
        assert!(seen("0").has_foreign_place());
        let ours = seen("5");
        assert!(!ours.has_foreign_place());
        let held = ours.before.unwrap().held();
        assert_eq!(held.holder().unwrap().to_text(), holder);
    }

    /// Whether a range has a key of this name, as etcd sees it.
    fn has(range: &Value, name: &str) -> bool {
        let (first, end) = (bytes_of(&range["key"]), bytes_of(&range["range_end"]));
        let name = name.as_bytes();
        first.as_slice() <= name && name < end.as_slice()
    }

    #[test]
    fn only_places_before_the_own_one_are_read_and_must_be_gone_for_a_grant() {
        let [before, own, after] = [8, 9, 10].map(|revision| place("dlock:a", revision, owner()));
        let other_key = place("dlock:b", 1, owner());
        for (place, expected) in [
            (None, [true, true, true]),
            (Some(&*own), [true, false, false]),
        ] {
            let reads = reads("dlock:a", place);
            assert_eq!(reads.len(), if place.is_some() { 3 } else { 2 });
            assert_eq!(reads[0]["request_range"], range("dlock:a"));
            let compare = is_first("dlock:a", place);
            assert_eq!(compare["target"], "CREATE");
            assert_eq!(compare["create_revision"], "0", "there is none");
            for range in [&reads[1]["request_range"], &compare] {
                let found = [&before, &own, &after].map(|place| has(range, place));
                assert_eq!(found, expected);
                assert!(!has(range, "dlock:a") && !has(range, &other_key));
            }
        }
        let reads = reads("dlock:a", Some(&own));
        assert_eq!(
            reads[1]["request_range"]["sort_order"], "DESCEND",
            "the last of them"
        );
        assert_eq!(reads[2]["request_range"]["key"], bytes(&own));
    }

    #[test]
    fn waiters_are_counted() {
        let counted = |answer| at_once(count(&mut Constant(answer), "dlock:a")).unwrap();
        assert_eq!(counted(json!({"count": "3"})), 3);
        assert_eq!(counted(json!({})), 0, "zeros are left out");
    }
}
