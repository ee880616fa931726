//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use lexopt::Arg::{Long, Short};
use lexopt::ValueExt;

const HELP: &str = "\
Measures dlock, the bare wire and other libraries, on servers of its own, and prints Markdown.

usage: dlock-bench [OPTIONS]

  --only NAME    only this measurement; may be given more than once
  --out FOLDER   write the tables (results.md) and the charts (*.svg) there as well
  --no-peers     leave out other libraries, which are built from the registry
  --quick        a few seconds, without peers: shows that everything runs; the figures mean nothing

measurements:";

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) only: Vec<String>,
    pub(crate) out: Option<PathBuf>,
    pub(crate) quick: bool,
    pub(crate) peers: bool,
    pub(crate) help: bool,
}

/// What `--help` prints, with the names of the measurements.
pub(crate) fn help(names: &[&str]) -> String {
    format!("{HELP} {}\n", names.join(", "))
}

impl Options {
    /// Reads the command line of a program that has these measurements.
    pub(crate) fn parse(mut parser: lexopt::Parser, names: &[&str]) -> Result<Self, lexopt::Error> {
        let mut options = Options {
            peers: true,
            ..Options::default()
        };
        while let Some(argument) = parser.next()? {
            match argument {
                Long("only") => {
                    let name = parser.value()?.string()?;
                    if !names.contains(&&*name) {
                        return Err(format!("there is no measurement {name:?}; see --help").into());
                    }
                    options.only.push(name);
                }
                Long("out") => options.out = Some(parser.value()?.into()),
                Long("quick") => (options.quick, options.peers) = (true, false),
                Long("no-peers") => options.peers = false,
                Long("help") | Short('h') => options.help = true,
                _ => return Err(argument.unexpected()),
            }
        }
        Ok(options)
    }

    /// Returns whether to run this measurement.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }

    /// The first value in a full run, the second in a quick one.
    pub(crate) fn either<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// The number of rounds, in each of which every subject has a turn.
    pub(crate) fn rounds(&self) -> usize {
        self.either(15, 2)
    }

    /// How long a turn lasts.
    pub(crate) fn turn(&self) -> Duration {
        Duration::from_millis(self.either(100, 5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, lexopt::Error> {
        Options::parse(lexopt::Parser::from_args(words), &["redis-pairs"])
    }

    #[test]
    fn the_command_line_is_read() {
        let options = parse(&["--only", "redis-pairs", "--out", "/x", "--quick"]).unwrap();
        assert!(options.wants("redis-pairs") && !options.wants("file-pairs"));
        assert_eq!(options.out, Some("/x".into()));
        assert!(parse(&[]).unwrap().wants("file-pairs"));
    }

    #[test]
    fn a_wrong_command_line_is_refused() {
        for words in [&["--only", "x"][..], &["--only"], &["x"], &["--fast"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
