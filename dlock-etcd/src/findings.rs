//! What endangers locks in a cluster, for operators: its nodes, its disk space, and the rights of
//! the user. Clocks are not checked: etcd's leases do not depend on what time a node believes it
//! is.

use std::time::Duration;

use dlock_core::{DatastoreError, ErrorKind, Finding, at_once};
use dlock_net::{Pool, deadline_in, escaped};
use serde_json::{Value, json};

use crate::operations::commands::{Commands, Method};
use crate::operations::queue::after_places;
use crate::operations::requests::{delete, is_created_at, number};
use crate::pool::no_nodes;
use crate::{Connection, ConnectionManager};

/// The oldest version that has the gateway below /v3.
const OLDEST: (u32, u32) = (3, 4);
/// The size of the database at which etcd refuses all writes, unless it was started with another
/// (`--quota-backend-bytes`).
const QUOTA: u64 = 2 * 1024 * 1024 * 1024;
/// The part of it in percent from which on the database is nearly full.
const NEARLY_FULL: u64 = 80;
/// The name under which a node counts its quota.
const QUOTA_METRIC: &str = "etcd_server_quota_backend_bytes";
/// A key as locks have it, for the check of rights. It is not written.
const KEY: &str = "dlock:doctor";

/// What is found in the cluster of the pool, whose nodes are asked one after the other.
///
/// # Errors
///
/// If no node can be asked.
pub(crate) fn findings(
    pool: &Pool<ConnectionManager>,
    call_timeout: Duration,
) -> Result<Vec<Finding>, DatastoreError> {
    let manager = pool.connector(deadline_in(call_timeout))?;
    let (mut findings, mut nodes, mut first_error) = (Vec::new(), Vec::new(), None);
    for node in manager.nodes() {
        let asked = manager
            .open_unchecked(node, deadline_in(call_timeout))
            .and_then(|connection| Node::ask(connection, manager.has_login()));
        match asked {
            Ok(node) => nodes.push(node),
            Err(error) => {
                findings.push(no_answer(&node.1.to_string(), &error));
                first_error.get_or_insert(error);
            }
        }
    }
    if nodes.is_empty() {
        return Err(first_error.unwrap_or_else(no_nodes));
    }
    let named = nodes.len() + findings.len();
    for node in &nodes {
        findings.extend(node.findings());
    }
    // Those that all nodes say alike, from one that has a leader.
    let speaker = nodes
        .into_iter()
        .find(|node| node.has_leader() && !node.is_learner());
    if let Some(mut node) = speaker {
        match node.of_cluster(named) {
            Ok(of_cluster) => findings.extend(of_cluster),
            Err(error) => findings.push(no_majority(node.connection.peer(), &error)),
        }
    }
    Ok(findings)
}

fn no_answer(peer: &str, error: &DatastoreError) -> Finding {
    Finding::danger(
        format!("{peer} cannot be asked: {error}"),
        "the cluster survives the loss of fewer nodes now; without a majority nothing is granted, \
         extended or released",
        "start the node, or take it out of the cluster and the URL",
    )
}

fn no_majority(peer: &str, error: &DatastoreError) -> Finding {
    Finding::danger(
        format!("{peer} cannot reach the majority of the cluster: {error}"),
        "nothing is granted, extended or released",
        "see to the network between the nodes, and that a majority of them runs",
    )
}

/// One node, and what it says of itself.
struct Node {
    connection: Connection,
    status: Value,
    /// The size at which the node refuses writes.
    quota: u64,
    /// What came of the login; none without one.
    login: Option<Login>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Login {
    Accepted,
    /// The cluster has no users.
    Needless,
}

impl Node {
    fn ask(mut connection: Connection, has_login: bool) -> Result<Self, DatastoreError> {
        let status = at_once(connection.ask(Method::Status, &json!({})))?;
        let quota = connection.metric(QUOTA_METRIC)?;
        let login = has_login.then_some(match connection.has_token() {
            true => Login::Accepted,
            false => Login::Needless,
        });
        Ok(Node {
            connection,
            status,
            quota: quota.filter(|quota| *quota > 0).unwrap_or(QUOTA),
            login,
        })
    }

    fn has_leader(&self) -> bool {
        // Zeros are left out.
        let leader = self.status["leader"].as_str();
        leader.is_some_and(|leader| leader != "0")
    }

    fn is_learner(&self) -> bool {
        self.status["isLearner"] == json!(true)
    }

