//! From the return of `release` in one process to the granted acquire in another, and what that costs the server.

use std::time::Duration;

use crate::Failure;
use crate::chart::{Chart, Line};
use crate::cores::Cores;
use crate::crowd::Crowd;
use crate::entry::{self, Entry};
use crate::follower::{Follower, HOLD, Seen, spread};
use crate::options::Options;
use crate::report::{Section, Table, or_dash, three_digits, time};
use crate::rounds::Subject;
use crate::series::{float, quantile};

const WAITERS: [usize; 4] = [1, 10, 100, 1000];
/// So many wait without a claim to speed: there are far more of them than cores to wake them on.
const CROWDED: usize = 1000;
/// A big crowd takes its time to come together.
const CROWD_COMES: Duration = Duration::from_secs(5);
const TTL: Duration = Duration::from_secs(30);
const RAW: &str = "one round trip (PING)";

pub(crate) fn measure(options: &Options) -> Result<Section, Failure> {
    let entries = entry::all(options)?;
    let (mut tables, mut charts) = (Vec::new(), Vec::new());
    for cores in Cores::both()? {
        for entry in &entries {
            entry.stage.pin(cores)?;
        }
        let mut points = Vec::new();
        for waiters in options.either(&WAITERS[..], &[1, 3]) {
            points.extend(with_waiters(options, cores, &entries, *waiters)?);
        }
        tables.push(table(cores, &points));
        charts.extend(both_charts(cores, &points));
    }
    Ok(Section {
        title: "Hand-over".to_owned(),
        text: format!(
            "One holds the lock for {} ms, releases it, and waits again as soon as another holds it, so that there are always as many \
             waiters. They are spread over at most 20 processes. Counted from the return of the release to the return of another process's \
             acquire; a grant before the release has returned counts as 0. *raw*: a PING to Redis, in the same seconds. Commands are \
             those that clients sent, counted by the server.",
            HOLD.as_millis()
        ),
        tables,
        charts,
    })
}

/// What was seen of one rival with so many waiters.
struct Point {
    name: &'static str,
    waiters: usize,
    seen: Seen,
    lasted: Duration,
    commands: Option<u64>,
    connections: Option<f64>,
}

impl Point {
    fn commands_each(&self) -> Option<f64> {
        Some(float(self.commands?) / float(self.seen.grants))
    }
}

fn with_waiters(
    options: &Options,
    cores: Cores,
    entries: &[Entry],
    waiters: usize,
) -> Result<Vec<Point>, Failure> {
    let point = |name| Point {
        name,
        waiters,
        seen: Seen::default(),
        lasted: Duration::ZERO,
        commands: None,
        connections: None,
    };
    let mut raw = point(RAW);
    let mut points: Vec<_> = entries
        .iter()
        .map(|entry| point(entry.rival.name))
        .collect();
    let rounds = match waiters >= CROWDED {
        true => 1,
        false => options.either(2, 1),
    };
    for _ in 0..rounds {
        for (entry, point) in entries.iter().zip(&mut points) {
            let ping = cores.on_client(|| entry::round_trip(entries)?.turn(options.turn()))?;
            raw.seen.times.extend(ping.times);
            one_crowd(options, cores, entry, point)?;
        }
    }
    points.insert(0, raw);
    Ok(points)
}

fn one_crowd(
    options: &Options,
    cores: Cores,
    entry: &Entry,
    point: &mut Point,
) -> Result<(), Failure> {
    let Entry { rival, stage } = entry;
    let threads = spread(point.waiters);
    let mut crowd = cores.on_client(|| Crowd::start(rival, &stage.url(), &threads, TTL))?;
    let mut follower = Follower::begin(&mut crowd)?;
    let comes = match point.waiters >= CROWDED {
        true => CROWD_COMES,
        false => options.either(Duration::from_secs(1), HOLD * 10),
    };
    follower.follow(comes)?;
    let lasts = options.either(Duration::from_millis(2500), HOLD * 40);
    let sent = stage.commands(rival.plain);
    let seen = follower.follow(lasts)?;
    if let (Some(from), Some(to)) = (sent, stage.commands(rival.plain)) {
        point.commands = Some(point.commands.unwrap_or(0) + to - from);
    }
    let connections = stage.connections().map(float);
    point.connections = connections.map(|open| open / float(threads.len() as u64));
    point.seen.failures += seen.failures;
    point.seen.times.extend(seen.times);
    point.seen.grants += seen.grants;
    point.lasted += lasts;
    Ok(())
}

fn table(cores: Cores, points: &[Point]) -> Table {
    let head = [
        "waiters",
        "",
        "median",
        "p99",
        "median / raw median",
        "p99 / raw p99",
        "commands per hand-over",
        "hand-overs per second",
        "connections per process",
    ];
    let row = |point: &Point| {
        let raw = points
            .iter()
            .find(|raw| raw.name == RAW && raw.waiters == point.waiters);
        let at = |at| quantile(&point.seen.times, at);
        let ratio = |q| {
            raw.map(|raw| at(q) / quantile(&raw.seen.times, q))
                .filter(|_| point.name != RAW)
        };
        let rate = (!point.lasted.is_zero())
            .then(|| float(point.seen.grants) / point.lasted.as_secs_f64());
        vec![
            point.waiters.to_string(),
            match point.seen.failures {
                0 => point.name.to_owned(),
                failures => format!("{} ({failures} failed)", point.name),
            },
            time(at(0.5)),
            time(at(0.99)),
            or_dash(ratio(0.5).map(three_digits)),
            or_dash(ratio(0.99).map(three_digits)),
            or_dash(point.commands_each().map(three_digits)),
            or_dash(rate.map(three_digits)),
            or_dash(point.connections.map(three_digits)),
        ]
    };
    Table {
        caption: format!("Hand-over, {}", cores.name),
        head: head.map(str::to_owned).to_vec(),
        rows: points.iter().map(row).collect(),
    }
}

/// Latency and commands, each against the number of waiters.
fn both_charts(cores: Cores, points: &[Point]) -> [(String, String); 2] {
    let chart = |name: &str, title: String, y: &str, value: &dyn Fn(&Point) -> Option<f64>| {
        let mut lines: Vec<Line> = Vec::new();
        for point in points {
            let Some(value) = value(point).filter(|value| value.is_finite()) else {
                continue;
            };
            let at = (float(point.waiters as u64), value);
            match lines.iter_mut().find(|line| line.name == point.name) {
                Some(line) => line.points.push(at),
                None => lines.push(Line {
                    name: point.name.to_owned(),
                    points: vec![at],
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
    let latency =
        |point: &Point| Some(quantile(&point.seen.times, 0.5) / 1e6).filter(|millis| *millis > 0.0);
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
