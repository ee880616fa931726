//! The faults of etcd, one node or three. None is an excuse: what was answered is kept, and leases
//! end late, never early.

use dlock_history::Harm;
use dlock_test_servers::{EtcdCluster, EtcdServer};

use crate::lanes::{Round, sleep_until};
use crate::plan::{Fault, Planned};

/// Carries out a plan. Each fault is healed before the next begins.
pub(crate) fn break_node(round: &Round, plan: &[Planned], node: &mut EtcdServer) {
    for planned in plan {
        let since = round.wait_for(planned);
        let until = since.saturating_add(planned.lasts);
        match planned.fault {
            Fault::StopServer => {
                node.pause();
                sleep_until(until);
                node.resume();
            }
            Fault::KillServer { keeps_data: true } => {
                node.kill();
                sleep_until(until);
                node.start_again();
            }
            Fault::Compact => node.compact(),
            ref other => unreachable!("{other:?} is not of etcd"),
        }
        round.record.fault(planned.fault.name(), Harm::None, since);
    }
}

/// The same for three nodes.
pub(crate) fn break_cluster(round: &Round, plan: &[Planned], cluster: &mut EtcdCluster) {
    let count = cluster.nodes().len();
    for planned in plan {
        let since = round.wait_for(planned);
        let until = since.saturating_add(planned.lasts);
        let leader = cluster.leader();
        let follower = |number: usize| (leader + 1 + number % (count - 1)) % count;
        match planned.fault {
            Fault::KillPrimary(_) => kill(cluster, &[leader], || sleep_until(until)),
            Fault::KillReplica(number) => kill(cluster, &[follower(number)], || sleep_until(until)),
            Fault::KillMajority(number) => {
                kill(cluster, &[leader, follower(number)], || sleep_until(until));
            }
            Fault::StopPrimary(_) => stop(cluster, &[leader], || sleep_until(until)),
            Fault::StopReplica(number) => stop(cluster, &[follower(number)], || sleep_until(until)),
            Fault::StopMajority(number) => {
                stop(cluster, &[leader, follower(number)], || sleep_until(until));
            }
            Fault::Promote(number) => cluster.move_leader_to(follower(number)),
            Fault::Compact => cluster.nodes()[leader].compact(),
            ref other => unreachable!("{other:?} is not of etcd"),
        }
        cluster.wait_until_healthy();
        round.record.fault(planned.fault.name(), Harm::None, since);
    }
}

/// Kills nodes, and starts them again.
fn kill(cluster: &mut EtcdCluster, nodes: &[usize], wait: impl FnOnce()) {
    for node in nodes {
        cluster.node_mut(*node).kill();
    }
    wait();
    // Two of three have no leader before both are there.
    cluster.start_again(nodes);
}

/// Stops nodes, and continues them.
fn stop(cluster: &EtcdCluster, nodes: &[usize], wait: impl FnOnce()) {
    for node in nodes {
        cluster.nodes()[*node].pause();
    }
    wait();
    for node in nodes {
        cluster.nodes()[*node].resume();
    }
}