    fn findings(&self) -> Vec<Finding> {
        let peer = self.connection.peer();
        let status = &self.status;
        let findings = [
            version(status, peer),
            leader(self.has_leader(), peer),
            learner(self.is_learner(), peer),
            space(status, self.quota, peer),
        ];
        findings.into_iter().flatten().collect()
    }

    /// What holds for the whole cluster. `named` is the number of nodes in the URL.
    fn of_cluster(&mut self, named: usize) -> Result<Vec<Finding>, DatastoreError> {
        let mut findings = Vec::new();
        findings.extend(self.users()?);
        let members = self.members()?;
        findings.extend(members.as_ref().and_then(|members| majority(members)));
        if let Some(members) = &members {
            findings.extend(few_named(members.len(), named));
        }
        findings.extend(self.alarms(&members.unwrap_or_default())?);
        Ok(findings)
    }

    /// Whether the user may read and write keys, and whether there are users at all.
    fn users(&mut self) -> Result<Option<Finding>, DatastoreError> {
        let peer = self.connection.peer().to_owned();
        if self.login == Some(Login::Needless) {
            return Ok(Some(Finding::warning(
                format!("{peer} has no users, though the URL has a login"),
                "anybody who reaches the cluster can release and take locks",
                "add users and roles, and etcdctl auth enable",
            )));
        }
        // A transaction that would write the key and a place, if something were so that never is:
        // no key has the first revision.
        let body = json!({
            "compare": is_created_at(KEY, "1"),
            "success": [delete(KEY), delete(&after_places(KEY))],
        });
        match at_once(self.connection.ask(Method::Txn, &body)) {
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::Refused => Ok(Some(Finding::danger(
                format!("this user may not write keys that start with dlock: ({error})"),
                "no lock with such a key can be acquired",
                "give the role of the user the right readwrite for the prefix dlock:, as the page \
                 of etcd says; if your locks have another prefix, for that one",
            ))),
            Err(error) => Err(error),
        }
    }

