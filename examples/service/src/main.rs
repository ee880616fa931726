//! A service of which any number of instances run, and exactly one of them runs a periodic job.
//!
//! ```sh
//! LEDGER=/tmp/ledger cargo run -p dlock-example-service                      # in one terminal
//! LEDGER=/tmp/ledger LISTEN=127.0.0.1:8081 cargo run -p dlock-example-service # in another
//! curl http://127.0.0.1:8080/metrics
//! ```
//!
//! One instance is the leader: it holds the lock `report` and runs the job. The others wait for the
//! lock, and serve requests meanwhile.
//!
//! - The leader is killed, or its host fails: its lease ends after `TTL` at the latest, and another
//!   instance leads.
//! - The leader gets SIGTERM, as in a rolling update: it completes the run of the job that it is
//!   in, releases the lock, and another instance leads at once.
//! - The leader cannot reach Redis for so long that its lease ends: it stops the job, and waits for
//!   the lock again.
//! - The leader is paused, and continues after its lease has ended: the resource that the job
//!   writes to rejects it, because it has received a higher fencing token.
//!
//! `leader.rs` has the lock, `ledger.rs` the guarded resource, `pages.rs` what is served.

#![forbid(unsafe_code)]
#![allow(clippy::print_stderr)]

mod config;
mod leader;
mod ledger;
mod pages;

use dlock_core::aio::{Lock, Store};
use dlock_core::metrics::MetricsObserver;
use dlock_redis::RedisDatastore;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use config::Config;
use leader::Leader;
use ledger::Ledger;

/// Any error ends the service with a message.
type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome {
    let config = Config::from_environment()?;

    // The recorder comes first: the observer lets its counters begin at zero when it is made.
    let metrics = pages::record_metrics()?;
    let store = Store::builder(RedisDatastore::open(&config.store)?)
        .observer(MetricsObserver::new("redis"))
        .build();
    let lock = Lock::with_options(&store, "report", config.lock_options())?;

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(&config.listen).await?;
    eprintln!("listens on {}", listener.local_addr()?);

    // `true` when the service has to stop; each task has a receiver.
    let (stop, stopped) = watch::channel(false);
    let leader = Leader::new(lock, Ledger::at(&config.ledger), config.period);
    let mut tasks = JoinSet::new();
    tasks.spawn(leader.run(stopped.clone()));
    tasks.spawn(pages::serve(listener, metrics, stopped));

    let mut result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        // A task that ends by itself has failed. An instance that serves and can never lead again
        // would go unnoticed, so the whole service ends, for a supervisor to start it again.
        Some(ended) = tasks.join_next() => outcome_of(ended),
    };
    eprintln!("stops");
    // The tasks that use locks end first. Then `settled` waits for what their guards have left to
    // do, so that no release is lost and no key stays taken.
    stop.send_replace(true);
    while let Some(ended) = tasks.join_next().await {
        result = result.and(outcome_of(ended));
    }
    store.settled().await;
    result
}

/// The error of a task, or that it panicked.
fn outcome_of(ended: Result<Outcome, JoinError>) -> Outcome {
    ended?
}
