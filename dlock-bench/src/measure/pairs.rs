//! Uncontended pairs of acquire and release, compared with the cheapest requests to the same
//! server.

use std::time::Duration;

use dlock_core::{AcquireOutcome, Claim, Clock, Lease, Lock, ReleaseOutcome, Store};

use crate::Failure;
use crate::options::Options;
use crate::report::{Table, three_digits, time};
use crate::rounds::{Operation, Subject, Threads, interleaved};
use crate::series::{Series, Spread};

/// The numbers of threads, each with a lock of its own.
pub(crate) const THREADS: [usize; 3] = [1, 4, 16];
/// The time to live of every lock, dlock's default.
pub(crate) const TTL: Duration = Duration::from_secs(30);
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// The key of a thread's lock, as [`Lock`] would name it.
pub(crate) fn key(thread: usize) -> String {
    format!("dlock:job-{thread}")
}

/// A pair through `Lock::try_acquire` and `LockGuard::release`.
pub(crate) fn lock_pair(store: &Store, thread: usize) -> Operation {
    let lock = Lock::new(store, format!("job-{thread}"));
    Box::new(move || {
        lock.try_acquire()?.release()?;
        Ok(())
    })
}

/// A pair of direct calls to the store, with a fresh claim.
pub(crate) fn datastore_pair(store: &Store, thread: usize) -> Operation {
    let (store, key) = (store.clone(), key(thread));
    Box::new(move || {
        let claim = Claim::new(&*key, &Clock::BOOTTIME, CALL_TIMEOUT)?;
        let AcquireOutcome::Granted(grant) = store.datastore().acquire(&claim, TTL)? else {
            return Err("refused, though nobody holds it".into());
        };
        let lease = Lease::new(claim, grant);
        match store
            .datastore()
            .release(&lease.for_call(1, lease.not_after()))?
        {
            ReleaseOutcome::Released => Ok(()),
            _ => Err("lost, though nobody else wants it".into()),
        }
    })
}

/// Threads with such a pair each, all on one store.
pub(crate) fn of_dlock(
    name: &'static str,
    store: &Store,
    threads: usize,
    pair: fn(&Store, usize) -> Operation,
) -> Box<dyn Subject> {
    let operations = (0..threads).map(|thread| pair(store, thread));
    Box::new(Threads::new(name, operations.collect()))
}

/// Threads with an operation each that does without dlock.
pub(crate) fn by_hand<S>(
    name: &'static str,
    server: &S,
    threads: usize,
    operation: fn(&S, usize) -> Result<Operation, Failure>,
) -> Result<Box<dyn Subject>, Failure> {
    let operations = (0..threads).map(|thread| operation(server, thread));
    let operations = operations.collect::<Result<_, Failure>>()?;
    Ok(Box::new(Threads::new(name, operations)))
}

/// Lets the subjects take turns, and makes a table of times, rates, and ratios to the named
/// subjects. The ratios are of times for one thread, and of rates for several.
pub(crate) fn table(
    caption: &str,
    options: &Options,
    mut subjects: Vec<Box<dyn Subject + '_>>,
    threads: usize,
    bases: &[&str],
) -> Result<Table, Failure> {
    let series = interleaved(&mut subjects, options.rounds(), options.turn())?;
    let bases = series
        .iter()
        .filter(|series| bases.contains(&&*series.name));
    let bases: Vec<&Series> = bases.collect();
    let (what, ratio): (_, fn(&Series, &Series) -> Spread) = match threads {
        1 => ("time", Series::latency_ratio),
        _ => ("rate", Series::rate_ratio),
    };
    let mut head = ["", "median", "p99", "per second"]
        .map(str::to_owned)
        .to_vec();
    head.extend(bases.iter().map(|base| format!("{what} / {}", base.name)));
    let row = |series: &Series| {
        let mut row = vec![
            series.name.clone(),
            time(series.quantile(0.5)),
            time(series.quantile(0.99)),
            three_digits(series.rate()),
        ];
        row.extend(bases.iter().map(|base| ratio(series, base).to_string()));
        row
    };
    Ok(Table {
        caption: format!(
            "{caption}, {threads} thread{}",
            if threads == 1 { "" } else { "s" }
        ),
        head,
        rows: series.iter().map(row).collect(),
    })
}
