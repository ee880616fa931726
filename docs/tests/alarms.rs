//! The metrics and the alarms on the page are those that an observer really records.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use dlock_core::metrics::MetricsObserver;
use dlock_core::{
    Datastore, DatastoreError, ErrorKind, Extension, Layer, Layered, Lease, Lock, LockOptions,
    MemoryDatastore, Store,
};
use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

/// A store that cannot be reached by renewals once this is set.
static CUT: AtomicBool = AtomicBool::new(false);

struct CutOff;

impl Layer for CutOff {
    fn extend_many(
        &self,
        store: &dyn Datastore,
        leases: &[(Lease, Duration)],
    ) -> Vec<Result<Extension, DatastoreError>> {
        let cut = || Err(DatastoreError::not_executed(ErrorKind::Unreachable, "cut"));
        match CUT.load(Ordering::Relaxed) {
            true => leases.iter().map(|_| cut()).collect(),
            false => store.extend_many(leases),
        }
    }
}

/// A metric: what it is, and the values that its labels had.
#[derive(Debug)]
struct Metric {
    kind: &'static str,
    labels: BTreeMap<String, BTreeSet<String>>,
}

type Metrics = BTreeMap<String, Metric>;

/// Adds what was recorded since the last call, but for counters that count nothing.
fn collect(snapshotter: &Snapshotter, metrics: &mut Metrics) {
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        if matches!(value, DebugValue::Counter(0)) {
            continue;
        }
        let kind = match key.kind() {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let name = key.key().name().to_owned();
        let labels = BTreeMap::new();
        let metric = metrics.entry(name).or_insert(Metric { kind, labels });
        for label in key.key().labels() {
            let values = metric.labels.entry(label.key().to_owned()).or_default();
            values.insert(label.value().to_owned());
        }
    }
}

/// Everything that can happen to a lock.
fn recorded() -> Metrics {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    recorder.install().expect("the only recorder");
    let store = Store::builder(Layered::new(MemoryDatastore::new(), CutOff))
        .observer(MetricsObserver::new("memory"))
        .build();
    let options = LockOptions::builder().ttl(Duration::from_secs(3));
    let lock = Lock::with_options(&store, "import", options).expect("valid options");

    let guard = lock.try_acquire().expect("it is free");
    lock.try_acquire().expect_err("it is held");
    lock.acquire_within(Duration::from_millis(20))
        .expect_err("it is held");
    let mut metrics = Metrics::new();
    let mut until = |name: &str| {
        let start = Instant::now();
        while !metrics.contains_key(name) {
            assert!(
                start.elapsed() < Duration::from_secs(120),
                "no {name}: {metrics:?}"
            );
            sleep(Duration::from_millis(10));
            collect(&snapshotter, &mut metrics);
        }
    };
    until("dlock_renewal_lag_seconds");
    CUT.store(true, Ordering::Relaxed);
    for name in ["renewal_failed", "at_risk", "lost"] {
        until(&format!("dlock_{name}_total"));
    }
    guard.release().expect_err("it is lost");
    CUT.store(false, Ordering::Relaxed);
    for _ in 0..2 {
        let day = Duration::from_secs(86_400);
        let done = lock.once("today", day, |_| Ok::<(), ()>(()));
        done.expect("the lock is free").expect("the job succeeds");
    }
    collect(&snapshotter, &mut metrics);
    metrics
}

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/metrics.md");
    fs::read_to_string(path).expect("the page")
}

/// The cells of the rows below this head.
fn rows<'a>(page: &'a str, head: &str) -> Vec<Vec<&'a str>> {
    let (_, table) = page.split_once(head).expect("the table");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The names of dlock's metrics in a query, each with what follows it.
fn names(query: &str) -> Vec<(&str, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = query.match_indices("dlock_").map(|(at, _)| at);
    let split = |at: usize| {
        let name = &query[at..];
        name.split_at(name.find(|c| !is_part(c)).unwrap_or(name.len()))
    };
    starts.map(split).collect()
}

/// The labels that a query selects by: `{outcome="acquired"}`.
fn selected(rest: &str) -> Vec<(&str, &str)> {
    let Some((inside, _)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        return Vec::new();
    };
    let pairs = inside
        .split(',')
        .map(|pair| pair.split_once('=').expect("a label"));
    pairs
        .map(|(label, value)| (label.trim(), value.trim_matches('"')))
        .collect()
}

/// The labels that a query adds up by: `by (store, le)`.
fn grouped(query: &str) -> Vec<&str> {
    let groups = query.split("by (").skip(1);
    let inside = groups.map(|rest| rest.split(')').next().unwrap_or_default());
    inside.flat_map(|labels| labels.split(", ")).collect()
}

