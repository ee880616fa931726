//! What is known of a key, for people and as JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dlock_core::{FencingToken, HeldBy, Holder, duration};
use serde_json::{Value, json};

/// Who holds a key, with the token by which the lease can be broken.
pub(super) fn holder(held: &HeldBy, waiting: Option<usize>) -> String {
    let mut text = match (held.holder(), held.expires_in()) {
        (Some(holder), left) if holder.is_done() => {
            let left = left.map(|left| format!(", remembered for {}", whole_seconds(left)));
            format!("done by {holder}{}", left.unwrap_or_default())
        }
        (_, None) => format!("{held}, and does not expire"),
        (_, Some(_)) => held.to_string(),
    };
    match held.fence() {
        Some(token) => text.push_str(&format!(", token {token}")),
        None => text.push_str(", without a token"),
    }
    if let Some(waiting) = waiting {
        text.push_str(&format!(", {waiting} waiting"));
    }
    text
}

/// The same with names for each fact; `None` is a key that nobody holds.
pub(super) fn as_json(key: &str, held: Option<&HeldBy>, waiting: Option<usize>) -> Value {
    let holder = held.and_then(HeldBy::holder);
    let state = match (held, holder) {
        (None, _) => "free",
        (Some(_), Some(holder)) if holder.is_done() => "done",
        (Some(_), Some(holder)) if holder.is_kept() => "kept",
        (Some(_), _) => "held",
    };
    let token = held.and_then(HeldBy::fence).map(FencingToken::get);
    let expires_in = held.and_then(HeldBy::expires_in).map(millis);
    json!({
        "key": key,
        "state": state,
        "holder": holder.map(holder_as_json),
        "token": token,
        "expires_in_ms": expires_in,
        "waiting": waiting,
    })
}

fn holder_as_json(holder: &Holder) -> Value {
    json!({
        "host": holder.host(),
        "pid": holder.pid(),
        "label": holder.label(),
        "since_unix_ms": unix_millis(holder.since()),
    })
}

/// A time as milliseconds since 1970.
pub(super) fn unix_millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn whole_seconds(time: Duration) -> String {
    duration::format(Duration::from_secs(time.as_secs()))
}

/// What stands under each answer.
pub(super) const STALE: &str =
    "This was so a moment ago. A script that must know whether a lock is free tries to acquire it.";
