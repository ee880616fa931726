//! A Redis primary with replicas and sentinels, and its faults.

use std::time::Duration;

use dlock_history::Harm;
use dlock_test_servers::SentinelSet;

use crate::backend::{IMPOSTORS_LAST, REPLICAS};
use crate::lanes::{Round, sleep_until};
use crate::plan::{Fault, Planned};

/// For how long a primary grants locks of which its replicas do not know, at most.
const ALONE: Duration = Duration::from_millis(1500);

/// Carries out a plan. Each fault is healed before the next begins. `loses` says whether a failover
/// may lose data.
pub(crate) fn break_set(round: &Round, plan: &[Planned], set: &mut SentinelSet, loses: bool) {
    let replaced = if loses { Harm::Loss } else { Harm::None };
    for planned in plan {
        let since = round.wait_for(planned);
        let until = since.saturating_add(planned.lasts);
        let primary = set.primary();
        let harm = match planned.fault {
            Fault::KillPrimary(_) => {
                set.node_mut(primary).kill();
                set.wait_for_another(primary);
                sleep_until(until);
                set.node_mut(primary).start_again();
                replaced
            }
            Fault::StopPrimary(_) => {
                set.node(primary).pause();
                set.wait_for_another(primary);
                sleep_until(until);
                // It takes itself for the primary until the sentinels correct it.
                set.node(primary).resume();
                replaced
            }
            Fault::LosePrimary => {
                set.cut_replicas(primary);
                sleep_until(until.min(since.saturating_add(ALONE)));
                set.node_mut(primary).kill();
                set.resume_replicas(primary);
                // At once: what it granted is still held by those that it was granted to.
                set.fail_over();
                set.impostors_last(IMPOSTORS_LAST);
                sleep_until(until);
                set.node_mut(primary).start_again();
                replaced
            }
            Fault::Promote(_) => {
                set.fail_over();
                set.impostors_last(IMPOSTORS_LAST);
                replaced
            }
            Fault::KillReplica(number) => {
                let replica = replica(set, primary, number);
                set.node_mut(replica).kill();
                sleep_until(until);
                set.node_mut(replica).start_again();
                Harm::None
            }
            Fault::StopReplica(number) => {
                let replica = replica(set, primary, number);
                set.node(replica).pause();
                sleep_until(until);
                set.node(replica).resume();
                Harm::None
            }
            Fault::KillSentinel(number) => {
                set.sentinel_mut(number).kill();
                sleep_until(until);
                set.sentinel_mut(number).start_again();
                set.impostors_last(IMPOSTORS_LAST);
                Harm::None
            }
            Fault::KillSubscriptions => {
                for node in (0..set.nodes()).map(|at| set.node(at)) {
                    node.command(["CLIENT", "KILL", "TYPE", "PUBSUB"]);
                }
                Harm::None
            }
            ref other => unreachable!("{other:?} is not of sentinels"),
        };
        heal(set);
        round.record.fault(planned.fault.name(), harm, since);
    }
}

/// The replica of this number.
fn replica(set: &SentinelSet, primary: usize, number: usize) -> usize {
    let mut replicas = (0..set.nodes()).filter(|at| *at != primary);
    replicas.nth(number).expect("there are two replicas")
}

/// Waits until the primary has both of its replicas.
fn heal(set: &SentinelSet) {
    let primary = set.primary();
    for number in 0..REPLICAS {
        set.wait_for_replica(replica(set, primary, number));
    }
    set.wait_for_replicas(primary, REPLICAS);
}
