//! Spans for the `tracing` crate, with the feature of that name; nothing without it.
//!
//! Both faces of the library open the spans where they begin a flow, so every store has them:
//!
//! | span | level | fields |
//! | --- | --- | --- |
//! | `dlock.acquire` | INFO | `key`, `store`, `attempts`, `waited_ms`, `outcome`, `fence` |
//! | `dlock.release` | INFO | `key`, `store`, `held_ms`, `outcome` |
//! | `dlock.renew` | DEBUG | `store`, `count`: a batch of renewals |
//! | `dlock.call` | TRACE | `op`: one call to the store, inside of the others |
//!
//! The time for which a lock is held is a field of its release and not a span: a span that stays
//! open for hours would be the parent of everything that the job does.
//!
//! A subscriber that panics loses its span, and changes nothing for the lock.

#[cfg(all(feature = "tracing", feature = "tokio"))]
pub(crate) use on::CallSpan;
#[cfg(feature = "tracing")]
pub(crate) use on::{AcquireSpan, ReleaseSpan, call, record_attempts, renew};

#[cfg(all(not(feature = "tracing"), feature = "tokio"))]
pub(crate) use off::CallSpan;
#[cfg(not(feature = "tracing"))]
pub(crate) use off::{AcquireSpan, ReleaseSpan, call, record_attempts, renew};

#[cfg(feature = "tracing")]
mod on {
    use std::mem::replace;
    use std::time::Duration;

    use tracing::field::{Empty, Value};
    use tracing::span::{Entered, EnteredSpan};
    use tracing::{Span, debug_span, info_span, trace_span};

    use crate::acquire_error::{AcquireError, ReleaseError};
    use crate::contract::grant::FencingToken;
    use crate::observer::Operation;
    use crate::outcome_word::{of_acquire, of_release};
    use crate::time::clock::Clock;
    use crate::time::instant::Time;
    use crate::time::user_code::contained;

    const ACQUIRE: &str = "dlock.acquire";

    /// A span whose subscriber, which is code of the user, may panic at each step: the flow inside
    /// goes on.
    struct Contained(Span);

    impl Contained {
        fn new(make: impl FnOnce() -> Span) -> Self {
            let mut span = Span::none();
            contained(|| span = make());
            Contained(span)
        }

        fn in_scope<T>(&self, flow: impl FnOnce() -> T) -> T {
            let _entered = ContainedEntry::new(&self.0);
            flow()
        }

        fn record(&self, field: &str, value: impl Value) {
            contained(|| {
                self.0.record(field, value);
            });
        }

        fn entered(mut self) -> ContainedScope {
            let mut scope = None;
            contained(|| scope = Some(replace(&mut self.0, Span::none()).entered()));
            ContainedScope(scope)
        }
    }

    impl Drop for Contained {
        fn drop(&mut self) {
            contained(|| drop(replace(&mut self.0, Span::none())));
        }
    }

