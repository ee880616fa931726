//! Measures hand-overs, from the return of `release` in one process to the granted acquire in
//! another, and their cost for the server.

use std::time::Duration;

use crate::Failure;
use crate::bench::Bench;
use crate::chart::{Chart, Line};
use crate::contenders::Contenders;
use crate::cores::Cores;
use crate::entry::{self, Entry};
use crate::options::Options;
use crate::report::{Section, Table, or_dash, three_digits, time};
use crate::rounds::Subject;
use crate::series::{float, quantile};
use crate::turn_tracker::{HandOvers, TurnTracker, spread};

/// A number of waiters, and how long each contender holds the lock.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Scene {
    waiters: usize,
    hold: Duration,
}

const fn scene(waiters: usize, hold_millis: u64) -> Scene {
    Scene {
        waiters,
        hold: Duration::from_millis(hold_millis),
    }
}

/// The last one measures commands rather than speed: it has far more waiters than cores.
const SCENES: [Scene; 5] = [
    scene(1, 300),
    scene(1, 5),
    scene(10, 5),
    scene(100, 5),
    MANY_WAITERS,
];
const MANY_WAITERS: Scene = scene(1000, 5);
const QUICK: [Scene; 2] = [scene(1, 10), scene(3, 5)];
/// The charts show the scenes with this hold time, which have many hand-overs.
const CHARTED: Duration = Duration::from_millis(5);
const TTL: Duration = Duration::from_secs(30);
const RAW: &str = "one round trip (PING)";
const RESTED: &str = "the same after a pause";

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let entries = bench.entries()?;
    let ways = Cores::both()?;
    let (mut tables, mut charts) = (Vec::new(), Vec::new());
    for cores in &ways {
        for entry in entries {
            entry.servers.pin(*cores)?;
        }
        // A thousand contenders take long to start, and the number of commands is the same on any
        // core.
        let last = ways.len() == tables.len() + 1;
        let wanted = options.either(&SCENES[..], &QUICK).iter();
        let mut points = Vec::new();
        for scene in wanted.filter(|scene| last || **scene != MANY_WAITERS) {
            points.extend(in_scene(options, *cores, entries, *scene)?);
        }
        tables.push(table(*cores, &points));
        if last {
            charts.extend(both_charts(*cores, &points));
        }
    }
    Ok(Section {
        title: "Hand-over".to_owned(),
        text: "One process holds the lock, releases it, and waits again as soon as another one holds it. So the \
               number of waiters is constant; they run in at most 20 processes. A hand-over counts from the return of \
               the release to the return of another process's acquire; a grant before the release has returned counts \
               as 0. *raw*: a PING to Redis, over and over, in the same seconds. *rested*: a PING after a pause as \
               long as the lock is held, because nothing else runs then and the cores sleep, as they do before a \
               hand-over. *longest wait*: the longest of all waiters since the start; a fair wait is as long as the \
               turns of all others. Commands are those that clients sent, counted by the server."
            .to_owned(),
        tables,
        charts,
    })
}

/// Few waiters: those of these entries poll, or there is a table for more.
const FEW: [Scene; 3] = [scene(1, 300), scene(1, 5), scene(10, 5)];

/// The hand-overs of other entries than those that all stores have; the first is on Redis.
pub(super) fn tables(options: &Options, entries: &[Entry]) -> Result<Vec<Table>, Failure> {
    let mut tables = Vec::new();
    for cores in Cores::both()? {
        for entry in entries {
            entry.servers.pin(cores)?;
        }
        let mut points = Vec::new();
        for scene in options.either(&FEW[..], &QUICK[..1]) {
            points.extend(in_scene(options, cores, entries, *scene)?);
        }
        tables.push(table(cores, &points));
    }
    Ok(tables)
}

/// The hand-overs of one competitor in one scene.
struct Point {
    name: &'static str,
    scene: Scene,
    hand_overs: HandOvers,
    commands: Option<u64>,
    connections: Option<f64>,
}

impl Point {
    fn commands_each(&self) -> Option<f64> {
        let each = float(self.commands?) / float(self.hand_overs.grants);
        // Nothing was handed over in a short run on an overloaded machine.
        Some(each).filter(|each| each.is_finite())
    }
}

fn in_scene(
    options: &Options,
    cores: Cores,
    entries: &[Entry],
    scene: Scene,
) -> Result<Vec<Point>, Failure> {
    let point = |name| Point {
        name,
        scene,
        hand_overs: HandOvers::default(),
        commands: None,
        connections: None,
    };
    let (mut raw, mut rested) = (point(RAW), point(RESTED));
    let mut points: Vec<_> = entries
        .iter()
        .map(|entry| point(entry.competitor.name))
        .collect();
    let rounds = match scene.hold == CHARTED && scene != MANY_WAITERS {
        true => options.either(2, 1),
        false => 1,
    };
    for _ in 0..rounds {
        for (entry, point) in entries.iter().zip(&mut points) {
            let ping = cores.on_client(|| entry::round_trip(entries)?.turn(options.turn()))?;
            raw.hand_overs.times.extend(ping.times);
            let pings = options.either(50, 3);
            let pings =
                cores.on_client(|| entry::rested_round_trips(entries, scene.hold, pings))?;
            rested.hand_overs.times.extend(pings);
            run_contenders(options, cores, entry, point)?;
        }
    }
    Ok([raw, rested].into_iter().chain(points).collect())
}

