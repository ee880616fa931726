//! The run: rounds of faults and calm for each backend, and what was found.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::Clock;
use dlock_testkit::history::{Figures, History, Property, Recorder, Report, Rules, What};

use crate::backend::{Backend, Place};
use crate::lanes::{self, Round};
use crate::options::Options;
use crate::plan::Plan;
use crate::workers::Workers;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// About how long a round lasts.
const ROUND: Duration = Duration::from_secs(30);
/// How much of that is left for the calm at its end.
const CALM: Duration = Duration::from_secs(4);
/// The same where waiters queue: their order is looked at when what the faults left behind has settled.
const CALM_OF_A_QUEUE: Duration = Duration::from_secs(11);
/// Within this time of the last fault each key must have been acquired: the longest time to live, granularity, the step of a clock, and all the time
/// that a busy machine may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// After so many rounds with violations the store needs no further proof.
const ENOUGH: usize = 5;
/// How often it is looked whether every key was acquired.
const LOOKS_EVERY: Duration = Duration::from_millis(500);

/// What became of one backend.
pub(crate) struct Outcome {
    pub(crate) backend: Backend,
    pub(crate) figures: Figures,
    pub(crate) rounds: u64,
    pub(crate) violations: usize,
    /// What must not be, readable, by round.
    pub(crate) found: Vec<String>,
}

/// Runs the rounds of one backend, until something is found or the time is over. `say` is given a line at a time.
pub(crate) fn run(
    backend: Backend,
    options: &Options,
    seed: u64,
    folder: &Path,
    say: &(dyn Fn(&str) + Sync),
) -> Outcome {
    let mut outcome = Outcome {
        backend,
        figures: Figures::default(),
        rounds: 0,
        violations: 0,
        found: Vec::new(),
    };
    let folder = folder.join(backend.name());
    if let Err(error) = rounds(options, seed, &folder, say, &mut outcome) {
        let text = format!("{}: {error}", backend.name());
        say(&text);
        outcome.violations += 1;
        outcome.found.push(text);
    }
    outcome
}

fn rounds(
    options: &Options,
    seed: u64,
    folder: &Path,
    say: &(dyn Fn(&str) + Sync),
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let backend = outcome.backend;
    let resources = folder.join("resources");
    fs::create_dir_all(&resources)?;
    let mut place = backend.start(folder);
    let mut rules = Rules {
        grants: 10,
        contended: 5,
        served: 5,
        faults: 2,
        calm: true,
        ..Rules::default()
    };
    let count = (options.lasts.as_secs() / ROUND.as_secs()).max(1);
    let each = options.lasts / u32::try_from(count)?;
    let faults = each.saturating_sub(calm(backend)).max(each / 3);
    let start = Instant::now();
    for number in 0..count {
        if number > 0 && start.elapsed() >= options.lasts {
            say(&format!("{}: the time is over", backend.name()));
            break;
        }
        let plan = Plan::draw(seed, backend, number, faults, options.workers);
        for planned in plan.all() {
            say(&format!("{} round {number}: {planned}", backend.name()));
        }
        let histories = folder.join(format!("round-{number}"));
        fs::create_dir_all(&histories)?;
        let seed = seed.wrapping_mul(31).wrapping_add(number * 1000);
        let lasts = (seed, faults);
        round(&mut place, &plan, (&histories, &resources), lasts, options)?;
        let report = History::read(&histories)?.check(&rules);
        outcome.rounds += 1;
        outcome.figures.add(&report.figures);
        say(&format!(
            "{} round {number}: {}, violations {}",
            backend.name(),
            report.figures,
            report.violations.len()
        ));
        if report.violations.is_empty() {
            if options.keep.is_none() {
                fs::remove_dir_all(&histories)?;
            }
        } else {
            let found = describe(&report, &histories);
            // At once: there may be an hour to go, and more to be found.
            say(&found);
            outcome.violations += report.violations.len();
            outcome.found.push(found);
            if outcome.found.len() >= ENOUGH {
                break;
            }
        }
        rules.fences = report.fences;
    }
    Ok(())
}