    /// The thread is in a span until this is dropped.
    struct ContainedEntry<'a>(Option<Entered<'a>>);

    impl<'a> ContainedEntry<'a> {
        fn new(span: &'a Span) -> Self {
            let mut entered = None;
            contained(|| entered = Some(span.enter()));
            ContainedEntry(entered)
        }
    }

    impl Drop for ContainedEntry<'_> {
        fn drop(&mut self) {
            contained(|| drop(self.0.take()));
        }
    }

    /// The thread is in a span of its own until this is dropped.
    pub(crate) struct ContainedScope(Option<EnteredSpan>);

    impl Drop for ContainedScope {
        fn drop(&mut self) {
            contained(|| drop(self.0.take()));
        }
    }

    /// The span of one acquire.
    pub(crate) struct AcquireSpan {
        span: Contained,
        clock: Clock,
        start: Time,
    }

    impl AcquireSpan {
        pub(crate) fn new(store: &str, key: &str, clock: &Clock) -> Self {
            let span = || {
                info_span!(
                    "dlock.acquire",
                    key,
                    store,
                    attempts = Empty,
                    waited_ms = Empty,
                    outcome = Empty,
                    fence = Empty
                )
            };
            AcquireSpan {
                span: Contained::new(span),
                clock: clock.clone(),
                start: clock.now(),
            }
        }

        pub(crate) fn in_scope<T>(&self, flow: impl FnOnce() -> T) -> T {
            self.span.in_scope(flow)
        }

        /// Records how the acquire ended.
        pub(crate) fn end(&self, outcome: Result<Option<FencingToken>, &AcquireError>) {
            let waited = self.start.until(self.clock.now());
            self.span.record("waited_ms", millis(waited));
            self.span
                .record("outcome", of_acquire(outcome.as_ref().err().copied()));
            if let Ok(Some(fence)) = outcome {
                self.span.record("fence", fence.get());
            }
        }
    }

    /// The span of one release.
    pub(crate) struct ReleaseSpan(Contained);

    impl ReleaseSpan {
        pub(crate) fn new(store: &str, key: &str) -> Self {
            ReleaseSpan(Contained::new(|| {
                info_span!(
                    "dlock.release",
                    key,
                    store,
                    held_ms = Empty,
                    outcome = Empty
                )
            }))
        }

        pub(crate) fn in_scope<T>(&self, flow: impl FnOnce() -> T) -> T {
            self.0.in_scope(flow)
        }

        /// Records how the release ended.
        pub(crate) fn end(
            &self,
            held: impl FnOnce() -> Duration,
            outcome: Result<(), &ReleaseError>,
        ) {
            self.0.record("held_ms", millis(held()));
            self.0.record("outcome", of_release(outcome.err()));
        }
    }

    /// Opens the span of a batch of renewals, until the answer is dropped.
    pub(crate) fn renew(store: &str, count: usize) -> ContainedScope {
        Contained::new(|| debug_span!("dlock.renew", store, count)).entered()
    }

    /// The span of an async call to the store, inside of that of a batch of renewals if it is one.
    #[cfg(feature = "tokio")]
    pub(crate) struct CallSpan(Contained);

    #[cfg(feature = "tokio")]
    impl CallSpan {
        pub(crate) fn new(operation: Operation, batch: Option<(&str, usize)>) -> Self {
            let inner = || CallSpan(of_call(operation));
            match batch {
                Some((store, count)) => {
                    Contained::new(|| debug_span!("dlock.renew", store, count)).in_scope(inner)
                }
                None => inner(),
            }
        }

        pub(crate) fn in_scope<T>(&self, call: impl FnOnce() -> T) -> T {
            self.0.in_scope(call)
        }
    }

    /// Opens the span of a call to the store, until the answer is dropped.
    pub(crate) fn call(operation: Operation) -> ContainedScope {
        of_call(operation).entered()
    }

    fn of_call(operation: Operation) -> Contained {
        Contained::new(|| trace_span!("dlock.call", op = operation.name()))
    }

    /// Records how many claims an acquire took, on the span in which its flow runs.
    pub(crate) fn record_attempts(attempts: u64) {
        let span = Contained::new(Span::current);
        // Not on a span of the caller, if that of the acquire is disabled.
        let name = span.0.metadata().map(tracing::Metadata::name);
        if name == Some(ACQUIRE) {
            span.record("attempts", attempts);
        }
    }

    fn millis(time: Duration) -> u64 {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    use std::time::Duration;

    use crate::acquire_error::{AcquireError, ReleaseError};
    use crate::contract::grant::FencingToken;
    use crate::observer::Operation;
    use crate::time::clock::Clock;

    pub(crate) struct AcquireSpan;

    impl AcquireSpan {
        #[inline(always)]
        pub(crate) fn new(_: &str, _: &str, _: &Clock) -> Self {
            AcquireSpan
        }

        #[inline(always)]
        pub(crate) fn in_scope<T>(&self, flow: impl FnOnce() -> T) -> T {
            flow()
        }

        #[inline(always)]
        pub(crate) fn end(&self, _: Result<Option<FencingToken>, &AcquireError>) {}
    }

    pub(crate) struct ReleaseSpan;

    impl ReleaseSpan {
        #[inline(always)]
        pub(crate) fn new(_: &str, _: &str) -> Self {
            ReleaseSpan
        }

        #[inline(always)]
        pub(crate) fn in_scope<T>(&self, flow: impl FnOnce() -> T) -> T {
            flow()
        }

        #[inline(always)]
        pub(crate) fn end(&self, _: impl FnOnce() -> Duration, _: Result<(), &ReleaseError>) {}
    }

    #[cfg(feature = "tokio")]
    pub(crate) struct CallSpan;

    #[cfg(feature = "tokio")]
    impl CallSpan {
        #[inline(always)]
        pub(crate) fn new(_: Operation, _: Option<(&str, usize)>) -> Self {
            CallSpan
        }

        #[inline(always)]
        pub(crate) fn in_scope<T>(&self, call: impl FnOnce() -> T) -> T {
            call()
        }
    }

    pub(crate) struct NoSpan;

    #[inline(always)]
    pub(crate) fn renew(_: &str, _: usize) -> NoSpan {
        NoSpan
    }

    #[inline(always)]
    pub(crate) fn call(_: Operation) -> NoSpan {
        NoSpan
    }

    #[inline(always)]
    pub(crate) fn record_attempts(_: u64) {}
}