fn run_contenders(
    options: &Options,
    cores: Cores,
    entry: &Entry,
    point: &mut Point,
) -> Result<(), Failure> {
    let Entry {
        competitor,
        servers,
    } = entry;
    let Scene { waiters, hold } = point.scene;
    let threads = spread(waiters);
    let mut contenders =
        cores.on_client(|| Contenders::start(competitor, &servers.url(), &threads, TTL))?;
    let mut tracker = TurnTracker::begin(&mut contenders, hold)?;
    // First run until all contenders are waiting and warm.
    let (comes, lasts) = match point.scene == MANY_WAITERS {
        true => (Duration::from_secs(5), Duration::from_secs(3)),
        false => options.either(
            (
                Duration::from_secs(1),
                Duration::from_millis(2500).max(hold * 20),
            ),
            (hold * 10, hold * 20),
        ),
    };
    tracker.follow(comes)?;
    let sent = entry.commands();
    let hand_overs = tracker.follow(lasts)?;
    if let (Some(from), Some(to)) = (sent, entry.commands()) {
        point.commands = Some(point.commands.unwrap_or(0) + to - from);
    }
    let connections = servers.connections().map(float);
    point.connections = connections.map(|open| open / float(threads.len() as u64));
    point.hand_overs.failures += hand_overs.failures;
    point.hand_overs.times.extend(hand_overs.times);
    point.hand_overs.grants += hand_overs.grants;
    point.hand_overs.longest_wait = point.hand_overs.longest_wait.max(hand_overs.longest_wait);
    Ok(())
}

fn table(cores: Cores, points: &[Point]) -> Table {
    let head = [
        "waiters",
        "held for",
        "",
        "median",
        "p99",
        "median / raw median",
        "p99 / raw p99",
        "median / rested median",
        "p99 / rested p99",
        "commands per hand-over",
        "longest wait",
        "connections per process",
    ];
    let row = |point: &Point| {
        let is_lock = ![RAW, RESTED].contains(&point.name);
        let at = |at| quantile(&point.hand_overs.times, at);
        let ratio = |name, q| {
            let is_base = |base: &&Point| base.name == name && base.scene == point.scene;
            let base = points.iter().find(is_base).filter(|_| is_lock);
            or_dash(base.map(|base| three_digits(at(q) / quantile(&base.hand_overs.times, q))))
        };
        vec![
            point.scene.waiters.to_string(),
            format!("{:?}", point.scene.hold),
            match point.hand_overs.failures {
                0 => point.name.to_owned(),
                failures => format!("{} ({failures} failed)", point.name),
            },
            time(at(0.5)),
            time(at(0.99)),
            ratio(RAW, 0.5),
            ratio(RAW, 0.99),
            ratio(RESTED, 0.5),
            ratio(RESTED, 0.99),
            or_dash(point.commands_each().map(three_digits)),
            or_dash(is_lock.then(|| time(float(point.hand_overs.longest_wait)))),
            or_dash(point.connections.map(three_digits)),
        ]
    };
    Table {
        caption: format!("Hand-over, {}", cores.name),
        head: head.map(str::to_owned).to_vec(),
        rows: points.iter().map(row).collect(),
    }
}

/// Two charts: latency and commands, each against the number of waiters.
fn both_charts(cores: Cores, points: &[Point]) -> [(String, String); 2] {
    let chart = |name: &str, title: String, y: &str, value: &dyn Fn(&Point) -> Option<f64>| {
        let mut lines: Vec<Line> = Vec::new();
        for point in points.iter().filter(|point| point.scene.hold == CHARTED) {
            let at = value(point).filter(|value| value.is_finite());
            let at = at.map(|value| (float(point.scene.waiters as u64), value));
            match lines.iter_mut().find(|line| line.name == point.name) {
                Some(line) => line.points.extend(at),
                None => lines.push(Line {
                    name: point.name.to_owned(),
                    points: at.into_iter().collect(),
                }),
            }
        }
        let chart = Chart {
            title,
            x: "waiters".to_owned(),
            y: y.to_owned(),
            lines,
        };
        let file = format!("{name}-{}.svg", cores.name.replace(' ', "-"));
        (file, chart.to_svg())
    };
    let latency = |point: &Point| {
        Some(quantile(&point.hand_overs.times, 0.5) / 1e6).filter(|millis| *millis > 0.0)
    };
    [
        chart(
            "hand-over",
            format!("Hand-over, median, {}", cores.name),
            "ms",
            &latency,
        ),
        chart(
            "commands",
            format!("Commands per hand-over, {}", cores.name),
            "commands",
            &Point::commands_each,
        ),
    ]
}
