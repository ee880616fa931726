//! Runs real processes that lock, breaks their servers, network and themselves at random, and checks what they saw.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod backend;
mod dozing;
mod lanes;
mod options;
mod plan;
mod random;
mod run;
mod sabotage;
mod worker;
mod workers;

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use dlock_core::Time;
use dlock_testkit::history::{Figures, History, Rules};

use options::Options;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Something was found.
const FOUND: u8 = 1;
/// It could not run.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let result = match words.first().map(String::as_str) {
        Some("worker") => worker(&words[1..]).map(|()| ExitCode::SUCCESS),
        Some("check") => check(&words[1..]),
        _ => torture(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("dlock-torture: {error}");
        ExitCode::from(FAILED)
    })
}

fn torture() -> Result<ExitCode, Failure> {
    let options = Options::parse(lexopt::Parser::from_env())?;
    if options.help {
        print!("{}", options::HELP);
        return Ok(ExitCode::SUCCESS);
    }
    let seed = match options.seed {
        Some(seed) => seed,
        None => random_seed()?,
    };
    println!("seed {seed}, {} s", options.lasts.as_secs());
    let (folder, temporary) = run::folder(&options)?;
    let start = Instant::now();
    let say = |line: &str| println!("{:8.2} {line}", start.elapsed().as_secs_f64());
    let outcomes: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = options
            .backends
            .iter()
            .map(|backend| scope.spawn(|| run::run(*backend, &options, seed, &folder, &say)))
            .collect();
        running
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect()
    });
    let mut all = Figures::default();
    let mut violations = 0;
    for outcome in &outcomes {
        let Ok(outcome) = outcome else {
            violations += 1;
            continue;
        };
        let name = outcome.backend.name();
        println!(
            "{name}: {} rounds, {}, violations {}",
            outcome.rounds, outcome.figures, outcome.violations
        );
        all.add(&outcome.figures);
        violations += outcome.violations;
        for found in &outcome.found {
            println!("{found}");
        }
    }
    if violations == 0 {
        println!("all: {all}, violations 0");
        return Ok(ExitCode::SUCCESS);
    }
    let kept = temporary.map_or(folder, tempfile::TempDir::keep);
    let seconds = options.lasts.as_secs();
    let workers = options.workers;
    println!("again: dlock-torture --seed {seed} --seconds {seconds} --workers {workers}");
    println!("the histories are in {}", kept.display());
    println!("all: {all}, violations {violations}");
    Ok(ExitCode::from(FOUND))
}

/// `check FOLDER`: what the kept histories of one round say.
fn check(words: &[String]) -> Result<ExitCode, Failure> {
    let [folder] = words else {
        return Err("check FOLDER: a folder with the histories of a round".into());
    };
    let report = History::read(Path::new(folder))?.check(&Rules::default());
    println!("{report}");
    Ok(match report.violations.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FOUND),
    })
}

fn random_seed() -> Result<u64, Failure> {
    let mut seed = [0; 4];
    getrandom::fill(&mut seed)?;
    // Short enough to be typed.
    Ok(u64::from(u32::from_le_bytes(seed)))
}

/// `worker BACKEND URL HISTORIES RESOURCES ACTOR SEED BREAKS_UNTIL [SABOTAGE]`: what this program starts itself.
fn worker(words: &[String]) -> Result<(), Failure> {
    let ([backend, url, folder, resources, actor, seed, breaks_until]
    | [
        backend,
        url,
        folder,
        resources,
        actor,
        seed,
        breaks_until,
        _,
    ]) = words
    else {
        return Err("a worker is started by dlock-torture itself".into());
    };
    let sabotage = words.get(7).map(|name| name.parse()).transpose()?;
    worker::run(&worker::Job {
        backend: backend.parse()?,
        url,
        folder: Path::new(folder),
        resources: Path::new(resources),
        actor,
        seed: seed.parse()?,
        breaks_until: Time::from_nanos(breaks_until.parse()?),
        sabotage,
    })
}