    /// The voting members' names; `None` without the right to list them.
    fn members(&mut self) -> Result<Option<Vec<Member>>, DatastoreError> {
        match at_once(self.connection.ask(Method::Members, &json!({}))) {
            Ok(answer) => Ok(Some(Member::all(&answer))),
            Err(error) if error.kind() == ErrorKind::Refused => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn alarms(&mut self, members: &[Member]) -> Result<Vec<Finding>, DatastoreError> {
        let answer = match at_once(self.connection.ask(Method::Alarms, &json!({}))) {
            Ok(answer) => answer,
            // It is for administrators.
            Err(error) if error.kind() == ErrorKind::Refused => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let alarms = answer["alarms"].as_array().map_or(&[][..], Vec::as_slice);
        let name = |alarm: &Value| {
            let id = alarm["memberID"].as_str().unwrap_or_default();
            let member = members.iter().find(|member| member.id == id);
            member.map_or_else(
                || format!("the member {}", escaped(id)),
                |member| member.name.clone(),
            )
        };
        Ok(alarms
            .iter()
            .filter_map(|raised| alarm(raised["alarm"].as_str()?, &name(raised)))
            .collect())
    }
}

/// A member of the cluster.
struct Member {
    /// As the gateway writes it: it may be greater than a number of ours.
    id: String,
    name: String,
    votes: bool,
}

impl Member {
    fn all(answer: &Value) -> Vec<Self> {
        let members = answer["members"].as_array().map_or(&[][..], Vec::as_slice);
        let member = |member: &Value| Member {
            id: member["ID"].as_str().unwrap_or_default().to_owned(),
            name: escaped(member["name"].as_str().unwrap_or_default()).into_owned(),
            votes: member["isLearner"] != json!(true),
        };
        members.iter().map(member).collect()
    }
}

fn version(status: &Value, peer: &str) -> Option<Finding> {
    let text = status["version"].as_str()?;
    let mut parts = text.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
        return None;
    };
    ((major, minor) < OLDEST).then(|| {
        Finding::danger(
            format!("{peer} is etcd {}", escaped(text)),
            "dlock needs 3.4: older versions lack the path of its requests, and the numbers of \
             watches by which it distinguishes them",
            "update the cluster",
        )
    })
}

fn leader(has_leader: bool, peer: &str) -> Option<Finding> {
    (!has_leader).then(|| {
        Finding::danger(
            format!("{peer} has no leader"),
            "it is cut off from the majority of its cluster, or an election is under way: it \
             grants nothing",
            "see to the network between the nodes, and that a majority of them runs",
        )
    })
}

fn learner(is_learner: bool, peer: &str) -> Option<Finding> {
    is_learner.then(|| {
        Finding::danger(
            format!("{peer} is a learner, which has no vote"),
            "it refuses all calls of dlock",
            "promote it (etcdctl member promote), or take it out of the URL",
        )
    })
}

fn space(status: &Value, quota: u64, peer: &str) -> Option<Finding> {
    let size = u64::try_from(number(&status["dbSize"])).ok()?;
    let percent = size.saturating_mul(100) / quota;
    (percent >= NEARLY_FULL).then(|| {
        Finding::warning(
            format!("the database of {peer} has {percent} % of its quota of {quota} bytes"),
            "a full database refuses claims and renewals, so that holders lose their locks",
            "compact and defragment it, have etcd compact by itself (--auto-compaction-retention), \
             or raise --quota-backend-bytes",
        )
    })
}

fn majority(members: &[Member]) -> Option<Finding> {
    let voters = members.iter().filter(|member| member.votes).count();
    (voters < 3).then(|| {
        let nodes = match voters {
            1 => "one node".to_owned(),
            _ => format!("{voters} nodes"),
        };
        Finding::warning(
            format!("the cluster has {nodes}"),
            "if one is lost, nothing is granted, extended or released, and if its disk is lost, so \
             are the locks",
            "run three nodes or five",
        )
    })
}

fn few_named(members: usize, named: usize) -> Option<Finding> {
    (named < members && named < 3).then(|| {
        Finding::warning(
            format!("the URL has {named} of the cluster's {members} nodes"),
            "if those are lost, this program reaches no lock, though the cluster goes on",
            "name all nodes in the URL",
        )
    })
}

fn alarm(kind: &str, member: &str) -> Option<Finding> {
    match kind {
        "NONE" => None,
        "NOSPACE" => Some(Finding::danger(
            format!("{member} has raised the alarm NOSPACE"),
            "the database is full: claims and renewals are refused, so that holders lose their locks",
            "compact and defragment the database, then etcdctl alarm disarm",
        )),
        "CORRUPT" => Some(Finding::danger(
            format!("{member} has raised the alarm CORRUPT"),
            "the nodes disagree about what is stored: a lock may be granted twice",
            "replace the node, or restore the cluster from a snapshot",
        )),
        other => Some(Finding::danger(
            format!("{member} has raised the alarm {}", escaped(other)),
            "etcd may refuse calls, or answer wrongly",
            "see the log of the node",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(finding: Option<Finding>) -> Option<String> {
        finding.map(|finding| finding.what)
    }

    #[test]
    fn a_version_without_the_gateway_is_found() {
        let found = |version: &str| what(super::version(&json!({"version": version}), "a:1"));
        for good in ["3.4.0", "3.4.23", "3.10.1", "4.0.0", "", "unknown"] {
            assert_eq!(found(good), None, "{good}");
        }
        for old in ["3.3.27", "2.3.8"] {
            assert_eq!(found(old), Some(format!("a:1 is etcd {old}")));
        }
    }

    #[test]
    fn a_database_that_is_nearly_full_is_found() {
        let found = |size: &str| what(space(&json!({"dbSize": size}), 1000, "a:1"));
        assert_eq!(found("799"), None);
        let nearly = "the database of a:1 has 80 % of its quota of 1000 bytes";
        assert_eq!(found("800"), Some(nearly.to_owned()));
    }

    #[test]
    fn a_cluster_that_stops_with_one_node_is_found() {
        let found = |votes: &[bool]| {
            let member = |votes: &bool| Member {
                id: "1".to_owned(),
                name: "a".to_owned(),
                votes: *votes,
            };
            what(majority(&votes.iter().map(member).collect::<Vec<_>>()))
        };
        assert_eq!(found(&[true; 3]), None);
        assert_eq!(found(&[true]), Some("the cluster has one node".to_owned()));
        let two = Some("the cluster has 2 nodes".to_owned());
        assert_eq!(found(&[true, true, false]), two);
    }

    #[test]
    fn each_alarm_is_found_with_its_member() {
        assert_eq!(what(alarm("NONE", "a")), None);
        for kind in ["NOSPACE", "CORRUPT", "ANOTHER"] {
            let found = what(alarm(kind, "a")).unwrap();
            assert_eq!(found, format!("a has raised the alarm {kind}"));
        }
    }
}
