//! Measures core itself: a pair on a store that is a map in this process.

use dlock_core::{MemoryDatastore, Store};

use crate::Failure;
use crate::allocations;
use crate::bench::Bench;
use crate::cores::Cores;
use crate::measure::pairs;
use crate::report::Section;
use crate::rounds::{Operation, Subject, Threads};

/// A pair takes hardly longer than a few readings of the clock.
const BATCH: u32 = 50;

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let cores = Cores::both()?[0];
    let table = || {
        let store = Store::new(MemoryDatastore::new());
        let each = |name, pair: fn(&Store, usize) -> Operation| -> Box<dyn Subject> {
            Box::new(Threads::new(name, vec![pair(&store, 0)]).in_batches(BATCH))
        };
        let subjects = vec![
            each("`MemoryDatastore`", pairs::datastore_pair),
            each("`Lock`", pairs::lock_pair),
        ];
        pairs::table("Memory", options, subjects, 1, &[])
    };
    let store = Store::new(MemoryDatastore::new());
    let mut pair = pairs::lock_pair(&store, 0);
    // The first pair starts threads.
    pair()?;
    let (allocations, done) = allocations::during(pair);
    done?;
    Ok(Section {
        title: "Core's own cost".to_owned(),
        text: format!(
            "A pair on the store in memory. Through `Lock` it makes {allocations} allocations."
        ),
        tables: vec![cores.on_client(table)?],
        ..Section::default()
    })
}
