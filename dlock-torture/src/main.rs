//! Runs real processes that lock, injects faults into them, their servers and their network at
//! random, and checks their histories.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod async_worker;
mod backend;
mod cluster;
mod command;
mod crash;
mod dozing;
mod ended;
mod etcd;
mod job;
mod lanes;
mod launch;
mod old_data;
mod options;
mod plan;
mod postgres;
mod postgres_faults;
mod programs;
mod random;
mod run;
mod sabotage;
mod sentinels;
mod verdict;
mod waiter;
mod worker;
mod workers;

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use dlock_core::Time;
use dlock_history::{Figures, History, Rules};

use options::Options;
use programs::Programs;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A violation was found.
const FOUND: u8 = 1;
/// It could not run.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    if programs::is_dlock() {
        return dlock_cli::main(env::args_os().skip(1));
    }
    let words: Vec<String> = env::args().skip(1).collect();
    let result = match words.first().map(String::as_str) {
        Some("worker") => worker(&words[1..], worker::run).map(|()| ExitCode::SUCCESS),
        Some("async-worker") => worker(&words[1..], async_worker::run).map(|()| ExitCode::SUCCESS),
        Some("waiter") => waiter::run(&words[1..]).map(|()| ExitCode::SUCCESS),
        Some("job") => job::run(&words[1..]).map(|()| ExitCode::SUCCESS),
        Some("limited") => job::limited(&words[1..]).map(|()| ExitCode::SUCCESS),
        Some("fill") => job::fill(&words[1..]).map(|()| ExitCode::SUCCESS),
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
    let (folder, temporary) = run::folder(&options)?;
    let programs = Programs::copy_to(&folder.join("bin"))?;
    println!("seed {seed}, {} s", options.lasts.as_secs());
    let start = Instant::now();
    let print_line = |line: &str| println!("{:8.2} {line}", start.elapsed().as_secs_f64());
    let outcomes: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = options
            .backends
            .iter()
            .map(|backend| {
                scope
                    .spawn(|| run::run(*backend, &options, seed, (&folder, &programs), &print_line))
            })
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

/// `check FOLDER`: checks the kept histories of one round again.
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
    // Short enough to type.
    Ok(u64::from(u32::from_le_bytes(seed)))
}

/// `worker BACKEND URL HISTORIES RESOURCES ACTOR SEED BREAKS_UNTIL [SABOTAGE]`: a worker, which
/// this program starts itself; `async-worker` is one that uses async locks.
fn worker(
    words: &[String],
    run: fn(&worker::Job<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
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
    run(&worker::Job {
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
