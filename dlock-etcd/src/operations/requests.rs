//! The bodies of requests, and what is read from answers: etcd's JSON has bytes in base64, and
//! numbers as text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Bytes as etcd's JSON has them.
pub(crate) fn bytes(text: &str) -> String {
    STANDARD.encode(text)
}

/// Bytes of an answer; none if they are missing or no bytes.
pub(super) fn bytes_of(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap_or_default();
    STANDARD.decode(text).unwrap_or_default()
}

/// A number of an answer. Zeros are left out there.
pub(crate) fn number(value: &Value) -> i64 {
    match value {
        Value::String(digits) => digits.parse().unwrap_or(0),
        other => other.as_i64().unwrap_or(0),
    }
}

/// Reads the key, as of now: the cluster's majority is asked.
pub(super) fn range(key: &str) -> Value {
    json!({"key": bytes(key)})
}

/// A transaction: whether all that is compared is so decides which of the two is done.
pub(super) fn txn(compare: &Value, success: &Value, key_to_read: Option<&str>) -> Value {
    let mut txn = json!({"compare": compare, "success": [success]});
    if let Some(key) = key_to_read {
        txn["failure"] = json!([{"request_range": range(key)}]);
    }
    txn
}

/// Whether what was compared was so.
pub(super) fn succeeded(answer: &Value) -> bool {
    answer["succeeded"] == Value::Bool(true)
}

/// Nobody has the key.
pub(super) fn is_free(key: &str) -> Value {
    json!([{"key": bytes(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}])
}

/// The key was created by the grant with this number.
pub(crate) fn is_created_at(key: &str, revision: &str) -> Value {
    json!([{"key": bytes(key), "target": "CREATE", "result": "EQUAL", "create_revision": revision}])
}

/// Nothing has written to the key since this revision.
pub(super) fn is_unchanged_since(key: &str, revision: i64) -> Value {
    let revision = revision.to_string();
    json!([{"key": bytes(key), "target": "MOD", "result": "EQUAL", "mod_revision": revision}])
}

/// The value is greater than the one text and less than the other, byte by byte.
pub(super) fn is_between(key: &str, above: &str, below: &str) -> Value {
    json!([
        {"key": bytes(key), "target": "VALUE", "result": "GREATER", "value": bytes(above)},
        {"key": bytes(key), "target": "VALUE", "result": "LESS", "value": bytes(below)},
    ])
}

/// Writes the key, which ends with the lease. The answer has what was there before.
pub(super) fn put(key: &str, value: &str, lease: i64) -> Value {
    let lease = lease.to_string();
    json!({"request_put": {
        "key": bytes(key), "value": bytes(value), "lease": lease, "prev_kv": true,
    }})
}

/// Deletes the key. The answer has what was there.
pub(crate) fn delete(key: &str) -> Value {
    json!({"request_delete_range": {"key": bytes(key), "prev_kv": true}})
}
