//! A grant is one when the replica has it: what `wait_replicas` promises on each node of a cluster.

use std::sync::Mutex;
use std::thread;

use dlock_core::{ErrorKind, Lock};
use dlock_redis::TooFewReplicas;

use super::*;
use crate::both_forms::{Caller, callers};

/// Long enough for a busy machine to replicate.
const WITHIN: Duration = Duration::from_secs(5);
/// In this time a replica that works acknowledges, also on a busy machine, and a test can wait for
/// one that does not.
const NOT_LONG: Duration = Duration::from_millis(1500);

/// A store for which the replica of a key's primary must have acknowledged within this time.
fn waits_for_one(cluster: &RedisCluster, within: Duration) -> RedisDatastore {
    let builder = RedisDatastore::builder(&cluster.url()).unwrap();
    let builder = builder.call_timeout(LONG).connect_timeout(LONG);
    builder.wait_replicas(1, within).unwrap().build()
}

/// Three primaries with a replica each, which no test but the one that calls breaks. A node that a
/// test stops is not taken for dead.
fn that_fails_nobody_over() -> RedisCluster {
    let cluster = RedisCluster::builder().replicas();
    cluster.node_timeout(Duration::from_secs(30)).start()
}

/// How many replicas have acknowledged.
fn acknowledged(error: &DatastoreError) -> u32 {
    assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
    let source = std::error::Error::source(error).unwrap();
    let few = source.downcast_ref::<TooFewReplicas>().unwrap();
    assert_eq!(few.wanted, 1);
    few.acknowledged
}

/// The claim fails since the replica does not have it, and leaves nothing but its fence.
fn is_taken_back(cluster: &RedisCluster, caller: &Caller, key: &str) {
    let error = caller.acquire(&claim(key)).unwrap_err();
    assert_eq!(acknowledged(&error), 0);
    assert!(!error.may_have_executed(), "it was taken back: {error:?}");
    let owner = cluster.node(cluster.owner_of(key));
    assert_eq!(owner.keys(), [format!("{{{key}}}:fence")], "nobody is kept");
}

/// One more key, of the node `owner`.
fn key_of(cluster: &RedisCluster, owner: usize) -> String {
    let mut keys = std::iter::repeat_with(own_key);
    keys.find(|key| cluster.owner_of(key) == owner).unwrap()
}

#[test]
fn a_grant_that_the_replica_lacks_is_none_and_is_taken_back() {
    let cluster = that_fails_nobody_over();
    let key = key_of(&cluster, 1);
    let hasty = callers(|| waits_for_one(&cluster, NOT_LONG));
    let replica = cluster.cut_off_replica_of(1);
    for caller in &hasty {
        is_taken_back(&cluster, caller, &key);
    }
    for caller in callers(|| waits_for_one(&cluster, WITHIN)) {
        // The other nodes have their replicas.
        let elsewhere = claim(&key_of(&cluster, 2));
        assert!(caller.released(&caller.acquired(&elsewhere)));
    }
    cluster.node(replica).resume();
    cluster.wait_for_replica(replica);
    for caller in callers(|| waits_for_one(&cluster, WITHIN)) {
        let lease = caller.acquired(&claim(&key));
        let slot = cluster.slot_of(&key).to_string();
        let count = ["CLUSTER", "COUNTKEYSINSLOT", &slot];
        assert_eq!(cluster.node(replica).command(count), Reply::Integer(2));
        assert!(caller.extended(&lease, 1));
        assert!(caller.released(&lease));
    }
}

/// Its link stays open, so it has everything when it goes on.
#[test]
fn while_the_replica_is_stopped_nothing_is_granted_and_nothing_extended() {
    let cluster = that_fails_nobody_over();
    let replica = cluster.replica_of(0);
    let holders = callers(|| waits_for_one(&cluster, WITHIN));
    let hasty = callers(|| waits_for_one(&cluster, NOT_LONG));
    for (holder, hasty) in holders.iter().zip(&hasty) {
        let lease = holder.acquired(&claim(&key_of(&cluster, 0)));
        let elsewhere = holder.acquired(&claim(&key_of(&cluster, 2)));
        cluster.node(replica).pause();
        let free = claim(&key_of(&cluster, 0));
        let error = hasty.acquire(&free).unwrap_err();
        assert_eq!(acknowledged(&error), 0);
        assert!(!error.may_have_executed());
        let error = hasty.extend(&lease, 1).unwrap_err();
        assert_eq!(acknowledged(&error), 0);
        assert!(error.may_have_executed(), "the primary has the new end");
        // Of a batch only those on that node.
        let mut batch = hasty.extend_many(&[(call(&lease, 2), TTL), (call(&elsewhere, 1), TTL)]);
        assert!(matches!(batch.pop(), Some(Ok(Extension::Extended(_)))));
        let error = batch.pop().unwrap().unwrap_err();
        assert_eq!(acknowledged(&error), 0);
        // The lock is still held: a refusal has nothing that replicas could lack.
        refused(hasty.acquire(&claim(lease.key())));

        cluster.node(replica).resume();
        assert!(holder.extended(&lease, 3));
        assert!(holder.released(&lease), "a release waits for nobody");
        assert!(holder.released(&elsewhere));
        assert!(holder.released(&holder.acquired(&free)));
    }
}

