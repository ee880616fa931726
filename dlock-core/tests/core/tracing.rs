//! The spans of an acquire, a release and a renewal.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dlock_core::{Lock, MemoryDatastore, Store};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// A span that was closed: its name, its parent's name, its fields as text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Closed {
    name: &'static str,
    parent: Option<&'static str>,
    fields: BTreeMap<&'static str, String>,
}

#[derive(Clone)]
struct Recorder {
    most: Level,
    closed: Arc<Mutex<Vec<Closed>>>,
}

struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.most
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields(BTreeMap::new());
        attributes.record(&mut fields);
        let span = context.span(id).expect("it is open");
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).expect("it is open");
        values.record(
            span.extensions_mut()
                .get_mut::<Fields>()
                .expect("every span has them"),
        );
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).expect("it is open");
        let fields = span
            .extensions_mut()
            .remove::<Fields>()
            .expect("every span has them");
        self.closed.lock().expect("whole").push(Closed {
            name: span.name(),
            parent: span.parent().map(|parent| parent.name()),
            fields: fields.0,
        });
    }
}

/// The spans that `test` closes on this thread, down to this level.
fn traced(most: Level, test: impl FnOnce()) -> Vec<Closed> {
    let closed = Arc::<Mutex<Vec<Closed>>>::default();
    let recorder = Recorder {
        most,
        closed: Arc::clone(&closed),
    };
    let subscriber = tracing_subscriber::registry().with(recorder);
    tracing::subscriber::with_default(subscriber, test);
    Arc::try_unwrap(closed)
        .expect("the subscriber is gone")
        .into_inner()
        .expect("whole")
}

fn store() -> Store {
    Store::builder(MemoryDatastore::new())
        .name("memory-1")
        .build()
}

#[test]
fn a_pair_has_two_spans_with_what_came_of_it() {
    let spans = traced(Level::INFO, || {
        let guard = Lock::new(store(), "import").try_acquire().unwrap();
        guard.release().unwrap();
    });
    let [acquire, release] = &spans[..] else {
        panic!("{spans:?}");
    };
    assert_eq!(acquire.name, "dlock.acquire");
    for (field, value) in [
        ("key", "dlock:import"),
        ("store", "memory-1"),
        ("attempts", "1"),
        ("outcome", "acquired"),
        ("fence", "1"),
    ] {
        assert_eq!(acquire.fields[field], value, "{acquire:?}");
    }
    assert!(acquire.fields.contains_key("waited_ms"));
    assert_eq!(release.name, "dlock.release");
    for (field, value) in [
        ("key", "dlock:import"),
        ("store", "memory-1"),
        ("outcome", "released"),
    ] {
        assert_eq!(release.fields[field], value, "{release:?}");
    }
    assert!(release.fields.contains_key("held_ms"));
}

#[test]
fn a_refused_wait_says_how_often_it_tried() {
    let store = store();
    let lock = Lock::new(&store, "import");
    let _guard = lock.try_acquire().unwrap();
    let spans = traced(Level::INFO, || {
        lock.acquire_within(Duration::from_secs(4)).unwrap_err();
    });
    let [acquire] = &spans[..] else {
        panic!("{spans:?}");
    };
    assert_eq!(acquire.fields["outcome"], "held");
    assert!(
        acquire.fields["attempts"].parse::<u64>().unwrap() >= 2,
        "{acquire:?}"
    );
    assert!(!acquire.fields.contains_key("fence"));
}

#[test]
fn calls_to_the_store_are_children_at_the_lowest_level() {
    let spans = traced(Level::TRACE, || {
        drop(Lock::new(store(), "import").try_acquire().unwrap());
    });
    let calls: Vec<_> = spans
        .iter()
        .filter(|span| span.name == "dlock.call")
        .map(|span| (span.fields["op"].as_str(), span.parent))
        .collect();
    assert_eq!(
        calls,
        [
            ("acquire", Some("dlock.acquire")),
            ("release", Some("dlock.release"))
        ]
    );
}

#[test]
fn a_span_of_the_caller_gets_no_fields_of_ours() {
    let spans = traced(Level::INFO, || {
        let span = tracing::info_span!("job", attempts = tracing::field::Empty);
        span.in_scope(|| drop(Lock::new(store(), "import").try_acquire().unwrap()));
    });
    let job = spans.iter().find(|span| span.name == "job").unwrap();
    assert!(job.fields.is_empty(), "{job:?}");
    assert!(
        spans
            .iter()
            .filter(|span| span.name != "job")
            .all(|span| span.parent == Some("job"))
    );
}

#[test]
fn a_disabled_acquire_leaves_a_field_of_the_callers_span_alone() {
    let spans = traced(Level::ERROR, || {
        let span = tracing::error_span!("job", attempts = tracing::field::Empty);
        span.in_scope(|| {
            drop(Lock::new(store(), "import").try_acquire().unwrap());
        });
    });
    let [job] = &spans[..] else {
        panic!("{spans:?}");
    };
    assert!(job.fields.is_empty(), "{job:?}");
}
