//! etcd's leases, which the keys of locks end with.

use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind};
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

/// A number that no other lease has, or ever had.
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

/// Creates a lease that lasts for `ttl` at least, with a number that no other request has.
///
/// # Errors
///
/// As the server says.
pub(super) async fn grant_new<C: Commands>(
    server: &mut C,
    number: i64,
    ttl: Duration,
) -> Result<(), DatastoreError> {
    let granted = grant(server, number, ttl).await;
    // A server that finds out too late that it is full says so when it has granted it.
    if let Err(error) = &granted
        && error.kind() == ErrorKind::Refused
    {
        revoke(server, number).await;
    }
    granted
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
    fn random_leases_are_positive_and_differ() {
        assert_eq!((positive(0), positive(u64::MAX)), (1, i64::MAX));
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
