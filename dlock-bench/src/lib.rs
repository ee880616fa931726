//! Measures dlock, the bare wire and other libraries in one run: `cargo run --release -p
//! dlock-bench -- --help`.
//!
//! It is a library only for its own tests and for the programs of its peers.

#![deny(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

pub mod allocations;
mod bench;
mod chart;
mod competitor;
mod competitor_pairs;
mod contender;
mod contender_tasks;
mod contenders;
mod cores;
mod entry;
mod machine;
mod measure;
mod options;
mod raw_client;
mod recording_proxy;
mod report;
mod rounds;
mod series;
mod servers;
mod tasks;
mod turn_tracker;

use std::env;
use std::process::ExitCode;
use std::time::Instant;

use bench::Bench;
use options::Options;
use report::Report;

/// Any error. It ends the run, since a partial measurement is useless.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The whole program.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dlock-bench: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let words: Vec<String> = env::args().skip(1).collect();
    // The parts of this program that measurements start as processes.
    if let Some((part, words)) = words.split_first() {
        match &**part {
            "contend" => return competitor::contend(words),
            "contend-tasks" => return contender_tasks::contend(words),
            "job" => return measure::job(words),
            "memory" => return measure::memory(words),
            _ => {}
        }
    }
    let names: Vec<_> = measure::ALL.iter().map(|(name, _)| *name).collect();
    let options = Options::parse(lexopt::Parser::from_env(), &names)?;
    if options.help {
        print!("{}", options::help(&names));
        return Ok(());
    }
    let start = Instant::now();
    let mut report = Report::new(machine::describe(&options)?);
    let bench = Bench::new(options);
    let options = &bench.options;
    for (name, measure) in measure::ALL {
        if options.wants(name) {
            eprintln!("{:6.1} s  {name}", start.elapsed().as_secs_f64());
            report.push(measure(&bench)?);
        }
    }
    print!("{report}");
    if let Some(folder) = &options.out {
        report.write(folder)?;
    }
    Ok(())
}
