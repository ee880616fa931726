//! Measures hand-overs between tasks that wait for one lock, beside those between threads.

use std::rc::Rc;
use std::time::Duration;

use dlock_test_servers::RedisServer;

use crate::Failure;
use crate::bench::Bench;
use crate::competitor::Competitor;
use crate::contenders::Contenders;
use crate::cores::Cores;
use crate::report::{Section, Table, or_dash, three_digits, time};
use crate::series::{Spread, float, quantile};
use crate::servers::Servers;
use crate::tasks::Kind;
use crate::turn_tracker::{HandOvers, TurnTracker, spread};

const WAITERS: [usize; 3] = [1, 100, 1000];
const HOLD: Duration = Duration::from_millis(5);
const TTL: Duration = Duration::from_secs(30);
const ROUNDS: usize = 5;

pub(crate) fn measure(bench: &Bench) -> Result<Section, Failure> {
    let options = &bench.options;
    let ways = Cores::both()?;
    let cores = *ways.last().ok_or("no core to run on")?;
    let server = Servers::Redis(RedisServer::start());
    server.pin(cores)?;
    let mut competitors = vec![Competitor::dlock("blocking, threads")?];
    for kind in Kind::ALL {
        competitors.push(Competitor::dlock_tasks(kind)?);
    }
    let mut rows = Vec::new();
    for waiters in options.either(&WAITERS[..], &[3]) {
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); competitors.len()];
        for round in 0..options.either(ROUNDS, 1) {
            for place in 0..competitors.len() {
                let at = (place + round) % competitors.len();
                let turn = options.either(Duration::from_secs(2), HOLD * 20);
                samples[at].push(sample(&competitors[at], &server, cores, *waiters, turn)?);
            }
        }
        let row = |(competitor, own): (&Competitor, &Vec<Sample>)| {
            row(*waiters, competitor, own, &samples[0])
        };
        rows.extend(competitors.iter().zip(&samples).map(row));
    }
    let head = [
        "waiters",
        "",
        "median",
        "median / blocking",
        "p99",
        "commands per hand-over",
        "longest wait",
    ];
    Ok(Section {
        title: "Async waiters".to_owned(),
        text: format!(
            "As *Hand-over*, on Redis, held for {} ms each: tasks of a runtime in at most 20 \
             processes, beside threads in as many. The processes begin in turn, a waiter of each at \
             a time, so that most hand-overs go to another process in both forms. Each round \
             starts the processes anew.",
            HOLD.as_millis()
        ),
        tables: vec![Table {
            caption: format!("Async waiters, {}", cores.name),
            head: head.map(str::to_owned).to_vec(),
            rows,
        }],
        ..Section::default()
    })
}

/// One round of a competitor.
#[derive(Clone)]
struct Sample {
    hand_overs: Rc<HandOvers>,
    commands: u64,
}

impl Sample {
    fn median(&self) -> f64 {
        quantile(&self.hand_overs.times, 0.5)
    }
}

fn sample(
    competitor: &Competitor,
    server: &Servers,
    cores: Cores,
    waiters: usize,
    lasts: Duration,
) -> Result<Sample, Failure> {
    let threads = spread(waiters);
    let start = || Contenders::start(competitor, &server.url(), &threads, TTL);
    let mut contenders = cores.on_client(start)?;
    let mut tracker = TurnTracker::begin(&mut contenders, HOLD)?;
    // First run until all contenders wait.
    tracker.follow(lasts)?;
    let sent = server.commands(false).ok_or("no server")?;
    let hand_overs = tracker.follow(lasts)?;
    let commands = server.commands(false).ok_or("no server")? - sent;
    if hand_overs.failures > 0 {
        return Err(format!(
            "{} of {} contenders failed",
            hand_overs.failures, competitor.name
        )
        .into());
    }
    Ok(Sample {
        hand_overs: hand_overs.into(),
        commands,
    })
}

fn row(waiters: usize, competitor: &Competitor, own: &[Sample], base: &[Sample]) -> Vec<String> {
    let times: Vec<u64> = own
        .iter()
        .flat_map(|sample| sample.hand_overs.times.clone())
        .collect();
    let ratios = own
        .iter()
        .zip(base)
        .map(|(own, base)| own.median() / base.median());
    let grants: u64 = own.iter().map(|sample| sample.hand_overs.grants).sum();
    let commands: u64 = own.iter().map(|sample| sample.commands).sum();
    let longest = own
        .iter()
        .map(|sample| sample.hand_overs.longest_wait)
        .max();
    vec![
        waiters.to_string(),
        competitor.name.to_owned(),
        time(quantile(&times, 0.5)),
        Spread::of(ratios.collect()).to_string(),
        time(quantile(&times, 0.99)),
        or_dash((grants > 0).then(|| three_digits(float(commands) / float(grants)))),
        time(float(longest.unwrap_or(0))),
    ]
}
