//! Waiters on a cluster: one subscription, at any node, serves them all.

use std::thread;
use std::time::Instant;

use dlock_core::{Lock, Signal, Store};

use super::*;
use crate::queue::HEARTBEAT;

/// The subscriptions at all nodes.
fn subscriptions(cluster: &RedisCluster) -> usize {
    let of = |node: &dlock_test_servers::RedisServer| {
        let clients = node.command(["CLIENT", "LIST", "TYPE", "PUBSUB"]);
        clients.text().unwrap().matches("cmd=subscribe").count()
    };
    cluster.nodes().iter().map(of).sum()
}

/// Keys of each node.
fn keys_of_all(cluster: &RedisCluster) -> Vec<String> {
    (0..3)
        .map(|node| {
            loop {
                let key = own_key();
                if cluster.owner_of(&key) == node {
                    break key;
                }
            }
        })
        .collect()
}

#[test]
fn a_release_hands_over_at_once_though_the_waiter_subscribes_at_another_node() {
    for open in forms() {
        let (holder, waits) = (open(whole()), open(whole()));
        for key in keys_of_all(whole()) {
            let lease = acquired(&holder, &claim(&key));
            let deadline = dlock_core::Clock::BOOTTIME.now().saturating_add(LONG);
            let waiting = claim(&key).with_deadline(deadline);
            let signal = Signal::new();
            let watch = waits.watch(&waiting, &signal).unwrap().unwrap();
            refused(waits.acquire(&waiting, TTL));
            assert!(!signal.take(), "the lock is held");
            let owner = whole().node(whole().owner_of(&key));
            let start = Instant::now();
            assert!(releases(&holder, &lease));
            let record = owner.command(["GET", &key]).text();
            // Its second may be over before a busy machine has looked.
            if start.elapsed() < HEARTBEAT {
                let record = record.unwrap();
                assert!(record.starts_with(&waiting.owner().to_string()), "{record}");
            }
            until("it is woken", || signal.take());
            let next = acquired(&waits, &waiting);
            assert!(fence_of(&next) > fence_of(&lease));
            drop(watch);
            assert!(releases(&waits, &next));
        }
    }
}

#[test]
fn one_subscription_serves_the_waiters_of_all_nodes() {
    for open in forms() {
        let cluster = RedisCluster::start();
        let (holder, waits) = (open(&cluster), Store::new(open(&cluster)));
        let keys = keys_of_all(&cluster);
        let leases: Vec<_> = keys
            .iter()
            .map(|key| acquired(&holder, &claim(key)))
            .collect();
        thread::scope(|scope| {
            let waiting: Vec<_> = keys
                .iter()
                .map(|key| {
                    let name = key.strip_prefix("dlock:").unwrap();
                    let lock = Lock::new(&waits, name);
                    scope.spawn(move || lock.acquire_within(LONG * 2).unwrap().release())
                })
                .collect();
            for (node, key) in keys.iter().enumerate() {
                let queue = format!("{{{key}}}:queue");
                until("it waits", || exists(&cluster, node, &queue));
            }
            assert_eq!(subscriptions(&cluster), 1);
            for lease in &leases {
                assert!(releases(&holder, lease));
            }
            for waiting in waiting {
                waiting.join().unwrap().unwrap();
            }
        });
        drop(waits);
        until("the subscription ends", || subscriptions(&cluster) == 0);
    }
}

#[test]
fn a_subscription_whose_node_cuts_it_is_opened_anew() {
    for open in forms() {
        let cluster = RedisCluster::start();
        let (holder, waits) = (open(&cluster), Store::new(open(&cluster)));
        let key = own_key();
        let name = key.strip_prefix("dlock:").unwrap();
        let lease = acquired(&holder, &claim(&key));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| Lock::new(&waits, name).acquire_within(LONG * 2));
            let queue = format!("{{{key}}}:queue");
            until("it waits", || {
                exists(&cluster, cluster.owner_of(&key), &queue) && subscriptions(&cluster) == 1
            });
            for node in cluster.nodes() {
                node.command(["CLIENT", "KILL", "TYPE", "pubsub"]);
            }
            until("it subscribes again", || subscriptions(&cluster) == 1);
            assert!(releases(&holder, &lease));
            waiting.join().unwrap().unwrap().release().unwrap();
        });
    }
}

#[test]
fn a_waiter_that_gives_up_leaves_the_queue() {
    for open in forms() {
        let (holder, waits) = (open(whole()), Store::new(open(whole())));
        let key = own_key();
        let name = key.strip_prefix("dlock:").unwrap();
        let lease = acquired(&holder, &claim(&key));
        let given_up = Lock::new(&waits, name).acquire_within(Duration::from_millis(300));
        assert!(given_up.is_err());
        let (owner, queue) = (whole().owner_of(&key), format!("{{{key}}}:queue"));
        until("the queue is gone", || !exists(whole(), owner, &queue));
        assert!(releases(&holder, &lease));
        assert!(!exists(whole(), owner, &key), "nobody was handed the lock");
    }
}