/// One round: faults, then calm until every key was acquired.
fn round(
    place: &mut Place,
    plan: &Plan,
    (histories, resources): (&Path, &Path),
    (seed, faults): (u64, Duration),
    options: &Options,
) -> Result<(), Failure> {
    let record = Recorder::of_faults(histories, "faults", place.backend.name())?;
    let folders = (histories, resources);
    let start = Clock::BOOTTIME.now();
    let mut workers = Workers::start_all(
        place.backend,
        &place.url,
        folders,
        (seed, start.saturating_add(faults)),
        options.workers,
        options.sabotage,
    )?;
    let round = Round {
        start,
        record: record.clone(),
    };
    let Place {
        server,
        proxy,
        backend,
        ..
    } = place;
    thread::scope(|scope| {
        let network = proxy
            .as_ref()
            .map(|proxy| scope.spawn(|| lanes::break_network(&round, &plan.network, proxy)));
        let server = scope.spawn(|| lanes::break_server(&round, &plan.server, server));
        let broken = lanes::break_workers(&round, &plan.workers, &mut workers);
        if let Some(network) = network {
            network.join().map_err(panicked)?;
        }
        server.join().map_err(panicked)??;
        broken
    })?;
    record.calm(PATIENCE);
    wait_for_progress(*backend, histories)?;
    workers.finish()
}

fn calm(backend: Backend) -> Duration {
    match backend {
        Backend::Redis => CALM_OF_A_QUEUE,
        Backend::Memcached | Backend::File => CALM,
    }
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Failure {
    let text = match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic
            .downcast::<&str>()
            .map_or_else(|_| "a panic".to_owned(), |text| (*text).to_owned()),
    };
    text.into()
}

/// Until every key was acquired, and some more; at most as long as the checker has patience.
fn wait_for_progress(backend: Backend, histories: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        thread::sleep(LOOKS_EVERY);
        let patient = start.elapsed() < PATIENCE;
        let calm = calm(backend) - LOOKS_EVERY;
        if !patient || (start.elapsed() >= calm && all_acquired(backend, histories)?) {
            return Ok(());
        }
    }
}

fn all_acquired(backend: Backend, histories: &Path) -> Result<bool, Failure> {
    let history = History::read(histories)?;
    let calm = history
        .events()
        .iter()
        .rfind(|event| matches!(event.what, What::Calm { .. }));
    let Some(calm) = calm else { return Ok(false) };
    let mut keys: Vec<_> = history
        .events()
        .iter()
        .filter(|event| event.before > calm.before && matches!(event.what, What::Granted { .. }))
        .map(|event| &event.key)
        .collect();
    keys.sort();
    keys.dedup();
    Ok(keys.len() >= backend.locks().len())
}

fn describe(report: &Report, histories: &Path) -> String {
    let mut by_property: Vec<Property> = Vec::new();
    let mut text = String::new();
    for violation in &report.violations {
        // The first of each kind shows it; the others are in the history.
        if !by_property.contains(&violation.property) {
            by_property.push(violation.property);
            text.push_str(&violation.to_string());
        }
    }
    let count = report.violations.len();
    text.push_str(&format!(
        "{count} violations in all; the histories are in {}\n",
        histories.display()
    ));
    text
}

/// Where the histories are kept: where the user wants them, or in a temporary folder that is deleted unless something was found.
pub(crate) fn folder(options: &Options) -> Result<(PathBuf, Option<tempfile::TempDir>), Failure> {
    if let Some(keep) = &options.keep {
        fs::create_dir_all(keep)?;
        return Ok((keep.clone(), None));
    }
    let folder = tempfile::Builder::new().prefix("dlock-torture").tempdir()?;
    Ok((folder.path().to_owned(), Some(folder)))
}
