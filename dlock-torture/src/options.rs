//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use lexopt::Arg::{Long, Short, Value};
use lexopt::ValueExt;

use crate::backend::Backend;
use crate::sabotage::Sabotage;

pub(crate) const HELP: &str = "\
Runs processes that lock, injects faults into them, their servers and their network, and checks their histories.

usage: dlock-torture [OPTIONS]
       dlock-torture check FOLDER   check the kept histories of a round again

  --minutes N, --seconds N  how long; default one minute
  --backend NAME            all (the default: redis, memcached and file, side by side), one of them,
                            cluster, sentinel, sentinel-replicas, where both replicas must acknowledge,
                            postgres, postgres-standby, etcd, or etcd-cluster
  --seed N                  determines all faults; random by default
  --workers N               processes for each store; default 6
  --keep FOLDER             keep the histories there, even if nothing is wrong
  --sabotage NAME           break a promise on purpose, to check that it is found: grants-too-long, frees-for-others,
                            tokens-stand-still, grants-what-is-held, passes-its-turn; of the commands: escapes,
                            never-ends, changes-signals, wrong-status; of the crashes: starves;
                            of sentinel-replicas: waits-for-none
";

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) lasts: Duration,
    pub(crate) backends: Vec<Backend>,
    pub(crate) seed: Option<u64>,
    pub(crate) workers: usize,
    pub(crate) keep: Option<PathBuf>,
    pub(crate) sabotage: Option<Sabotage>,
    pub(crate) help: bool,
}

impl Options {
    pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Self, lexopt::Error> {
        let mut options = Options {
            lasts: Duration::from_secs(60),
            backends: Vec::new(),
            seed: None,
            workers: 6,
            keep: None,
            sabotage: None,
            help: false,
        };
        while let Some(argument) = parser.next()? {
            match argument {
                Long("minutes") => {
                    let minutes: u32 = parser.value()?.parse()?;
                    options.lasts = Duration::from_secs(u64::from(minutes) * 60);
                }
                Long("seconds") => {
                    let seconds: u32 = parser.value()?.parse()?;
                    options.lasts = Duration::from_secs(u64::from(seconds));
                }
                Long("backend") => match parser.value()?.string()?.as_str() {
                    "all" => options.backends.extend(Backend::ALL),
                    name => options.backends.push(name.parse()?),
                },
                Long("seed") => options.seed = Some(parser.value()?.parse()?),
                Long("workers") => options.workers = parser.value()?.parse::<u8>()?.into(),
                Long("keep") => options.keep = Some(parser.value()?.into()),
                Long("sabotage") => options.sabotage = Some(parser.value()?.string()?.parse()?),
                Long("help") | Short('h') => options.help = true,
                Value(_) | Long(_) | Short(_) => return Err(argument.unexpected()),
            }
        }
        if options.backends.is_empty() {
            options.backends.extend(Backend::ALL);
        }
        options.backends.dedup();
        options.workers = options.workers.max(2);
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, lexopt::Error> {
        Options::parse(lexopt::Parser::from_args(words))
    }

    #[test]
    fn the_command_line_is_read() {
        let options = parse(&["--minutes", "2", "--backend", "file", "--seed", "7"]).unwrap();
        assert_eq!(options.lasts, Duration::from_secs(120));
        assert_eq!(options.backends, [Backend::File]);
        assert_eq!((options.seed, options.workers), (Some(7), 6));
        assert_eq!(parse(&[]).unwrap().backends, Backend::ALL);
        assert_eq!(parse(&["--backend", "all"]).unwrap().backends, Backend::ALL);
        for backend in Backend::OTHERS {
            let options = parse(&["--backend", backend.name()]).unwrap();
            assert_eq!(options.backends, [backend]);
        }
    }

    #[test]
    fn a_wrong_command_line_is_refused() {
        for words in [
            &["--minutes", "x"][..],
            &["--backend", "oracle"],
            &["--seed"],
            &["here"],
            &["--fast"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
