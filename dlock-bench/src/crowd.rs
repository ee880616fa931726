//! A crowd of processes that contend for one lock, as the process that measures sees it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::machine::cpu_time;
use crate::rival::Rival;
use crate::series::Turn;

/// Nothing takes longer but a process that hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A thread of the crowd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Who {
    pub(crate) process: usize,
    pub(crate) thread: usize,
}

/// What somebody said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) who: Who,
    pub(crate) what: What,
}

/// At which nanosecond of the clock that all share.
#[derive(Debug)]
pub(crate) enum What {
    Ready,
    Granted(u64),
    Released(u64),
    Turn(Turn),
    Failed(String),
}

/// Processes of one rival, and a lock of their own. Dropping it kills them.
pub(crate) struct Crowd {
    /// The lock's.
    pub(crate) id: String,
    processes: Vec<(Child, ChildStdin)>,
    said: Receiver<Said>,
    /// Everybody, in the order in which they begin to wait.
    pub(crate) everybody: Vec<Who>,
}

impl Crowd {
    /// Starts processes with so many threads each, and waits until all are ready. They run where the calling thread does.
    pub(crate) fn start(
        rival: &Rival,
        url: &str,
        threads: &[usize],
        ttl: Duration,
    ) -> Result<Self, Failure> {
        static CROWDS: AtomicU64 = AtomicU64::new(0);
        // What the crowds before it left behind must not matter.
        let id = format!("crowd-{}", CROWDS.fetch_add(1, Ordering::Relaxed));
        let (tell, said) = channel();
        let mut crowd = Crowd {
            id,
            processes: Vec::new(),
            said,
            everybody: Vec::new(),
        };
        for (process, count) in threads.iter().enumerate() {
            let mut child = rival
                .command(url, &crowd.id, *count, ttl)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
            let (stdin, stdout) = stdin.zip(stdout).ok_or("no pipes")?;
            crowd.processes.push((child, stdin));
            let tell = tell.clone();
            thread::spawn(move || listen(process, stdout, &tell));
            crowd
                .everybody
                .extend((0..*count).map(|thread| Who { process, thread }));
        }
        for _ in threads {
            crowd.next(PATIENCE)?.ok_or("a process did not get ready")?;
        }
        Ok(crowd)
    }

    /// Lets somebody acquire, hold for so long, and release.
    pub(crate) fn send(&mut self, who: Who, hold: Duration) -> Result<(), Failure> {
        let (_, stdin) = &mut self.processes[who.process];
        Ok(stdin.write_all(format!("wait {} {}\n", who.thread, hold.as_millis()).as_bytes())?)
    }

    /// Lets the first one acquire and release for so long, before anybody was sent.
    pub(crate) fn send_pairs(&mut self, lasts: Duration) -> Result<(), Failure> {
        let (_, stdin) = self.processes.first_mut().ok_or("an empty crowd")?;
        Ok(writeln!(stdin, "pairs {}", lasts.as_millis())?)
    }

    /// What is said next; `None` if nothing is for so long.
    pub(crate) fn next(&self, within: Duration) -> Result<Option<Said>, Failure> {
        match self.said.recv_timeout(within) {
            Ok(said) => Ok(Some(said)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("all contenders are gone".into()),
        }
    }

    /// Waits for the next grant.
    pub(crate) fn granted(&self) -> Result<(Who, u64), Failure> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            match self.next(PATIENCE)? {
                Some(Said {
                    who,
                    what: What::Granted(at),
                }) => return Ok((who, at)),
                Some(Said {
                    what: What::Failed(why),
                    ..
                }) => return Err(why.into()),
                _ => {}
            }
        }
        Err("nobody is granted the lock".into())
    }

    /// How long all of them together have run on a core so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration, Failure> {
        let times = self.processes.iter().map(|(child, _)| cpu_time(child.id()));
        times.sum()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, process: usize) -> Result<(), Failure> {
        let (child, _) = &mut self.processes[process];
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for (child, _) in &mut self.processes {
            let _ = child.kill();
        }
        for (child, _) in &mut self.processes {
            let _ = child.wait();
        }
    }
}

fn listen(process: usize, from: ChildStdout, tell: &Sender<Said>) {
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        let said = read(process, &line).unwrap_or(Said {
            who: Who { process, thread: 0 },
            what: What::Failed(line),
        });
        if tell.send(said).is_err() {
            return;
        }
    }
}

fn read(process: usize, line: &str) -> Option<Said> {
    if let Some(numbers) = line.strip_prefix("turn ") {
        let who = Who { process, thread: 0 };
        let what = What::Turn(turn(numbers)?);
        return Some(Said { who, what });
    }
    let mut words = line.splitn(3, ' ');
    let word = words.next()?;
    let thread = words.next().unwrap_or("0").parse().ok()?;
    let mut at = || words.next()?.parse().ok();
    let what = match word {
        "ready" => What::Ready,
        "granted" => What::Granted(at()?),
        "released" => What::Released(at()?),
        _ => return None,
    };
    Some(Said {
        who: Who { process, thread },
        what,
    })
}

fn turn(numbers: &str) -> Option<Turn> {
    let mut numbers = numbers.split(' ').map(str::parse);
    let elapsed = Duration::from_nanos(numbers.next()?.ok()?);
    let times = numbers.collect::<Result<Vec<u64>, _>>().ok()?;
    Some(Turn {
        operations: times.len() as u64,
        elapsed,
        times,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_says_is_read() {
        let said = read(3, "granted 7 123").unwrap();
        assert_eq!((said.who.process, said.who.thread), (3, 7));
        assert!(matches!(said.what, What::Granted(123)));
        let Some(Said {
            what: What::Turn(turn),
            ..
        }) = read(0, "turn 50 20 30")
        else {
            panic!("no turn");
        };
        assert_eq!((turn.operations, turn.times), (2, vec![20, 30]));
        for odd in [
            "",
            "granted",
            "granted 1",
            "granted x 1",
            "failed 1 why",
            "turn x",
        ] {
            assert!(read(0, odd).is_none(), "{odd}");
        }
    }
}
