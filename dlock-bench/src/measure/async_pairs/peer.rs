//! The tasks of another library, in a process of their own that makes pairs on command.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use crate::Failure;
use crate::competitor::Competitor;
use crate::tasks::{Count, Kind};

/// A running process. Dropping it kills it.
pub(super) struct Peer {
    process: Child,
    commands: ChildStdin,
    counts: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts it and waits until it is ready.
    pub(super) fn start(
        competitor: &Competitor,
        url: &str,
        kind: Kind,
        tasks: usize,
        ttl: Duration,
    ) -> Result<Self, Failure> {
        let mut process = competitor
            .tasks_command(url, kind, tasks, ttl)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (commands, counts) = pipes.ok_or("no pipes")?;
        let mut peer = Peer {
            process,
            commands,
            counts: BufReader::new(counts),
        };
        match peer.line()?.as_str() {
            "ready" => Ok(peer),
            other => Err(format!("a peer sent {other:?} instead of `ready`").into()),
        }
    }

    /// Lets its tasks make pairs for about this long.
    pub(super) fn turn(&mut self, lasts: Duration) -> Result<Count, Failure> {
        writeln!(self.commands, "pairs {}", lasts.as_millis())?;
        let line = self.line()?;
        let mut numbers = line.split(' ').skip(1).map(str::parse::<u64>);
        let mut number = || {
            numbers
                .next()
                .ok_or("a number is missing")?
                .map_err(Failure::from)
        };
        Ok(Count {
            pairs: number()?,
            elapsed: Duration::from_nanos(number()?),
            client: Duration::from_nanos(number()?),
        })
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match self.counts.read_line(&mut line)? {
            0 => Err("a peer has ended".into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
