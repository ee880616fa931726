//! What endangers locks is found in clusters that were set up wrongly, and nothing in a good one.

use dlock_core::{Datastore, Finding};
use dlock_etcd::EtcdDatastore;
use dlock_test_servers::{EtcdCluster, EtcdServer};
use serde_json::{Value, json};

use crate::support::{ask, base64, eventually, store, store_at};
use crate::users::{server_with_users, store_of};

/// What is found, each as `severity: what`, by both forms.
fn found(store: &EtcdDatastore) -> Vec<String> {
    // The cluster may change between the two.
    let found = (0..20).find_map(|_| found_alike(store));
    found.expect("both forms find the same")
}

fn found_alike(store: &EtcdDatastore) -> Option<Vec<String>> {
    let findings = Datastore::inspect(store).unwrap().findings().unwrap();
    #[cfg(feature = "tokio")]
    {
        use dlock_core::aio::AsyncDatastore;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let inspect = AsyncDatastore::inspect(store).unwrap();
        let same = runtime.block_on(inspect.findings()).unwrap();
        let severities = |all: &[Finding]| all.iter().map(|one| one.severity).collect::<Vec<_>>();
        if severities(&same) != severities(&findings) {
            return None;
        }
    }
    let line = |finding: Finding| {
        assert!(!finding.why.is_empty() && !finding.remedy.is_empty());
        format!("{}: {}", finding.severity.as_str(), finding.what)
    };
    Some(findings.into_iter().map(line).collect())
}

/// That these are found, in this order, and nothing else.
#[track_caller]
fn finds(store: &EtcdDatastore, expected: &[&str]) {
    let found = found(store);
    let all = found.len() == expected.len()
        && expected.iter().zip(&found).all(|(words, found)| {
            let mut words = words.split(" … ");
            words.all(|words| found.contains(words))
        });
    assert!(all, "{found:?}");
}

const ONE_NODE: &str = "warning: the cluster has one node";

#[test]
fn nothing_is_found_in_a_cluster_of_three_nodes_that_are_all_named() {
    let cluster = EtcdCluster::start();
    // On a machine with too much to do there may be an election.
    let all = store_at(&cluster.url());
    eventually("nothing is found", || found(&all).is_empty().then_some(()));
    let one = store_at(&format!("etcd://{}", cluster.addresses()[0]));
    let few = "warning: the URL has 1 of the cluster's 3 nodes";
    eventually("only the short URL is found", || {
        (found(&one) == [few]).then_some(())
    });
}

#[test]
fn nodes_that_are_down_are_found_and_those_that_have_no_leader_then() {
    let mut cluster = EtcdCluster::start();
    let store = store_at(&cluster.url());
    cluster.node_mut(0).kill();
    // If it was the leader, there is an election before.
    eventually("only the node that is down is found", || {
        let found = found(&store);
        (found.len() == 1 && found[0].contains("cannot be asked")).then_some(())
    });
    cluster.node_mut(1).kill();
    eventually("the last node has no leader", || {
        let found = found(&store);
        let is_found = found.len() == 3 && found[2].ends_with(" has no leader");
        is_found.then_some(())
    });
    cluster.node_mut(2).kill();
    let error = Datastore::inspect(&store).unwrap().findings().unwrap_err();
    assert!(error.is_transient(), "{error}");
}

#[test]
fn a_cluster_of_one_node_is_found() {
    finds(&store(&EtcdServer::start()), &[ONE_NODE]);
}

#[test]
fn a_learner_is_found() {
    let server = EtcdServer::start();
    let learner = server.start_learner();
    let url = format!("etcd://{},{}", server.address(), learner.address());
    let is_learner = format!(
        "danger: {} is a learner, which has no vote",
        learner.address()
    );
    let store = store_at(&url);
    eventually("the learner is found", || {
        (found(&store) == [is_learner.as_str(), ONE_NODE]).then_some(())
    });
}

fn put(server: &EtcdServer, name: &str) -> Value {
    let filler = base64(&"x".repeat(100_000));
    let body = json!({"key": base64(name), "value": filler});
    ask(server, "/v3/kv/put", &body)
}

#[test]
fn a_database_that_is_nearly_full_is_found() {
    // The file doubles: it has 4 MiB after 2, or a little more.
    let server = EtcdServer::start_with(&["--quota-backend-bytes", "5000000"]);
    let store = store(&server);
    finds(&store, &[ONE_NODE]);
    let mut count = 0;
    eventually("the database is nearly full", || {
        count += 1;
        let answer = put(&server, &format!("filler-{count}"));
        assert_eq!(answer["error"], Value::Null, "{answer}");
        (found(&store).len() > 1).then_some(())
    });
    let nearly = "warning: the database of … % of its quota of 5000000 bytes";
    finds(&store, &[nearly, ONE_NODE]);
}

#[test]
fn an_alarm_is_found() {
    let server = EtcdServer::start_with(&["--quota-backend-bytes", "500000"]);
    let store = store(&server);
    eventually("the database is full", || {
        (put(&server, "filler")["error"] != Value::Null).then_some(())
    });
    let full = "warning: the database of";
    let alarm = "danger: only has raised the alarm NOSPACE";
    finds(&store, &[full, ONE_NODE, alarm]);
}

#[test]
fn a_user_without_the_right_to_write_locks_is_found() {
    let server = server_with_users();
    finds(&store_of("app:s3cret%2F%40", &server), &[ONE_NODE]);
    // As root, who may do everything.
    let root = json!({"name": "root", "password": "r00t"});
    let token = ask(&server, "/v3/auth/authenticate", &root)["token"].clone();
    let revoke = json!({
        "role": "locks", "key": base64("dlock:"), "range_end": base64("dlock;"),
    });
    let path = "/v3/auth/role/revoke";
    let answer = server.post_as(token.as_str().unwrap(), path, &revoke.to_string());
    assert!(!answer.contains("error"), "{answer}");
    let no_right =
        "danger: this user may not write keys that start with dlock: … permission denied";
    finds(
        &store_of("app:s3cret%2F%40", &server),
        &[no_right, ONE_NODE],
    );
    let no_login = "danger: this user may not write keys … user name is empty";
    let findings = found(&store(&server));
    assert!(
        no_login
            .split(" … ")
            .all(|words| findings[0].contains(words)),
        "{findings:?}"
    );
}

#[test]
fn a_cluster_without_users_is_found_if_the_url_has_a_login() {
    let server = EtcdServer::start();
    let no_users = "warning: … has no users, though the URL has a login";
    finds(&store_of("app:any", &server), &[no_users, ONE_NODE]);
}
