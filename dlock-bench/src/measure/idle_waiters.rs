//! What many waiters cost while nothing happens: somebody holds the lock and goes on holding it.

use std::thread;
use std::time::Duration;

use crate::Failure;
use crate::bench::Bench;
use crate::cores::Cores;
use crate::crowd::Crowd;
use crate::entry::Entry;
use crate::follower::spread;
use crate::report::{Section, Table, or_dash, three_digits};
use crate::series::float;

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
        let Entry { rival, stage } = entry;
        stage.pin(cores)?;
        let threads = spread(waiters);
        let start = || Crowd::start(rival, &stage.url(), &threads, AN_HOUR);
        let mut crowd = cores.on_client(start)?;
        let mut everybody = crowd.everybody.clone().into_iter();
        let holder = everybody.next().ok_or("an empty crowd")?;
        crowd.send(holder, AN_HOUR)?;
        crowd.granted()?;
        everybody.try_for_each(|who| crowd.send(who, AN_HOUR))?;
        // Until those that poll do it as seldom as they ever will.
        thread::sleep(options.either(Duration::from_secs(3), Duration::from_millis(100)));
        let commands = entry.commands();
        let busy = crowd.cpu_time()?;
        thread::sleep(lasts);
        let busy = (crowd.cpu_time()? - busy).as_secs_f64() / lasts.as_secs_f64();
        let commands = entry.commands().zip(commands);
        let sent = commands.map(|(to, from)| float(to - from) / lasts.as_secs_f64());
        let opened = stage.connections().map(float);
        rows.push(vec![
            rival.name.to_owned(),
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
            "One holds, {waiters} wait, in {} processes.",
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