#[test]
fn a_waiter_is_granted_the_lock_when_the_replica_is_back() {
    let cluster = that_fails_nobody_over();
    let forms: Vec<fn(RedisDatastore) -> Form> = vec![
        |store| Arc::new(store),
        #[cfg(feature = "tokio")]
        shared_over,
    ];
    for form in forms {
        let store = form(waits_for_one(&cluster, NOT_LONG));
        let key = key_of(&cluster, 1);
        let replica = cluster.cut_off_replica_of(1);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let name = key.strip_prefix("dlock:").unwrap();
                let lock = Lock::new(dlock_core::Store::new(store), name);
                lock.acquire_within(LONG * 2).unwrap().release().unwrap();
            });
            let fence = format!("{{{key}}}:fence");
            until("it has tried", || {
                let keys = cluster.node(1).keys();
                keys.contains(&fence) && !keys.contains(&key)
            });
            assert!(!waiter.is_finished());
            cluster.node(replica).resume();
            waiter.join().unwrap();
        });
        cluster.wait_for_replica(replica);
    }
}

/// What a connection to a node has sent and the node has not read yet, in bytes, if it is about
/// to run a script there.
fn behind_a_script(cluster: &RedisCluster, node: usize) -> Vec<u64> {
    let clients = cluster.node(node).command(["CLIENT", "LIST"]).text();
    let clients = clients.unwrap();
    let scripts = clients.lines().filter(|line| line.contains(" cmd=evalsha"));
    let bytes = |line: &str| {
        let (_, rest) = line.split_once(" qbuf=")?;
        rest.split(' ').next()?.parse().ok()
    };
    scripts
        .filter_map(bytes)
        .filter(|bytes| *bytes > 0)
        .collect()
}

/// A server that runs no writes for a while shows what a client sends without an answer.
#[test]
fn the_question_for_replicas_is_sent_behind_the_call_without_waiting_for_its_answer() {
    let cluster = that_fails_nobody_over();
    let primary = cluster.node(0);
    for caller in callers(|| waits_for_one(&cluster, WITHIN)) {
        let caller = &caller;
        let key = key_of(&cluster, 0);
        let warm = caller.acquired(&claim(&key_of(&cluster, 0)));
        assert!(caller.extended(&warm, 1) && caller.released(&warm));
        let held = |what: &str, call: &(dyn Fn() + Sync)| {
            primary.command(["CLIENT", "PAUSE", "60000", "WRITE"]);
            thread::scope(|scope| {
                let calling = scope.spawn(call);
                until(what, || behind_a_script(&cluster, 0).len() == 1);
                primary.command(["CLIENT", "UNPAUSE"]);
                calling.join().unwrap();
            });
        };
        let lease = Mutex::new(None);
        primary.reset_calls();
        held("a claim", &|| {
            *lease.lock().unwrap() = Some(caller.acquired(&claim(&key)));
        });
        let lease = lease.into_inner().unwrap().unwrap();
        held("an extend", &|| assert!(caller.extended(&lease, 1)));
        assert!(caller.released(&lease));
        let calls = primary.calls();
        assert_eq!((calls["evalsha"], calls["wait"]), (3, 2));
    }
}

#[test]
fn many_leases_are_extended_with_one_question_to_each_node() {
    let cluster = that_fails_nobody_over();
    for caller in callers(|| waits_for_one(&cluster, WITHIN)) {
        let leases: Vec<_> = (0..30)
            .map(|at| call(&caller.acquired(&claim(&key_of(&cluster, at % 3))), 1))
            .map(|lease| (lease, TTL * 2))
            .collect();
        let all_extended = |leases: &[(Lease, Duration)]| {
            let answers = caller.extend_many(leases);
            let mut answers = answers.iter();
            answers.all(|answer| matches!(answer, Ok(Extension::Extended(_))))
        };
        // The blocking form extends many on connections of their own, one of which each node has
        // then.
        assert!(all_extended(&leases[..3]));
        (0..3).for_each(|node| cluster.node(node).reset_calls());
        assert!(all_extended(&leases[3..]));
        for node in 0..3 {
            let calls = cluster.node(node).calls();
            assert_eq!((calls["evalsha"], calls["wait"]), (9, 1), "node {node}");
        }
        for (lease, _) in &leases {
            assert!(caller.released(lease));
        }
    }
}

