//! How long after the end of a crashed holder's lease a waiter takes over.

use std::thread;
use std::time::Duration;

use dlock_core::{AcquireError, Lock};

use crate::Failure;
use crate::bench::Bench;
use crate::contender::now;
use crate::cores::Cores;
use crate::crowd::Crowd;
use crate::entry::Entry;
use crate::report::{Section, Table, time};
use crate::rival;
use crate::series::quantile_of;

const TTL: Duration = Duration::from_secs(1);
const AN_HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let cores = Cores::both()?;
    let cores = *cores.last().ok_or("no core to run on")?;
    let entries = bench.entries()?;
    for entry in entries {
        entry.stage.pin(cores)?;
    }
    let mut late: Vec<Vec<f64>> = entries.iter().map(|_| Vec::new()).collect();
    for trial in 0..options.either(8, 1) {
        for (entry, late) in entries.iter().zip(&mut late) {
            late.push(one_crash(cores, entry, trial)?);
        }
    }
    let row = |(entry, late): (&Entry, &Vec<f64>)| {
        let at = |at| time(quantile_of(late.clone(), at));
        vec![entry.rival.name.to_owned(), at(0.0), at(0.5), at(1.0)]
    };
    Ok(Section {
        title: "A crashed holder".to_owned(),
        text: format!(
            "The holder is killed (SIGKILL); its lease is {TTL:?}. Counted from the lease's end, as the store tells it right after \
             the kill, to the return of the waiter's acquire. memcached tells whole seconds only, rounded up."
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

/// By how many nanoseconds the take-over came after the end of the lease.
fn one_crash(cores: Cores, entry: &Entry, trial: u32) -> Result<f64, Failure> {
    let Entry { rival, stage } = entry;
    let start = || Crowd::start(rival, &stage.url(), &[1, 1], TTL);
    let mut crowd = cores.on_client(start)?;
    let [holder, waiter] = crowd.everybody[..] else {
        return Err("a crowd that is no pair".into());
    };
    crowd.send(holder, AN_HOUR)?;
    crowd.granted()?;
    crowd.send(waiter, Duration::ZERO)?;
    // Somewhere between two polls, and not soon after the grant.
    thread::sleep(Duration::from_millis(300 + 37 * u64::from(trial)));
    crowd.kill(holder.process)?;
    let lock = Lock::new(rival::open(&stage.url())?, &*crowd.id);
    let asked = now();
    let left = match lock.try_acquire() {
        Err(AcquireError::Held(held)) => held.expires_in(),
        other => return Err(format!("the lock is not held: {other:?}").into()),
    };
    let left = left.ok_or("a lease without end")?;
    let (_, granted) = crowd.granted()?;
    let late = i128::from(granted) - i128::from(asked) - i128::try_from(left.as_nanos())?;
    #[allow(clippy::cast_precision_loss)]
    Ok(late as f64)
}
