//! What is asked of a watch, and what it reports.

use serde_json::{Value, json};

use super::requests::{bytes, number};

/// The path on which watches are asked for.
pub(crate) const PATH: &str = "/v3/watch";

/// Asks for deletions of `key` from now on. `id` is not that of another watch on the same
/// connection, and not 0.
///
/// Not from a revision of the past on: etcd reports to such a watch ten times a second only, until
/// it has caught up.
pub(crate) fn create(id: i64, key: &str) -> String {
    let create = json!({"key": bytes(key), "watch_id": id.to_string(), "filters": ["NOPUT"]});
    json!({"create_request": create}).to_string()
}

/// Ends a watch.
pub(crate) fn cancel(id: i64) -> String {
    json!({"cancel_request": {"watch_id": id.to_string()}}).to_string()
}

/// Asks for a sign of life.
pub(crate) fn progress() -> String {
    json!({"progress_request": {}}).to_string()
}

/// What a line reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// This watch reports deletions after this revision.
    Created { id: i64, revision: i64 },
    /// The key of this watch was deleted, at this revision.
    Deleted { id: i64, revision: i64 },
    /// What this watch asked for is no longer in the history: it is over.
    Compacted { id: i64 },
    /// Nothing has happened.
    Alive,
}

impl Report {
    /// Reads a line; `None` if the server ends a watch, or says anything else.
    pub(crate) fn of(line: &[u8]) -> Option<Self> {
        let line: Value = serde_json::from_slice(line).ok()?;
        let report = line.get("result")?;
        let id = number(&report["watch_id"]);
        if number(&report["compact_revision"]) > 0 {
            return Some(Report::Compacted { id });
        }
        // With a reason it was not this process that wanted it.
        if report.get("cancel_reason").is_some() {
            return None;
        }
        if report["created"] == true {
            let revision = number(&report["header"]["revision"]);
            return (revision > 0).then_some(Report::Created { id, revision });
        }
        let events = report["events"].as_array().map_or(&[][..], Vec::as_slice);
        let deleted = events.iter().filter(|event| event["type"] == "DELETE");
        let revisions = deleted.map(|event| number(&event["kv"]["mod_revision"]));
        Some(match revisions.max() {
            Some(revision) => Report::Deleted { id, revision },
            None => Report::Alive,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_names_the_watch_and_the_key_it_is_about() {
        let parsed = |line: String| serde_json::from_str::<Value>(&line).unwrap();
        let create = &parsed(create(7, "dlock:a"))["create_request"];
        assert_eq!(create["watch_id"], "7");
        assert_eq!(create["key"], bytes("dlock:a"));
        assert_eq!(create["filters"], json!(["NOPUT"]), "deletions only");
        assert_eq!(create["start_revision"], Value::Null, "from now on");
        assert_eq!(parsed(cancel(7))["cancel_request"]["watch_id"], "7");
        assert!(parsed(progress())["progress_request"].is_object());
    }

    #[test]
    fn each_line_is_read() {
        for (line, report) in [
            (
                json!({"result": {"header": {"revision": "5"}, "watch_id": "7", "created": true}}),
                Some(Report::Created { id: 7, revision: 5 }),
            ),
            (
                json!({"result": {"header": {}, "watch_id": "7", "created": true}}),
                None,
            ),
            (json!({"result": {"watch_id": "-1"}}), Some(Report::Alive)),
            (
                json!({"result": {"watch_id": "7", "canceled": true}}),
                Some(Report::Alive),
            ),
            (
                json!({"result": {"watch_id": "7", "events": [
                    {"kv": {"key": "YQ==", "mod_revision": "9"}},
                    {"type": "DELETE", "kv": {"key": "YQ==", "mod_revision": "4"}},
                    {"type": "DELETE", "kv": {"key": "YQ==", "mod_revision": "6"}},
                ]}}),
                Some(Report::Deleted { id: 7, revision: 6 }),
            ),
            (
                json!({"result": {"watch_id": "9", "canceled": true, "compact_revision": "3"}}),
                Some(Report::Compacted { id: 9 }),
            ),
            (
                json!({"result": {"watch_id": "9", "created": true, "canceled": true,
                    "cancel_reason": "etcdserver: permission denied"}}),
                None,
            ),
            (json!({"error": {"message": "no leader"}}), None),
            (json!(17), None),
        ] {
            assert_eq!(Report::of(line.to_string().as_bytes()), report, "{line}");
        }
        assert_eq!(Report::of(b"not JSON"), None);
    }
}