/// Checks that each value that a label had is one of those on the page.
fn check_values(page: &str, metrics: &Metrics) {
    let listed = rows(page, "| label | values |");
    for (name, metric) in metrics {
        for (label, values) in &metric.labels {
            if label == "store" {
                continue;
            }
            let row = listed.iter().find(|row| {
                let words: Vec<_> = quoted(row[0]).collect();
                words[0] == label && words.get(1).is_none_or(|of| of == name)
            });
            let row = row.unwrap_or_else(|| panic!("no values of {label} of {name}"));
            let known: BTreeSet<&str> = quoted(row[1]).collect();
            for value in values {
                assert!(known.contains(&**value), "{name}: {label}={value}");
            }
        }
    }
}

/// The names of metrics in the sources that record them.
fn names_in_sources(path: &str) -> BTreeSet<String> {
    let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    let code = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let is_name = |text: &&str| {
        let is_part = |b: u8| b.is_ascii_lowercase() || b == b'_';
        text.starts_with("dlock_") && text.bytes().all(is_part)
    };
    code.split('"').filter(is_name).map(str::to_owned).collect()
}

/// A metric that no event of the test above records is found here.
#[test]
fn the_names_of_the_metrics_in_the_sources_are_those_on_the_pages() {
    let metrics = page();
    let table = rows(&metrics, "| name | kind | other labels | when it moves |");
    let listed: BTreeSet<String> = table
        .iter()
        .flat_map(|row| quoted(row[0]).map(str::to_owned))
        .collect();
    assert_eq!(names_in_sources("dlock-core/src/metrics.rs"), listed);

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/command.md");
    let command = fs::read_to_string(path).expect("the page");
    let figures: BTreeSet<String> = rows(&command, "| figure | |")
        .iter()
        .flat_map(|row| quoted(row[0]).map(str::to_owned))
        .collect();
    let written = names_in_sources("dlock-cli/src/metrics_file.rs");
    assert_eq!(written, figures);
    let alarms = rows(&metrics, "| alarm | PromQL |");
    assert!(alarms.len() > 1, "{alarms:?}");
    for alarm in alarms {
        for (name, _) in names(alarm[1]) {
            assert!(figures.contains(name), "{name}");
        }
    }
}

#[test]
fn the_metrics_and_the_alarms_of_the_page_are_those_that_are_recorded() {
    let (metrics, page) = (recorded(), page());

    let listed: Vec<_> = rows(&page, "| name | kind | other labels | when it moves |")
        .into_iter()
        .map(|row| {
            let labels: BTreeSet<&str> = quoted(row[2]).collect();
            (quoted(row[0]).next().expect("a name"), row[1], labels)
        })
        .collect();
    let recorded: BTreeSet<_> = metrics
        .iter()
        .map(|(name, metric)| {
            let mut labels: BTreeSet<&str> = metric.labels.keys().map(String::as_str).collect();
            assert!(labels.remove("store"), "{name} has no label `store`");
            (name.as_str(), metric.kind, labels)
        })
        .collect();
    assert_eq!(listed.len(), recorded.len(), "a metric is listed twice");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), recorded);
    check_values(&page, &metrics);

    let alarms = rows(&page, "| alarm | PromQL | means |");
    assert!(alarms.len() > 8, "{alarms:?}");
    for alarm in alarms {
        let query = quoted(alarm[1]).next().expect("a query");
        let names = names(query);
        assert!(!names.is_empty(), "{query}");
        for (name, rest) in names {
            // Prometheus shows a histogram with buckets as three series.
            let base = ["_bucket", "_count", "_sum"]
                .into_iter()
                .find_map(|part| name.strip_suffix(part));
            let metric = &metrics
                .get(base.unwrap_or(name))
                .unwrap_or_else(|| panic!("no {name}: {query}"));
            assert_eq!(
                base.is_some(),
                metric.kind == "histogram",
                "{name}: {query}"
            );
            let selected = selected(rest);
            for (label, value) in &selected {
                assert!(metric.labels[*label].contains(*value), "{label}: {query}");
            }
            let rest = &rest[rest.find('}').map_or(0, |end| end + 1)..];
            assert_eq!(
                rest.starts_with('['),
                metric.kind != "gauge" && !query.starts_with("absent"),
                "{query}"
            );
            for label in grouped(query) {
                let is_bucket = label == "le" && name.ends_with("_bucket");
                assert!(
                    is_bucket || metric.labels.contains_key(label),
                    "{label}: {query}"
                );
            }
        }
    }
}
