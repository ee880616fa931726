//! etcd's leases, which the keys of locks end with.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind, OwnerToken};
use serde_json::json;

use super::commands::{Commands, Method};
use super::requests::{bytes_of, number};
use crate::error::Problem;

/// etcd makes a lease last at least one and a half times its election timeout, in whole seconds.
pub(crate) const TTL_MIN: Duration = Duration::from_secs(2);
/// The default of all stores. etcd itself would keep a key for 285 years.
pub(crate) const TTL_MAX: Duration = Duration::from_secs(365 * 86_400);
/// No lease of etcd can be longer.
const LONGEST: Duration = Duration::from_secs(9_000_000_000);
/// A lease is rounded up to whole seconds, and etcd takes its time to notice its end.
pub(crate) const GRANULARITY: Duration = Duration::from_millis(2500);

/// How long the places of a process's waiters stay when it has died. It is renewed four times
/// meanwhile.
pub(crate) const WAITERS_TTL: Duration = Duration::from_secs(4);

/// The numbers of the leases that a claim takes first. They follow from the owner, so that a claim
/// that is given up can be deprived of its lease though nobody knows whether there is one: a
/// transaction that arrives later finds no lease, and does nothing.
///
/// There are two, for the call that runs again after a lost answer.
pub(super) fn leases_of(owner: OwnerToken) -> [i64; 2] {
    let digits = owner.to_string();
    // The token has 32 hex digits.
    let (high, low) = digits.split_at(digits.len() / 2);
    [low, high].map(|half| positive(u64::from_str_radix(half, 16).unwrap_or(1)))
}

/// Owners of whom a request to end a lease may yet be carried out, since it was not answered; each
/// by the first of its numbers. Those beyond this many are forgotten, the oldest first.
static IN_DOUBT: [AtomicI64; 256] = [const { AtomicI64::new(0) }; 256];
static NEXT_IN_DOUBT: AtomicUsize = AtomicUsize::new(0);

/// The numbers of [`leases_of`] that a lease for this owner's claim may have. There are none if a
/// request to end one of them may yet be carried out: it would end a later grant.
pub(super) fn free_leases_of(owner: OwnerToken) -> impl Iterator<Item = i64> {
    let numbers = leases_of(owner);
    let is_owner = |doubt: &AtomicI64| doubt.load(Ordering::Relaxed) == numbers[0];
    let in_doubt = IN_DOUBT.iter().any(is_owner);
    numbers.into_iter().filter(move |_| !in_doubt)
}

/// Ends a lease that a claim of this owner took and does not need, as [`revoke`] does.
pub(super) async fn give_back<C: Commands>(server: &mut C, owner: OwnerToken, number: i64) {
    if end(server, number).await.is_err() {
        doubt(owner);
    }
}

/// A request to end a lease of this owner may yet be carried out.
pub(super) fn doubt(owner: OwnerToken) {
    let at = NEXT_IN_DOUBT.fetch_add(1, Ordering::Relaxed) % IN_DOUBT.len();
    IN_DOUBT[at].store(leases_of(owner)[0], Ordering::Relaxed);
}

/// A number that no other lease has.
pub(crate) fn random_lease() -> Result<i64, DatastoreError> {
    let random = getrandom::u64().map_err(|error| {
        let text = format!("no random numbers: {error}");
        DatastoreError::not_executed(ErrorKind::Refused, text)
    })?;
    Ok(positive(random))
}

/// Numbers of leases are positive, and 0 stands for none.
fn positive(random: u64) -> i64 {
    i64::try_from(random >> 1).unwrap_or(i64::MAX).max(1)
}

/// Creates a lease that lasts for `ttl` at least.
///
/// # Errors
///
/// Of kind `Stale` if there is a lease with this number.
pub(crate) async fn grant<C: Commands>(
    server: &mut C,
    number: i64,
    ttl: Duration,
) -> Result<(), DatastoreError> {
    let seconds = whole_seconds(ttl).to_string();
    let body = json!({"TTL": seconds, "ID": number.to_string()});
    server.ask(Method::LeaseGrant, &body).await.map(|_| ())
}

/// Ends a lease, and the key with it. It is not needed any more: if it cannot be ended, it ends by
/// itself.
pub(crate) async fn revoke<C: Commands>(server: &mut C, number: i64) {
    let _ = end(server, number).await;
}

/// Ends a lease, and the key with it, if there is such a lease.
///
/// # Errors
///
/// As the server says.
pub(super) async fn end<C: Commands>(server: &mut C, number: i64) -> Result<(), DatastoreError> {
    let body = json!({"ID": number.to_string()});
    match server.ask(Method::LeaseRevoke, &body).await {
        // There is none.
        Err(error) if error.kind() == ErrorKind::Stale => Ok(()),
        answer => answer.map(|_| ()),
    }
}

