//! Many tasks that make pairs on one runtime, each with a lock of its own.
//!
//! This file is also part of the programs of the peers, so it knows nothing of dlock.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::Failure;

/// One pair by the task of this number.
pub(crate) type Pair = Arc<dyn Fn(usize) -> Running + Send + Sync>;
pub(crate) type Running = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// A kind of runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    CurrentThread,
    TwoWorkers,
}

impl Kind {
    pub(crate) const ALL: [Kind; 2] = [Kind::CurrentThread, Kind::TwoWorkers];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::CurrentThread => "one thread",
            Kind::TwoWorkers => "two worker threads",
        }
    }

    pub(crate) fn of_name(name: &str) -> Result<Self, Failure> {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        kind.ok_or_else(|| format!("no kind of runtime is called {name:?}").into())
    }

    pub(crate) fn build(self) -> Result<Runtime, Failure> {
        let mut builder = match self {
            Kind::CurrentThread => Builder::new_current_thread(),
            Kind::TwoWorkers => Builder::new_multi_thread(),
        };
        if let Kind::TwoWorkers = self {
            builder.worker_threads(2);
        }
        Ok(builder.enable_all().build()?)
    }
}

/// What one turn was, in the process that made it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count {
    pub(crate) pairs: u64,
    pub(crate) elapsed: Duration,
    /// How long the process, with all its threads, ran on a core.
    pub(crate) client: Duration,
}

/// Lets this number of tasks make pairs for about this long.
pub(crate) fn pairs(
    runtime: &Runtime,
    pair: &Pair,
    tasks: usize,
    lasts: Duration,
) -> Result<Count, Failure> {
    let count = Arc::new(AtomicU64::new(0));
    let client = process_time();
    let start = Instant::now();
    let end = start + lasts;
    let all = async {
        let mut running = JoinSet::new();
        for task in 0..tasks {
            let (pair, count) = (Arc::clone(pair), Arc::clone(&count));
            // As in a service: on a worker, not on the thread that waits for it.
            running.spawn(async move {
                while Instant::now() < end {
                    pair(task).await?;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), Failure>(())
            });
        }
        while let Some(task) = running.join_next().await {
            task??;
        }
        Ok::<(), Failure>(())
    };
    runtime.block_on(all)?;
    Ok(Count {
        pairs: count.load(Ordering::Relaxed),
        elapsed: start.elapsed(),
        client: process_time() - client,
    })
}

/// How long this process, with all its threads, has run on a core so far.
pub(crate) fn process_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}
