use super::is_running;
use crate::{EtcdCluster, EtcdServer};

/// `k` and `v` as the gateway writes them.
const PUT: &str = r#"{"key":"aw==","value":"dg=="}"#;
const RANGE: &str = r#"{"key":"aw=="}"#;

#[test]
fn an_etcd_server_keeps_its_data_until_its_value_ends() {
    let mut server = EtcdServer::start();
    server.post("/v3/kv/put", PUT);
    let url = server.url();
    server.restart();
    assert_eq!(server.url(), url);
    let answer = server.post("/v3/kv/range", RANGE);
    assert!(answer.contains(r#""value":"dg==""#), "{answer}");
    assert_eq!(server.metric("etcd_debugging_mvcc_keys_total"), 1);
    assert_eq!(server.metric("no_such_thing"), 0);
    let pid = server.pid().to_string();
    drop(server);
    assert!(!is_running(&pid));
}

#[test]
fn another_etcd_node_takes_over_and_the_killed_one_catches_up() {
    let mut cluster = EtcdCluster::start();
    let first = cluster.leader();
    cluster.node_mut(first).kill();
    let second = cluster.leader();
    assert_ne!(first, second);
    cluster.nodes()[second].post("/v3/kv/put", PUT);
    cluster.node_mut(first).start_again();
    let answer = cluster.nodes()[first].post("/v3/kv/range", RANGE);
    assert!(answer.contains(r#""value":"dg==""#), "{answer}");
}

#[test]
fn a_majority_of_etcd_nodes_comes_back_together_and_another_node_becomes_the_leader() {
    let mut cluster = EtcdCluster::start();
    let first = cluster.leader();
    let next = (first + 1) % 3;
    cluster.nodes()[first].post("/v3/kv/put", PUT);
    cluster.node_mut(first).kill();
    cluster.node_mut(next).kill();
    cluster.start_again(&[first, next]);
    let other = (cluster.leader() + 1) % 3;
    cluster.move_leader_to(other);
    assert_eq!(cluster.leader(), other);
    let answer = cluster.nodes()[other].post("/v3/kv/range", RANGE);
    assert!(answer.contains(r#""value":"dg==""#), "{answer}");
}

#[test]
fn an_etcd_node_that_is_cut_off_answers_nothing_and_catches_up() {
    let cluster = EtcdCluster::start_with_network();
    let first = cluster.leader();
    cluster.cut_off(first);
    let healthy = || {
        let nodes = cluster.nodes().iter();
        nodes.map(EtcdServer::is_healthy).collect::<Vec<_>>()
    };
    let expected: Vec<_> = (0..3).map(|node| node != first).collect();
    let started = std::time::Instant::now();
    while healthy() != expected {
        assert!(started.elapsed().as_secs() < 60, "{:?}", healthy());
    }
    cluster.nodes()[(first + 1) % 3].post("/v3/kv/put", PUT);
    cluster.heal();
    let answer = cluster.nodes()[first].post("/v3/kv/range", RANGE);
    assert!(answer.contains(r#""value":"dg==""#), "{answer}");
}

#[test]
fn a_compacted_etcd_has_no_former_versions() {
    let server = EtcdServer::start();
    server.post("/v3/kv/put", PUT);
    server.post("/v3/kv/put", PUT);
    server.compact();
    let old = server.post("/v3/kv/range", r#"{"key":"aw==","revision":"2"}"#);
    assert!(old.contains("compacted"), "{old}");
    assert!(server.post("/v3/kv/range", RANGE).contains("dg=="));
}
