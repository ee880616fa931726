//! Processes that contend for one lock, and the messages they send to the measuring process.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::competitor::Competitor;
use crate::machine::cpu_time;
use crate::series::Turn;

/// Only a process that hangs takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// One thread of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ContenderId {
    pub(crate) process: usize,
    pub(crate) thread: usize,
}

/// A line of a contender's output.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) contender: ContenderId,
    pub(crate) event: Event,
}

/// What happened, with its time in nanoseconds on the shared clock.
#[derive(Debug)]
pub(crate) enum Event {
    Ready,
    Granted(u64),
    Released(u64),
    Turn(Turn),
    Failed(String),
}

/// Processes of one competitor, with a lock of their own. Dropping it kills them.
pub(crate) struct Contenders {
    /// The lock's id.
    pub(crate) id: String,
    processes: Vec<(Child, ChildStdin)>,
    messages: Receiver<Message>,
    /// All threads, in the order in which they begin to wait: the first of each process, then the
    /// second of each, and so on.
    pub(crate) all: Vec<ContenderId>,
}

impl Contenders {
    /// Starts a process for each number of threads, and waits until all are ready. They run on the
    /// core of the calling thread.
    pub(crate) fn start(
        competitor: &Competitor,
        url: &str,
        threads: &[usize],
        ttl: Duration,
    ) -> Result<Self, Failure> {
        static CONTENDERS: AtomicU64 = AtomicU64::new(0);
        // A new lock, so that earlier contenders have left nothing at it.
        let id = format!("contenders-{}", CONTENDERS.fetch_add(1, Ordering::Relaxed));
        let (send, messages) = channel();
        let mut contenders = Contenders {
            id,
            processes: Vec::new(),
            messages,
            all: Vec::new(),
        };
        for (process, count) in threads.iter().enumerate() {
            let mut child = competitor
                .command(url, &contenders.id, *count, ttl)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?;
            let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
            let (stdin, stdout) = stdin.zip(stdout).ok_or("no pipes")?;
            contenders.processes.push((child, stdin));
            let send = send.clone();
            thread::spawn(move || listen(process, stdout, &send));
        }
        contenders.all = in_turn(threads);
        for _ in threads {
            contenders
                .next(PATIENCE)?
                .ok_or("a process did not get ready")?;
        }
        Ok(contenders)
    }

    /// Lets a contender acquire, hold for `hold`, and release.
    pub(crate) fn send(&mut self, contender: ContenderId, hold: Duration) -> Result<(), Failure> {
        let (_, stdin) = &mut self.processes[contender.process];
        Ok(stdin
            .write_all(format!("wait {} {}\n", contender.thread, hold.as_millis()).as_bytes())?)
    }

    /// Lets the first contender acquire and release for `lasts`. Call it before
    /// [`send`](Self::send).
    pub(crate) fn send_pairs(&mut self, lasts: Duration) -> Result<(), Failure> {
        let (_, stdin) = self
            .processes
            .first_mut()
            .ok_or("there are no contenders")?;
        Ok(writeln!(stdin, "pairs {}", lasts.as_millis())?)
    }

    /// The next message; `None` if none comes within `within`.
    pub(crate) fn next(&self, within: Duration) -> Result<Option<Message>, Failure> {
        match self.messages.recv_timeout(within) {
            Ok(message) => Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("all contenders are gone".into()),
        }
    }

    /// Waits for the next grant.
    pub(crate) fn granted(&self) -> Result<(ContenderId, u64), Failure> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            match self.next(PATIENCE)? {
                Some(Message {
                    contender,
                    event: Event::Granted(at),
                }) => return Ok((contender, at)),
                Some(Message {
                    event: Event::Failed(why),
                    ..
                }) => return Err(why.into()),
                _ => {}
            }
        }
        Err("no contender is granted the lock".into())
    }

    /// The CPU time of all processes together so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration, Failure> {
        let times = self.processes.iter().map(|(child, _)| cpu_time(child.id()));
        times.sum()
    }

    /// Kills a process with SIGKILL.
    pub(crate) fn kill(&mut self, process: usize) -> Result<(), Failure> {
        let (child, _) = &mut self.processes[process];
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for Contenders {
    fn drop(&mut self) {
        for (child, _) in &mut self.processes {
            let _ = child.kill();
        }
        for (child, _) in &mut self.processes {
            let _ = child.wait();
        }
    }
}

/// All threads of processes with these numbers of them, in the order in which they begin.
fn in_turn(threads: &[usize]) -> Vec<ContenderId> {
    let most = threads.iter().max().copied().unwrap_or_default();
    let of_each = |thread| {
        let processes = (0..threads.len()).filter(move |process| thread < threads[*process]);
        processes.map(move |process| ContenderId { process, thread })
    };
    (0..most).flat_map(of_each).collect()
}

fn listen(process: usize, from: ChildStdout, send: &Sender<Message>) {
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        let message = read(process, &line).unwrap_or(Message {
            contender: ContenderId { process, thread: 0 },
            event: Event::Failed(line),
        });
        if send.send(message).is_err() {
            return;
        }
    }
}

fn read(process: usize, line: &str) -> Option<Message> {
    if let Some(numbers) = line.strip_prefix("turn ") {
        let contender = ContenderId { process, thread: 0 };
        let event = Event::Turn(turn(numbers)?);
        return Some(Message { contender, event });
    }
    let mut words = line.splitn(3, ' ');
    let word = words.next()?;
    let thread = words.next().unwrap_or("0").parse().ok()?;
    let mut at = || words.next()?.parse().ok();
    let event = match word {
        "ready" => Event::Ready,
        "granted" => Event::Granted(at()?),
        "released" => Event::Released(at()?),
        _ => return None,
    };
    Some(Message {
        contender: ContenderId { process, thread },
        event,
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
    fn the_processes_begin_in_turn() {
        let all = in_turn(&[2, 1, 3]);
        let all = all.iter().map(|id| (id.process, id.thread));
        let expected = [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (2, 2)];
        assert_eq!(all.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_lines_of_a_contender_are_parsed() {
        let message = read(3, "granted 7 123").unwrap();
        assert_eq!(
            (message.contender.process, message.contender.thread),
            (3, 7)
        );
        assert!(matches!(message.event, Event::Granted(123)));
        let Some(Message {
            event: Event::Turn(turn),
            ..
        }) = read(0, "turn 50 20 30")
        else {
            panic!("no turn");
        };
        assert_eq!((turn.operations, turn.times), (2, vec![20, 30]));
        for unexpected in [
            "",
            "granted",
            "granted 1",
            "granted x 1",
            "failed 1 why",
            "turn x",
        ] {
            assert!(read(0, unexpected).is_none(), "{unexpected}");
        }
    }
}
