//! Measures an uncontended pair in a folder.

use dlock_core::Store;
use dlock_file::FileDatastore;

use crate::Failure;
use crate::bench::Bench;
use crate::cores::Cores;
use crate::measure::pairs;
use crate::report::Section;
use crate::rounds::{Operation, Subject, Threads};

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let folder = tempfile::tempdir()?;
    let mut tables = Vec::new();
    // There is no server, so one placement is enough.
    let cores = Cores::both()?[0];
    for threads in pairs::THREADS {
        let caption = format!("File, {}", cores.name);
        let table = || {
            let store = Store::new(FileDatastore::open(folder.path())?);
            let each = |name, pair: fn(&Store, usize) -> Operation| -> Box<dyn Subject> {
                let operations = (0..threads).map(|thread| pair(&store, thread));
                Box::new(Threads::new(name, operations.collect()))
            };
            let subjects = vec![
                each("`FileDatastore`", pairs::datastore_pair),
                each("`Lock`", pairs::lock_pair),
            ];
            pairs::table(&caption, options, subjects, threads, &[])
        };
        tables.push(cores.on_client(table)?);
    }
    Ok(Section {
        title: "A pair in a folder".to_owned(),
        text: "The locks are in a folder below the one for temporary files.".to_owned(),
        tables,
        ..Section::default()
    })
}
