//! Measures dlock beside the bare wire and beside other libraries, in one run: `cargo run --release -p dlock-bench -- --help`.
//!
//! It is a library only for its own tests, which count, and for the programs of its peers.

#![deny(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

pub mod allocations;
mod bench;
mod by_hand;
mod chart;
mod contender;
mod cores;
mod crowd;
mod entry;
mod follower;
mod machine;
mod measure;
mod options;
mod report;
mod rival;
mod rival_pairs;
mod rounds;
mod series;
mod stage;
mod tap;

use std::env;
use std::process::ExitCode;
use std::time::Instant;

use bench::Bench;
use options::Options;
use report::Report;

/// Whatever goes wrong ends the run: half a measurement is none.
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
    if let Some(("contend", words)) = words.split_first().map(|(first, rest)| (&**first, rest)) {
        return rival::contend(words);
    }
    let options = Options::parse(lexopt::Parser::from_env())?;
    if options.help {
        print!("{}", options::help());
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