#[test]
fn after_a_redirection_the_replica_of_the_new_owner_must_have_it() {
    let cluster = that_fails_nobody_over();
    let patient = callers(|| waits_for_one(&cluster, WITHIN));
    let hasty = callers(|| waits_for_one(&cluster, NOT_LONG));
    for (patient, hasty) in patient.iter().zip(&hasty) {
        let key = key_of(&cluster, 0);
        // Both know node 0 as the owner.
        let lease = patient.acquired(&claim(&key));
        refused(hasty.acquire(&claim(&key)));
        let slot = cluster.slot_of(&key);
        cluster.begin_migration(slot, 1);
        cluster.finish_migration(slot, 1);
        let replica = cluster.replica_of(1);
        cluster.wait_for_replica(replica);
        assert!(patient.extended(&lease, 1));
        assert!(patient.released(&lease));

        let replica = cluster.cut_off_replica_of(1);
        is_taken_back(&cluster, hasty, &key);
        cluster.node(replica).resume();
        cluster.wait_for_replica(replica);
        assert!(patient.released(&patient.acquired(&claim(&key))));
        cluster
            .node(1)
            .command(["DEL", &format!("{{{key}}}:fence")]);
    }
}

/// The slot's owner sends the extend to the node that the slot is being moved to, for this once.
#[test]
fn while_a_slot_moves_the_replica_of_its_next_owner_must_have_it() {
    let cluster = that_fails_nobody_over();
    let patient = callers(|| waits_for_one(&cluster, WITHIN));
    let hasty = callers(|| waits_for_one(&cluster, NOT_LONG));
    for (patient, hasty) in patient.iter().zip(&hasty) {
        let key = key_of(&cluster, 0);
        let slot = cluster.slot_of(&key);
        let lease = patient.acquired(&claim(&key));
        cluster.begin_migration(slot, 1);
        cluster.move_keys(0, 1, &[&key, &format!("{{{key}}}:fence")]);
        assert!(patient.extended(&lease, 1));

        let replica = cluster.cut_off_replica_of(1);
        let error = hasty.extend(&lease, 2).unwrap_err();
        assert_eq!(acknowledged(&error), 0);
        assert!(error.may_have_executed(), "the primary has the new end");
        cluster.node(replica).resume();
        cluster.wait_for_replica(replica);
        assert!(patient.extended(&lease, 3));
        cluster.finish_migration(slot, 1);
        assert!(patient.extended(&lease, 4));
        assert!(patient.released(&lease));
    }
}

/// A node refuses a call of which not all keys exist, once their slot is being moved elsewhere.
#[test]
fn a_grant_is_taken_back_though_its_slot_begins_to_move() {
    let cluster = that_fails_nobody_over();
    for waits in callers(|| waits_for_one(&cluster, Duration::from_secs(2))) {
        let key = key_of(&cluster, 0);
        let slot = cluster.slot_of(&key);
        let replica = cluster.cut_off_replica_of(0);
        thread::scope(|scope| {
            let error = scope.spawn(|| waits.acquire(&claim(&key)).unwrap_err());
            until("it is granted", || exists(&cluster, 0, &key));
            cluster.begin_migration(slot, 1);
            let error = error.join().unwrap();
            assert_eq!(acknowledged(&error), 0);
            assert!(!error.may_have_executed(), "it was taken back: {error:?}");
        });
        assert!(!exists(&cluster, 0, &key));
        cluster.node(replica).resume();
        cluster.wait_for_replica(replica);
        cluster.finish_migration(slot, 1);
    }
}

/// Nothing is waited for before the primary dies: a grant is on the replica already.
#[test]
fn a_grant_that_the_replica_has_outlives_its_primary() {
    let mut cluster = RedisCluster::builder().replicas().start();
    let holders = callers(|| waits_for_one(&cluster, WITHIN));
    let others = callers(|| patient(&cluster.url()));
    let hasty = callers(|| waits_for_one(&cluster, NOT_LONG));
    let keys: Vec<_> = holders.iter().map(|_| key_of(&cluster, 2)).collect();
    let leases: Vec<_> = (holders.iter().zip(&keys))
        .map(|(holder, key)| holder.acquired(&claim(key)))
        .collect();
    cluster.node_mut(2).kill();
    for ((other, hasty), key) in others.iter().zip(&hasty).zip(&keys) {
        refused(other.acquire(&claim(key)));
        // Nor is it there to be had for a claim of a lock that is free.
        let owner = cluster.owner_of(key);
        let error = hasty.acquire(&claim(&key_of(&cluster, owner))).unwrap_err();
        assert_eq!(acknowledged(&error), 0, "the new primary is alone");
    }
    cluster.node_mut(2).start_again();
    cluster.wait_for_replica(2);
    for (((holder, other), lease), key) in holders.iter().zip(&others).zip(&leases).zip(&keys) {
        refused(other.acquire(&claim(key)));
        assert!(holder.extended(lease, 1), "the old primary is its replica");
        assert!(holder.released(lease));
        let next = other.acquired(&claim(key));
        assert!(fence_of(&next) > fence_of(lease), "tokens rise");
    }
}
