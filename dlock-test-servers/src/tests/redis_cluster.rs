use crate::{RedisCluster, Reply};

fn error(reply: Reply) -> String {
    match reply {
        Reply::Error(error) => error,
        other => panic!("no error: {other:?}"),
    }
}

#[test]
fn the_nodes_of_a_cluster_share_the_slots_and_redirect() {
    let cluster = RedisCluster::start();
    assert_eq!(cluster.nodes().len(), 3);
    let owner = cluster.owner_of("k");
    assert_eq!(cluster.slot_of("k"), cluster.slot_of("{k}:fence"));
    assert!(cluster.url().starts_with("redis+cluster://127.0.0.1:"));
    for (at, node) in cluster.nodes().iter().enumerate() {
        let answer = node.try_command(["SET", "k", "v"]);
        match at == owner {
            true => assert_eq!(answer, Reply::Text("OK".to_owned())),
            false => assert!(error(answer).starts_with("MOVED")),
        }
    }
}

#[test]
fn a_slot_moves_key_by_key() {
    let cluster = RedisCluster::builder().password("secret").start();
    let (slot, from) = (cluster.slot_of("k"), cluster.owner_of("k"));
    let to = (from + 1) % 3;
    cluster.node(from).command(["SET", "k", "v"]);
    cluster.node(from).command(["SET", "{k}2", "v"]);

    cluster.begin_migration(slot, to);
    let get = |at: usize, key| cluster.node(at).try_command(["GET", key]);
    assert_eq!(get(from, "k"), Reply::Text("v".to_owned()));
    cluster.move_keys(from, to, &["k", "{k}none"]);
    assert!(error(get(from, "k")).starts_with("ASK"));
    assert!(error(get(to, "k")).starts_with("MOVED"));
    let both = cluster.node(from).try_command(["MGET", "k", "{k}2"]);
    assert!(error(both).starts_with("TRYAGAIN"));

    cluster.finish_migration(slot, to);
    assert_eq!(cluster.owner_of("k"), to);
    assert_eq!(get(to, "{k}2"), Reply::Text("v".to_owned()));
    assert!(error(get(from, "k")).starts_with("MOVED"));
}

#[test]
fn a_replica_takes_over_with_what_it_has() {
    let mut cluster = RedisCluster::builder().replicas().start();
    assert_eq!(cluster.nodes().len(), 6);
    let owner = cluster.owner_of("k");
    assert_eq!(cluster.replica_of(owner), owner + 3);
    cluster.node(owner).command(["SET", "k", "v"]);
    cluster.fail_over_to(owner + 3);
    assert_eq!(cluster.owner_of("k"), owner + 3);
    cluster.wait_for_replica(owner);

    let replica = cluster.cut_off_replica_of(owner + 3);
    assert_eq!(replica, owner);
    cluster.node(owner + 3).command(["SET", "k", "lost"]);
    cluster.node_mut(owner + 3).kill();
    cluster.node(owner).resume();
    cluster.wait_for_takeover(owner + 3);
    assert_eq!(cluster.owner_of("k"), owner);
    assert_eq!(
        cluster.node(owner).command(["GET", "k"]),
        Reply::Text("v".to_owned())
    );
    cluster.node_mut(owner + 3).start_again();
    cluster.wait_until_ok();
    cluster.wait_for_replica(owner + 3);
}
