//! One of several processes that contend for a lock. It reads commands of the measuring program
//! from its standard input, and reports the times of events on the clock that all processes of a
//! machine share.
//!
//! | line | |
//! | --- | --- |
//! | `ready` | sent once |
//! | `wait THREAD MILLIS` | received: the thread acquires, holds for that time and releases |
//! | `granted THREAD NANOS` | sent as soon as it holds |
//! | `released THREAD NANOS` | sent when the next `wait` arrives: not at once, so that writing it delays nobody |
//! | `pairs MILLIS` | received: acquire and release on the first thread for that time |
//! | `turn NANOS TIME…` | sent then: how long it took altogether, and each pair |
//!
//! This file is also part of the programs of the peers, so it knows nothing of dlock.

use std::io::{self, BufRead, Write};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Any error.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A client that contends for the lock, on its own thread.
pub(crate) trait Contender: Send {
    /// Waits until it has the lock.
    fn acquire(&mut self) -> Result<(), Failure>;

    /// Called only after [`acquire`](Self::acquire).
    fn release(&mut self) -> Result<(), Failure>;
}

/// Carries out commands until the standard input ends.
pub(crate) fn contend(contenders: Vec<Box<dyn Contender>>) -> Result<(), Failure> {
    let mut contenders = contenders.into_iter();
    let mut first = contenders.next().ok_or("nobody contends")?;
    write_line("ready");
    let mut commands = io::stdin().lock().lines();
    let mut line = commands.next().transpose()?;
    while let Some(millis) = line.as_deref().and_then(|line| line.strip_prefix("pairs ")) {
        write_line(&pairs(&mut *first, Duration::from_millis(millis.parse()?))?);
        line = commands.next().transpose()?;
    }
    let threads: Vec<_> = std::iter::once(first)
        .chain(contenders)
        .enumerate()
        .map(|(number, mut contender)| {
            let (send, holds) = channel();
            thread::spawn(move || {
                if let Err(error) = take_turns(number, &mut *contender, &holds) {
                    write_line(&format!("failed {number} {error}"));
                }
            });
            send
        })
        .collect();
    while let Some(text) = line {
        let mut words = text.split(' ').skip(1);
        let mut number = || words.next().unwrap_or_default().parse::<u64>();
        let (thread, millis) = (usize::try_from(number()?)?, number()?);
        threads[thread].send(Duration::from_millis(millis))?;
        line = commands.next().transpose()?;
    }
    // End even if threads still wait.
    std::process::exit(0);
}

fn take_turns(
    number: usize,
    contender: &mut dyn Contender,
    holds: &Receiver<Duration>,
) -> Result<(), Failure> {
    let mut released = None;
    for hold in holds {
        if let Some(at) = released {
            write_line(&format!("released {number} {at}"));
        }
        contender.acquire()?;
        let granted = now();
        write_line(&format!("granted {number} {granted}"));
        thread::sleep(hold);
        contender.release()?;
        released = Some(now());
    }
    Ok(())
}

fn pairs(contender: &mut dyn Contender, lasts: Duration) -> Result<String, Failure> {
    let (start, mut elapsed, mut times) = (Instant::now(), Duration::ZERO, String::new());
    while elapsed < lasts {
        contender.acquire()?;
        contender.release()?;
        let now = start.elapsed();
        times.push_str(&format!(" {}", (now - elapsed).as_nanos()));
        elapsed = now;
    }
    Ok(format!("turn {}{times}", elapsed.as_nanos()))
}

/// Nanoseconds on the clock that all processes share.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

fn write_line(line: &str) {
    // If the reader is gone, the standard input ends too, which ends this process.
    let _ = writeln!(io::stdout().lock(), "{line}");
}
