//! Runs three instances of the service on a real Redis, as three hosts would.

#![allow(clippy::print_stderr)]

mod support;

use std::path::Path;

use dlock_test_servers::RedisServer;
use support::{Entry, Instance, Metrics, leaders, ledger, received, until};

const HELD: &str = r#"dlock_held{store="redis"}"#;
const WAITING: &str = r#"dlock_waiting{store="redis"}"#;
const RUNS: &str = "report_runs_total";

fn three(store: &RedisServer, path: &Path, ttl: &str) -> Vec<Instance> {
    let start = |name| Instance::start(name, &store.url(), path, ttl);
    ["web-1", "web-2", "web-3"].into_iter().map(start).collect()
}

fn leads(metrics: &Metrics) -> bool {
    metrics.get(HELD) == Some(1.0)
}

/// Waits until one instance leads and all others wait, and takes it out of the list.
fn leader_of(instances: &mut Vec<Instance>) -> Instance {
    let place = until("a leader, and others that wait", || {
        let scraped: Vec<Metrics> = instances.iter().map(Instance::scrape).collect();
        let waits = |metrics: &&Metrics| metrics.get(WAITING) == Some(1.0);
        let waiting = scraped.iter().filter(waits).count();
        let place = scraped.iter().position(leads)?;
        assert_eq!(scraped.iter().filter(|metrics| leads(metrics)).count(), 1);
        (waiting == instances.len() - 1).then_some(place)
    });
    instances.swap_remove(place)
}

/// Waits until the job has run this many times more.
fn until_it_runs(path: &Path, times: usize) {
    let ended = || {
        ledger(path)
            .iter()
            .filter(|entry| entry.what == "end")
            .count()
    };
    let before = ended();
    until("runs of the job", || {
        (ended() >= before + times).then_some(())
    });
}

#[test]
fn one_of_three_leads_and_when_it_is_killed_another_one() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let path = folder.path().join("ledger");
    let mut instances = three(&server, &path, "10s");
    let first = leader_of(&mut instances);
    until_it_runs(&path, 3);
    assert_eq!(leaders(&ledger(&path)).len(), 1);

    first.kill();
    // When the lease has ended.
    let second = leader_of(&mut instances);
    until_it_runs(&path, 3);
    assert_eq!(leaders(&ledger(&path)).len(), 2);
    // It has waited, and has done nothing before it was granted the lock.
    let (waited, runs) = (second.scrape(), ledger(&path).len() / 2);
    assert!(
        waited.value(r#"dlock_refused_total{store="redis"}"#) >= 1.0,
        "{waited:?}"
    );
    assert!(waited.value(RUNS) < runs as f64, "{waited:?}");
}

#[test]
fn a_leader_that_is_stopped_completes_its_run_and_the_next_one_leads_at_once() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let path = folder.path().join("ledger");
    // If the next leader waited for the end of a lease, this test would fail after minutes.
    let mut instances = three(&server, &path, "1h");
    for number in 1..=3 {
        let leader = leader_of(&mut instances);
        until_it_runs(&path, 3);
        assert!(leader.terminate().success(), "leader {number}");
        let tokens = leaders(&ledger(&path));
        assert!(tokens.len() >= number, "{tokens:?}");
        let own = |entry: &Entry| entry.token == tokens[number - 1];
        let last = ledger(&path).into_iter().rfind(own);
        assert_eq!(last.map(|entry| entry.what), Some("end".to_owned()));
    }
    assert_eq!(leaders(&ledger(&path)).len(), 3);
    let keys = server.keys();
    assert!(
        !keys.contains(&"dlock:report".to_owned()),
        "it is still taken: {keys:?}"
    );
}

#[test]
fn an_instance_that_waits_is_stopped_and_the_leader_goes_on() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let path = folder.path().join("ledger");
    let mut instances = three(&server, &path, "1h");
    let leader = leader_of(&mut instances);
    let stopped = instances.pop().unwrap();
    assert!(stopped.terminate().success());
    until_it_runs(&path, 3);
    assert_eq!(leaders(&ledger(&path)).len(), 1);
    // The instance that has gone does not get the lock: the other one does.
    assert!(leader.terminate().success());
    leader_of(&mut instances);
}

