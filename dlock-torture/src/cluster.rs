//! The faults of a Redis Cluster: slots that move, and primaries that are replaced.

use dlock_history::Harm;
use dlock_test_servers::RedisCluster;

use crate::lanes::{Round, sleep_until};
use crate::plan::{Fault, Planned};

/// The first slot of each third.
const THIRDS: [u16; 3] = [0, 5_462, 10_923];

/// Carries out a plan. Each fault is healed before the next begins.
pub(crate) fn break_cluster(round: &Round, plan: &[Planned], cluster: &mut RedisCluster) {
    for planned in plan {
        let since = round.wait_for(planned);
        let until = since.saturating_add(planned.lasts);
        let owner = |cluster: &RedisCluster, third: usize| cluster.owner_of_slot(THIRDS[third]);
        let harm = match planned.fault {
            Fault::MoveSlot(lock) => {
                let slot = cluster.slot_of(&lock.key());
                let from = cluster.owner_of_slot(slot);
                let others = (0..3).map(|third| owner(cluster, third));
                let to = others.into_iter().find(|to| *to != from);
                let to = to.expect("there are three primaries");
                cluster.begin_migration(slot, to);
                sleep_until(until);
                cluster.finish_migration(slot, to);
                Harm::None
            }
            Fault::Promote(third) => {
                let primary = owner(cluster, third);
                let replica = replica_of(cluster, primary);
                cluster.fail_over_to(replica);
                cluster.wait_for_replica(primary);
                Harm::None
            }
            Fault::KillReplica(third) => {
                let replica = replica_of(cluster, owner(cluster, third));
                cluster.node_mut(replica).kill();
                sleep_until(until);
                cluster.node_mut(replica).start_again();
                cluster.wait_for_replica(replica);
                Harm::None
            }
            Fault::KillPrimary(third) => {
                let primary = owner(cluster, third);
                replica_of(cluster, primary);
                cluster.node_mut(primary).kill();
                cluster.wait_for_takeover(primary);
                sleep_until(until);
                cluster.node_mut(primary).start_again();
                cluster.wait_for_replica(primary);
                Harm::Loss
            }
            Fault::StopPrimary(third) => {
                let primary = owner(cluster, third);
                replica_of(cluster, primary);
                cluster.node(primary).pause();
                cluster.wait_for_takeover(primary);
                sleep_until(until);
                cluster.node(primary).resume();
                // For a moment it takes itself for the owner.
                cluster.wait_for_replica(primary);
                Harm::Loss
            }
            Fault::KillSubscriptions => {
                for node in cluster.nodes() {
                    node.command(["CLIENT", "KILL", "TYPE", "PUBSUB"]);
                }
                Harm::None
            }
            ref other => unreachable!("{other:?} is not of a cluster"),
        };
        cluster.wait_until_ok();
        round.record.fault(planned.fault.name(), harm, since);
    }
}

/// The replica of a primary, once it has all of its data.
fn replica_of(cluster: &RedisCluster, primary: usize) -> usize {
    let replica = cluster.replica_of(primary);
    cluster.wait_for_replica(replica);
    replica
}
