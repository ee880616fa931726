//! Measures how long after the end of a crashed holder's lease a waiter takes over.

use std::thread;
use std::time::Duration;

use dlock_core::{AcquireError, Lock};

use crate::Failure;
use crate::bench::Bench;
use crate::competitor;
use crate::contender::now;
use crate::contenders::Contenders;
use crate::cores::Cores;
use crate::entry::Entry;
use crate::report::{Section, Table, time};
use crate::series::quantile_of;

const TTL: Duration = Duration::from_secs(1);
const AN_HOUR: Duration = Duration::from_secs(3600);
/// A busy machine asks late now and then.
const TRIES: u32 = 20;

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let cores = Cores::both()?;
    let cores = *cores.last().ok_or("no core to run on")?;
    let entries = bench.entries()?;
    for entry in entries {
        entry.servers.pin(cores)?;
    }
    let mut late: Vec<Vec<f64>> = entries.iter().map(|_| Vec::new()).collect();
    for trial in 0..options.either(8, 1) {
        for (entry, late) in entries.iter().zip(&mut late) {
            late.push(one_crash(cores, entry, trial)?);
        }
    }
    let row = |(entry, late): (&Entry, &Vec<f64>)| {
        let at = |at| time(quantile_of(late.clone(), at));
        vec![entry.competitor.name.to_owned(), at(0.0), at(0.5), at(1.0)]
    };
    Ok(Section {
        title: "A crashed holder".to_owned(),
        text: format!(
            "The holder is killed (SIGKILL); its lease is {TTL:?}. The time counts from the lease's end, as the store \
             reports it right after the kill, to the return of the waiter's acquire. memcached reports only whole \
             seconds, rounded up."
        ),
        tables: vec![Table {
            caption: format!("Take-over after the end of the lease, {}", cores.name),
            head: ["", "soonest", "median", "latest"]
                .map(str::to_owned)
                .to_vec(),
            rows: entries.iter().zip(&late).map(row).collect(),
        }],
        ..Section::default()
    })
}

/// The time between the end of the lease and the take-over, in nanoseconds.
fn one_crash(cores: Cores, entry: &Entry, trial: u32) -> Result<f64, Failure> {
    for _ in 0..TRIES {
        if let Some(late) = one_try(cores, entry, trial)? {
            return Ok(late);
        }
    }
    Err("the lease is always over before the store is asked for its end".into())
}

/// The same; `None` if the lease was over before the store was asked for its end.
fn one_try(cores: Cores, entry: &Entry, trial: u32) -> Result<Option<f64>, Failure> {
    let Entry {
        competitor,
        servers,
    } = entry;
    let start = || Contenders::start(competitor, &servers.url(), &[1, 1], TTL);
    let mut contenders = cores.on_client(start)?;
    let [holder, waiter] = contenders.all[..] else {
        return Err("there are not exactly two contenders".into());
    };
    contenders.send(holder, AN_HOUR)?;
    contenders.granted()?;
    contenders.send(waiter, Duration::ZERO)?;
    // A moment between two polls, well after the grant.
    thread::sleep(Duration::from_millis(300 + 37 * u64::from(trial)));
    contenders.kill(holder.process)?;
    let lock = Lock::new(competitor::open(&servers.url())?, &*contenders.id);
    let asked = now();
    let left = match lock.try_acquire() {
        Err(AcquireError::Held(held)) => held.expires_in(),
        Ok(_) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let left = left.ok_or("the lease does not expire")?;
    let (_, granted) = contenders.granted()?;
    let late = i128::from(granted) - i128::from(asked) - i128::try_from(left.as_nanos())?;
    #[allow(clippy::cast_precision_loss)]
    Ok(Some(late as f64))
}
