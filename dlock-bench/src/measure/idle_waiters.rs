//! Measures the cost of many waiters while one process keeps the lock.

use std::thread;
use std::time::Duration;

use crate::Failure;
use crate::bench::Bench;
use crate::contenders::Contenders;
use crate::cores::Cores;
use crate::entry::Entry;
use crate::report::{Section, Table, or_dash, three_digits};
use crate::series::float;
use crate::turn_tracker::spread;

const WAITERS: usize = 100;
const AN_HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let cores = Cores::both()?;
    let cores = *cores.last().ok_or("no core to run on")?;
    let waiters = options.either(WAITERS, 3);
    let lasts = options.either(Duration::from_secs(5), Duration::from_millis(100));
    let mut rows = Vec::new();
    for entry in bench.entries()? {
        let Entry {
            competitor,
            servers,
        } = entry;
        servers.pin(cores)?;
        let threads = spread(waiters);
        let start = || Contenders::start(competitor, &servers.url(), &threads, AN_HOUR);
        let mut contenders = cores.on_client(start)?;
        let mut all = contenders.all.clone().into_iter();
        let holder = all.next().ok_or("an empty contenders")?;
        contenders.send(holder, AN_HOUR)?;
        contenders.granted()?;
        all.try_for_each(|contender| contenders.send(contender, AN_HOUR))?;
        // Wait until the pollers have reached their longest pause.
        thread::sleep(options.either(Duration::from_secs(3), Duration::from_millis(100)));
        let commands = entry.commands();
        let busy = contenders.cpu_time()?;
        thread::sleep(lasts);
        let busy = (contenders.cpu_time()? - busy).as_secs_f64() / lasts.as_secs_f64();
        let commands = entry.commands().zip(commands);
        let sent = commands.map(|(to, from)| float(to - from) / lasts.as_secs_f64());
        let opened = servers.connections().map(float);
        rows.push(vec![
            competitor.name.to_owned(),
            or_dash(sent.map(three_digits)),
            or_dash(sent.map(|sent| three_digits(sent / float(threads.len() as u64)))),
            format!("{} %", three_digits(busy * 100.0)),
            or_dash(opened.map(three_digits)),
        ]);
    }
    let head = [
        "",
        "commands per second",
        "per process",
        "clients' share of a core",
        "connections",
    ];
    Ok(Section {
        title: "Waiting while nothing happens".to_owned(),
        text: format!(
            "{waiters} threads in {} processes wait for a lock that is held all the time.",
            spread(waiters).len()
        ),
        tables: vec![Table {
            caption: format!("{waiters} idle waiters, {}", cores.name),
            head: head.map(str::to_owned).to_vec(),
            rows,
        }],
        ..Section::default()
    })
}
