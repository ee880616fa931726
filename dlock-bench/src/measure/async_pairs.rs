//! Pairs of many tasks on one runtime, each with a lock of its own: async locks beside what the
//! redis crate's multiplexed connection makes of the same scripts, and of the least that a lock
//! without fencing needs.

mod peer;
mod variants;

use std::fs;
use std::time::Duration;

use dlock_test_servers::RedisServer;
use tokio::runtime::Runtime;

use crate::Failure;
use crate::bench::Bench;
use crate::competitor::Competitor;
use crate::measure::pairs::TTL;
use crate::measure::server_time;
use crate::options::Options;
use crate::report::{Section, Table, three_digits};
use crate::series::{Spread, float};
use crate::tasks::{Count, Kind, pairs};
use peer::Peer;
use variants::Variant;

/// How many tasks at a time.
const TASKS: [usize; 5] = [1, 16, 256, 1024, 4096];

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let tasks = options.either(&TASKS[..], &TASKS[..2]);
    let rslock = Competitor::rslock(options)?;
    let mut tables = Vec::new();
    for kind in Kind::ALL {
        for tasks in tasks {
            let server = RedisServer::start();
            let runtime = kind.build()?;
            let variants = runtime.block_on(variants::all(&server, *tasks))?;
            let mut subjects: Vec<Subject<'_>> = variants
                .into_iter()
                .map(|variant| Subject::Here(&runtime, variant))
                .collect();
            if let Some(rslock) = &rslock {
                let peer = Peer::start(rslock, &server.url(), kind, *tasks, TTL)?;
                subjects.push(Subject::There(rslock.name, peer));
            }
            let of_tasks = if *tasks == 1 { "task" } else { "tasks" };
            let caption = format!("{}, {tasks} {of_tasks}", kind.name());
            tables.push(table(caption, options, &server, &mut subjects, *tasks)?);
        }
    }
    Ok(Section {
        title: "Async pairs on Redis".to_owned(),
        text: "Tasks acquire and release, each a lock of its own that nobody else wants. \
               `dlock::aio` is the whole lock. Beside it are the same two scripts through the \
               redis crate's multiplexed connection, without a lock around them, and \
               `SET NX PX` with a compare-and-delete script, which neither fences nor refuses late \
               calls. rslock sends these too, from a process of its own. *client* and *server* are \
               the time on a core for each pair: of the process with the tasks, and of the \
               server's main thread. *in commands* is what INFO commandstats reports for the \
               commands of a pair, by the clock."
            .to_owned(),
        tables,
        charts: Vec::new(),
    })
}

/// What takes turns.
enum Subject<'a> {
    /// Tasks on a runtime of this process.
    Here(&'a Runtime, Variant),
    /// Those of another library in another process, with its name.
    There(&'static str, Peer),
}

impl Subject<'_> {
    fn name(&self) -> &'static str {
        match self {
            Subject::Here(_, variant) => variant.name,
            Subject::There(name, _) => name,
        }
    }

    fn is_base(&self) -> bool {
        matches!(self, Subject::Here(_, variant) if variant.is_base)
    }

    /// Whether it claims with a plain `SET`.
    fn is_plain(&self) -> bool {
        match self {
            Subject::Here(_, variant) => variant.is_plain,
            Subject::There(..) => true,
        }
    }

    fn turn(&mut self, tasks: usize, lasts: Duration) -> Result<Count, Failure> {
        match self {
            Subject::Here(runtime, variant) => pairs(runtime, &variant.pair, tasks, lasts),
            Subject::There(_, peer) => peer.turn(lasts),
        }
    }
}

/// What one turn was, seen from both sides.
#[derive(Debug, Clone)]
struct Sample {
    count: Count,
    /// How long the server's main thread ran on a core.
    server: Duration,
    /// How long the server says that it ran the commands which clients sent.
    commands: Duration,
}

impl Sample {
    /// Pairs per second.
    fn rate(&self) -> f64 {
        float(self.count.pairs) / self.count.elapsed.as_secs_f64()
    }

    fn client(&self) -> f64 {
        self.micros(self.count.client)
    }

    fn server(&self) -> f64 {
        self.micros(self.server)
    }

    fn commands(&self) -> f64 {
        self.micros(self.commands)
    }

    /// Microseconds for each pair; not a number without pairs.
    fn micros(&self, time: Duration) -> f64 {
        match self.count.pairs {
            0 => f64::NAN,
            pairs => time.as_secs_f64() * 1e6 / float(pairs),
        }
    }
}

/// Lets the subjects take turns, and makes a table of it.
fn table(
    caption: String,
    options: &Options,
    server: &RedisServer,
    subjects: &mut [Subject<'_>],
    tasks: usize,
) -> Result<Table, Failure> {
    let mut samples = vec![Vec::new(); subjects.len()];
    for round in 0..=options.rounds() {
        for place in 0..subjects.len() {
            let at = (place + round) % subjects.len();
            let subject = &mut subjects[at];
            server.reset_calls();
            let served = thread_time(server.pid())?;
            let count = subject.turn(tasks, turn(options))?;
            let sample = Sample {
                count,
                server: thread_time(server.pid())? - served,
                commands: server_time::of_clients(server, subject.is_plain()),
            };
            // The first round warms up.
            if round > 0 {
                samples[at].push(sample);
            }
        }
    }
    let base = subjects
        .iter()
        .position(Subject::is_base)
        .ok_or("no base")?;
    let row = |(subject, own): (&Subject<'_>, &Vec<Sample>)| {
        let ratio = |of: fn(&Sample) -> f64| {
            let rounds = own.iter().zip(&samples[base]);
            Spread::of(rounds.map(|(own, base)| of(own) / of(base)).collect()).to_string()
        };
        let median =
            |of: fn(&Sample) -> f64| three_digits(Spread::of(own.iter().map(of).collect()).median);
        vec![
            subject.name().to_owned(),
            median(Sample::rate),
            ratio(Sample::rate),
            format!("{} µs", median(Sample::client)),
            ratio(Sample::client),
            format!("{} µs", median(Sample::server)),
            format!("{} µs", median(Sample::commands)),
        ]
    };
    let head = [
        "",
        "per second",
        "rate / same scripts",
        "client",
        "client / same scripts",
        "server",
        "in commands",
    ];
    Ok(Table {
        caption,
        head: head.map(str::to_owned).to_vec(),
        rows: subjects.iter().zip(&samples).map(row).collect(),
    })
}

/// Many tasks need a moment to start.
fn turn(options: &Options) -> Duration {
    options.turn() * 3 / 2
}

/// How long the main thread of a process, on which Redis runs commands, has run on a core so far.
fn thread_time(pid: u32) -> Result<Duration, Failure> {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let nanos = stat
        .split(' ')
        .next()
        .ok_or("an unexpected line in /proc")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}
