use super::*;
use std::collections::BTreeSet;

const LASTS: Duration = Duration::from_secs(20);

#[test]
fn the_same_seed_plans_the_same() {
    let plan = |seed| Plan::draw(seed, Backend::Redis, 3, LASTS, 5);
    assert_eq!(plan(7), plan(7));
    assert_ne!(plan(7), plan(8));
}

#[test]
fn every_fault_is_planned_at_some_point_and_ends_in_time() {
    let mut seen = BTreeSet::new();
    for round in 0..100 {
        for backend in Backend::ALL.into_iter().chain(Backend::OTHERS) {
            let plan = Plan::draw(1, backend, round, LASTS, 5);
            for planned in plan.all() {
                assert!(planned.at + planned.lasts <= LASTS, "{planned}");
                seen.insert(planned.fault.name());
            }
        }
    }
    assert_eq!(seen.len(), 46, "{seen:?}");
}

#[test]
fn no_round_loses_data_and_sets_the_clock_back() {
    for round in 0..200 {
        let plan = Plan::draw(1, Backend::Redis, round, LASTS, 5);
        let has = |names: &[&str]| {
            plan.server
                .iter()
                .any(|planned| names.contains(&planned.fault.name()))
        };
        let loses = ["flush", "kill-server-empty", "old-file", "old-queue"];
        assert!(!(has(&loses) && has(&["clock-back"])));
        assert!(!(has(&["foreign-set", "foreign-delete"]) && has(&["clock-back"])));
    }
}

#[test]
fn a_cluster_replaces_primaries_without_their_agreement_only_where_data_may_be_lost() {
    let plans = (0..200).map(|round| Plan::draw(1, Backend::Cluster, round, LASTS, 5));
    let (mut lossy, mut whole) = (0, 0);
    for plan in plans {
        let names: BTreeSet<_> = plan.server.iter().map(|it| it.fault.name()).collect();
        let loses = names.contains("kill-primary") || names.contains("stop-primary");
        match loses {
            true => lossy += 1,
            false => whole += 1,
        }
        assert!(plan.network.is_empty());
    }
    assert!(lossy > 50 && whole > 80, "{lossy} {whole}");
}

/// In every round of the other, since both replicas have each grant.
#[test]
fn sentinels_replace_primaries_only_where_data_may_be_lost_or_replicas_have_it() {
    let replace = ["kill-primary", "stop-primary", "lose-primary", "promote"];
    let rounds_with = |backend| {
        let plans = (0..200).map(|round| Plan::draw(1, backend, round, LASTS, 5));
        let replaces = |plan: &Plan| {
            let mut names = plan.server.iter().map(|it| it.fault.name());
            names.any(|name| replace.contains(&name))
        };
        plans.filter(replaces).count()
    };
    let some = rounds_with(Backend::Sentinel);
    assert!((50..120).contains(&some), "{some}");
    assert!(rounds_with(Backend::SentinelReplicas) > 150);
}

/// What a primary has granted with its synchronous standby's agreement is not lost.
#[test]
fn a_pair_loses_grants_only_where_commits_do_not_wait_for_the_standby() {
    let plans = (0..200).map(|round| Plan::draw(1, Backend::PostgresStandby, round, LASTS, 5));
    let (mut lossy, mut replaced) = (0, 0);
    for plan in plans {
        let names: BTreeSet<_> = plan.server.iter().map(|it| it.fault.name()).collect();
        lossy += u32::from(names.contains("lose-primary"));
        replaced += u32::from(names.contains("kill-primary") || names.contains("stop-primary"));
        assert!(plan.network.is_empty());
    }
    assert!((20..120).contains(&lossy), "{lossy}");
    assert!(replaced > 150, "{replaced}");
}

#[test]
fn postgres_and_etcd_have_no_fault_that_loses_data() {
    for backend in [Backend::Postgres, Backend::Etcd, Backend::EtcdCluster] {
        for round in 0..100 {
            let plan = Plan::draw(1, backend, round, LASTS, 5);
            assert!(!plan.network.is_empty() || !plan.server.is_empty());
            let mut names = plan.server.iter().map(|it| it.fault.name());
            let loses = ["kill-server-empty", "lose-primary", "flush"];
            assert!(!names.any(|name| loses.contains(&name)), "{plan:?}");
        }
    }
}

#[test]
fn a_clock_that_is_set_back_has_caught_up_when_the_faults_are_over() {
    for round in 0..200 {
        let plan = Plan::draw(1, Backend::Redis, round, LASTS, 5);
        for planned in plan.server {
            if let Fault::ClockBack(by) = planned.fault {
                assert!(planned.at + by <= LASTS, "{planned:?}");
            }
        }
    }
}