#[test]
fn a_leader_that_loses_the_lock_stops_the_job_and_waits_again() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let path = folder.path().join("ledger");
    let mut instances = three(&server, &path, "9s");
    let first = leader_of(&mut instances);
    until_it_runs(&path, 3);

    // An operator breaks the lock.
    server.command(["DEL", "dlock:report"]);
    // Until the first leader notices, both may run. What it writes late is rejected, so the tokens
    // of the entries rise all the same.
    until("another leader", || {
        (leaders(&received(&path).0).len() >= 2).then_some(())
    });
    let shown = until("the first leader waits", || {
        let shown = first.scrape();
        (shown.get(WAITING) == Some(1.0)).then_some(shown)
    });
    let lost = r#"dlock_release_failed_total{store="redis",outcome="lost"}"#;
    assert_eq!(
        (shown.get(lost), shown.get(HELD)),
        (Some(1.0), Some(0.0)),
        "{shown:?}"
    );
    leaders(&received(&path).0);
}

#[test]
fn every_instance_is_healthy_and_shows_prometheus_what_it_does() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let path = folder.path().join("ledger");
    let mut instances = three(&server, &path, "9s");
    let leader = leader_of(&mut instances);
    until_it_runs(&path, 5);
    for instance in instances.iter().chain([&leader]) {
        let (status, body) = instance.page("/healthz");
        assert_eq!((&*status, &*body), ("HTTP/1.1 200 OK", "ok\n"));
        assert_eq!(instance.page("/unknown").0, "HTTP/1.1 404 Not Found");
    }

    // Its lease is renewed every three seconds.
    const LAGS: &str = r#"dlock_renewal_lag_seconds_count{store="redis"}"#;
    let shown = until("renewals", || {
        let metrics = leader.scrape();
        (metrics.get(LAGS) >= Some(2.0)).then_some(metrics)
    });
    let began = ledger(&path)
        .iter()
        .filter(|entry| entry.what == "begin")
        .count();
    let began = 1.0 + began as f64;
    assert!(
        (5.0..=began).contains(&shown.value(RUNS)),
        "{began} {shown:?}"
    );
    for (series, value) in [
        (HELD, 1.0),
        (r#"dlock_acquired_total{store="redis"}"#, 1.0),
        (
            r#"dlock_acquire_wait_seconds_count{store="redis",outcome="acquired"}"#,
            1.0,
        ),
        (
            r#"dlock_acquire_wait_seconds_bucket{store="redis",outcome="acquired",le="+Inf"}"#,
            1.0,
        ),
        (
            r#"dlock_store_call_seconds_count{store="redis",op="acquire",outcome="ok"}"#,
            1.0,
        ),
    ] {
        assert_eq!(shown.get(series), Some(value), "{series} in {shown:?}");
    }
    let lag = shown.value(r#"dlock_renewal_lag_seconds_sum{store="redis"}"#);
    assert!((0.0..9.0).contains(&(lag / shown.value(LAGS))), "{shown:?}");

    for instance in &instances {
        let shown = instance.scrape();
        assert!(
            shown.value(r#"dlock_refused_total{store="redis"}"#) >= 1.0,
            "{shown:?}"
        );
        for (series, value) in [
            (WAITING, 1.0),
            (HELD, 0.0),
            (RUNS, 0.0),
            (r#"dlock_acquired_total{store="redis"}"#, 0.0),
        ] {
            assert_eq!(shown.get(series), Some(value), "{series} in {shown:?}");
        }
    }
    // What an alarm watches is there before it happens, at zero.
    for instance in instances.iter().chain([&leader]) {
        let shown = instance.scrape();
        for name in ["lost", "at_risk", "renewal_failed"] {
            let series = format!(r#"dlock_{name}_total{{store="redis"}}"#);
            assert_eq!(shown.get(&series), Some(0.0), "{series} in {shown:?}");
        }
    }
}
