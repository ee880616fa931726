//! How a store finds the nodes of its cluster, and what it says if it cannot.

use dlock_core::{Datastore, ErrorKind, Inspect};
use dlock_redis::UrlError;
use dlock_test_servers::RedisServer;

use super::*;
use crate::conformance::RIGHTS;

/// An address at which no server listens, and that the system gives to none by itself.
const NOBODY: &str = "127.0.0.1:1";

fn served(store: &RedisDatastore) {
    for _ in 0..20 {
        let lease = support::acquired(store, &claim(&own_key()));
        assert!(extend(store, &lease, 1, TTL).is_some());
        assert!(released(store, &lease));
    }
}

#[test]
fn one_node_that_answers_leads_to_all() {
    let node = whole().node(1).address();
    let store = patient(&format!("redis+cluster://{NOBODY},{node}"));
    served(&store);
    assert!(format!("{store:?}").contains(&node.to_string()));
}

#[test]
fn a_node_that_hangs_does_not_hide_the_others() {
    let cluster = RedisCluster::start();
    let key = loop {
        let key = own_key();
        if cluster.owner_of(&key) != 0 {
            break key;
        }
    };
    cluster.node(0).pause();
    for open in forms() {
        let store = open(&cluster);
        let lease = acquired(&store, &claim(&key));
        assert!(releases(&store, &lease));
    }
}

#[test]
fn a_login_and_its_rights_are_those_of_every_node() {
    let cluster = RedisCluster::builder()
        .password("secret")
        .user("app", "pw", &format!("{RIGHTS} +cluster|slots +asking"))
        .user("unasked", "pw", &format!("{RIGHTS} +cluster|slots"))
        .start();
    served(&patient(&cluster.url()));
    let store = patient(&cluster.url_of("app", "pw"));
    served(&store);
    let wrong = hasty_at(&cluster.url_of("app", "wrong-s3cret"));
    let error = wrong.acquire(&claim(&own_key()), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(!whole_text(&error).contains("s3cret"));

    let key = own_key();
    let (slot, from) = (cluster.slot_of(&key), cluster.owner_of(&key));
    let lease = support::acquired(&store, &claim(&key));
    cluster.begin_migration(slot, (from + 1) % 3);
    cluster.move_keys(from, (from + 1) % 3, &[&key]);
    assert!(extend(&store, &lease, 1, TTL).is_some());
    for open in openers() {
        let unasked = open(&cluster.url_of("unasked", "pw"));
        let error = unasked.extend(&call(&lease, 2), TTL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(whole_text(&error).contains("NOPERM"), "{error}");
    }
    assert!(released(&store, &lease));
    cluster.finish_migration(slot, (from + 1) % 3);
}

fn hasty_at(url: &str) -> RedisDatastore {
    let builder = RedisDatastore::builder(url).unwrap();
    let builder = builder.connect_timeout(LONG);
    builder.call_timeout(Duration::from_secs(4)).build()
}

#[test]
fn a_server_that_is_no_cluster_is_named_so() {
    let server = RedisServer::start();
    let store = patient(&format!("redis+cluster://{}", server.address()));
    let error = store.acquire(&claim(&own_key()), TTL).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(!error.may_have_executed());
    assert!(
        whole_text(&error).contains("cluster support disabled"),
        "{error}"
    );
}

#[test]
fn a_cluster_that_is_down_is_unreachable() {
    for open in openers() {
        let store = open(&format!("redis+cluster://{NOBODY}"));
        // Its first try to find the nodes fails in no time, but for a machine with much work.
        let short = claim_within(&own_key(), Duration::from_secs(6));
        let error = store.acquire(&short, TTL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(!error.may_have_executed());
        assert!(whole_text(&error).contains(NOBODY), "{error}");
    }
}

#[test]
fn only_database_zero_exists() {
    let error = RedisDatastore::open("redis+cluster://127.0.0.1/1").unwrap_err();
    assert_eq!(error, UrlError::ClusterDatabase);
    let error = RedisDatastore::builder("redis+cluster://127.0.0.1?db=3").unwrap_err();
    assert_eq!(error, UrlError::ClusterDatabase);
}

#[cfg(feature = "tls")]
#[test]
fn a_cluster_that_speaks_tls_is_reached_by_its_tls_ports() {
    let cluster = RedisCluster::builder().tls().start();
    served(&patient(&cluster.tls_url()));
}

#[test]
fn operators_see_and_break_locks_on_every_node() {
    let operator = patient(&whole().url());
    let inspect: &dyn Inspect = operator.inspect().unwrap();
    for open in forms() {
        let store = open(whole());
        for _ in 0..10 {
            let key = own_key();
            assert!(inspect.holder(&key).unwrap().is_none());
            let lease = acquired(&store, &claim(&key));
            let held = inspect.holder(&key).unwrap().unwrap();
            assert_eq!(held.fence(), lease.fence());
            let broken = inspect.break_lease(&key, lease.fence().unwrap()).unwrap();
            assert_eq!(broken, ReleaseOutcome::Released);
            assert!(!extends(&store, &lease, 1, TTL));
        }
    }
}

#[test]
fn a_list_has_the_locks_of_all_nodes() {
    let store = patient(&whole().url());
    let keys: Vec<String> = (0..40).map(|_| own_key()).collect();
    for key in &keys {
        support::acquired(&store, &claim(key));
    }
    let owners: std::collections::BTreeSet<_> =
        keys.iter().map(|key| whole().owner_of(key)).collect();
    assert!(owners.len() > 1, "the keys are on several nodes");
    let inspect: &dyn Inspect = store.inspect().unwrap();
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = inspect.held("", after.as_ref()).unwrap();
        listed.extend(page.keys.into_iter().map(|(key, _)| key));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    for key in &keys {
        assert!(listed.contains(key), "{key}");
    }
}

/// The map is read once, and not by every call.
#[test]
fn a_map_that_is_right_is_not_read_again() {
    let cluster = RedisCluster::start();
    let maps = || -> u64 {
        let calls = cluster.nodes().iter().map(RedisServer::calls);
        calls
            .filter_map(|calls| calls.get("cluster|slots").copied())
            .sum()
    };
    for open in forms() {
        cluster.nodes().iter().for_each(RedisServer::reset_calls);
        let store = open(&cluster);
        for _ in 0..20 {
            let lease = acquired(&store, &claim(&own_key()));
            assert!(extends(&store, &lease, 1, TTL));
            assert!(releases(&store, &lease));
        }
        assert!(maps() <= 3, "a busy node is asked for it in vain");
    }
}