/// How long a lease lasts at least, in whole seconds; `None` if it has ended.
///
/// A node that is the leader, and has not taken over the leases yet, says of each that it lasts for
/// ever (up to etcd 3.5.13). A holder that believed it would never renew its lease.
///
/// # Errors
///
/// Not executed.
pub(super) async fn time_left<C: Commands>(
    server: &mut C,
    lease: i64,
) -> Result<Option<Duration>, DatastoreError> {
    let body = json!({"ID": lease.to_string()});
    let answer = server.ask(Method::LeaseTimeToLive, &body).await?;
    let seconds = u64::try_from(number(&answer["TTL"])).ok();
    match seconds.map(Duration::from_secs) {
        Some(left) if left > LONGEST => Err(DatastoreError::not_executed(
            ErrorKind::Unreachable,
            Problem::LeaderChanges,
        )),
        left => Ok(left),
    }
}

/// Lets a lease last for the time that was granted first, from now. Returns whether there is such a
/// lease.
///
/// # Errors
///
/// As the server says.
pub(crate) async fn keep_alive<C: Commands>(
    server: &mut C,
    lease: i64,
) -> Result<bool, DatastoreError> {
    let body = json!({"ID": lease.to_string()});
    let answer = server.ask(Method::LeaseKeepAlive, &body).await?;
    // Zeros are left out.
    Ok(number(&answer["result"]["TTL"]) > 0)
}

/// The keys that end with a lease.
///
/// # Errors
///
/// Not executed.
pub(crate) async fn keys_of<C: Commands>(
    server: &mut C,
    lease: i64,
) -> Result<Vec<String>, DatastoreError> {
    let body = json!({"ID": lease.to_string(), "keys": true});
    let answer = server.ask(Method::LeaseTimeToLive, &body).await?;
    let keys = answer["keys"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |key| String::from_utf8(bytes_of(key)).ok();
    Ok(keys.iter().filter_map(text).collect())
}

fn whole_seconds(ttl: Duration) -> u64 {
    let ttl = ttl.max(TTL_MIN);
    ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::Constant;
    use crate::operations::requests::bytes;
    use dlock_core::{Characteristics, at_once};

    #[test]
    fn times_are_rounded_up_to_seconds() {
        for (millis, seconds) in [(10, 2), (2000, 2), (2001, 3), (2999, 3), (60_000, 60)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
    }

    #[test]
    fn the_first_leases_follow_from_the_owner() {
        let owner = OwnerToken::from_hex("000000000000010000000000000000ff").unwrap();
        assert_eq!(leases_of(owner), [127, 128]);
        assert_eq!((positive(0), positive(u64::MAX)), (1, i64::MAX));
    }

    #[test]
    fn an_owner_in_doubt_takes_none_of_its_leases_again() {
        let owner = OwnerToken::random().unwrap();
        assert_eq!(free_leases_of(owner).collect::<Vec<_>>(), leases_of(owner));
        doubt(owner);
        assert_eq!(free_leases_of(owner).next(), None);
        let other = OwnerToken::random().unwrap();
        assert_eq!(free_leases_of(other).count(), 2);
    }

    #[test]
    fn owners_in_doubt_are_kept_side_by_side() {
        let owners = [(); 100].map(|()| OwnerToken::random().unwrap());
        owners.iter().copied().for_each(doubt);
        assert!(
            owners
                .iter()
                .all(|owner| free_leases_of(*owner).next().is_none())
        );
    }

    #[test]
    fn random_leases_are_positive_and_differ() {
        let [one, other] = [(); 2].map(|()| random_lease().unwrap());
        assert!(one > 1 && other > 1 && one != other);
    }

    #[test]
    fn the_longest_lease_of_a_store_is_that_of_all_stores_and_one_that_etcd_has() {
        assert_eq!(TTL_MAX, Characteristics::default().ttl_max);
        assert!(TTL_MAX < LONGEST);
    }

    #[test]
    fn what_is_left_of_a_lease_is_read_and_more_than_there_can_be_is_not_believed() {
        let left = |ttl: &str| at_once(time_left(&mut Constant(json!({"TTL": ttl})), 7));
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(left("10").unwrap(), seconds(10));
        assert_eq!(left("-1").unwrap(), None, "it has ended");
        assert_eq!(left("9000000000").unwrap(), seconds(9_000_000_000));
        let error = left("9000000001").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(!error.may_have_executed());
        let none = at_once(time_left(&mut Constant(json!({})), 7));
        assert_eq!(none.unwrap(), seconds(0), "zeros are left out");
    }

    #[test]
    fn a_lease_that_was_kept_alive_says_for_how_long() {
        let kept = |ttl: &str| {
            let answer = json!({"result": {"ID": "7", "TTL": ttl}});
            at_once(keep_alive(&mut Constant(answer), 7)).unwrap()
        };
        assert!(kept("4") && kept("1"));
        assert!(!kept("0") && !kept("-1"), "there is none");
        assert!(!at_once(keep_alive(&mut Constant(json!({"result": {}})), 7)).unwrap());
    }

    #[test]
    fn the_keys_of_a_lease_are_read_and_what_is_no_text_is_left_out() {
        let answer = json!({"keys": [bytes("dlock:a"), "/w==", bytes("dlock:b")]});
        let keys = at_once(keys_of(&mut Constant(answer), 7)).unwrap();
        assert_eq!(keys, ["dlock:a", "dlock:b"]);
        let none = at_once(keys_of(&mut Constant(json!({})), 7)).unwrap();
        assert!(none.is_empty());
    }
}
