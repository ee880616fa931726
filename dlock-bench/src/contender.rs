//! One process of a crowd that contends for a lock. The program that measures tells it over its standard input what to do; it tells when
//! things happened, on the clock that all processes of a machine share.
//!
//! | line | |
//! | --- | --- |
//! | `ready` | said once |
//! | `wait THREAD MILLIS` | told: the thread shall acquire, hold for so long and release |
//! | `granted THREAD NANOS` | said as soon as it holds |
//! | `released THREAD NANOS` | said when it is told to wait again: not at once, so that writing it delays nobody |
//! | `pairs MILLIS` | told: acquire and release on the first thread for so long |
//! | `turn NANOS TIME…` | said then: how long it took altogether, and each pair |
//!
//! This file is also part of the programs of the peers, so it knows nothing of dlock.

use std::io::{self, BufRead, Write};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What can go wrong.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Somebody who wants the lock, on a thread of his own.
pub(crate) trait Contender: Send {
    /// Waits for as long as it takes.
    fn acquire(&mut self) -> Result<(), Failure>;

    /// Only after [`acquire`](Self::acquire).
    fn release(&mut self) -> Result<(), Failure>;
}

/// Does what it is told until its standard input ends.
pub(crate) fn contend(contenders: Vec<Box<dyn Contender>>) -> Result<(), Failure> {
    let mut contenders = contenders.into_iter();
    let mut first = contenders.next().ok_or("nobody contends")?;
    say("ready");
    let mut told = io::stdin().lock().lines();
    let mut line = told.next().transpose()?;
    while let Some(millis) = line.as_deref().and_then(|line| line.strip_prefix("pairs ")) {
        say(&pairs(&mut *first, Duration::from_millis(millis.parse()?))?);
        line = told.next().transpose()?;
    }
    let threads: Vec<_> = std::iter::once(first)
        .chain(contenders)
        .enumerate()
        .map(|(number, mut contender)| {
            let (tell, told) = channel();
            thread::spawn(move || {
                if let Err(error) = take_turns(number, &mut *contender, &told) {
                    say(&format!("failed {number} {error}"));
                }
            });
            tell
        })
        .collect();
    while let Some(text) = line {
        let mut words = text.split(' ').skip(1);
        let mut number = || words.next().unwrap_or_default().parse::<u64>();
        let (thread, millis) = (usize::try_from(number()?)?, number()?);
        threads[thread].send(Duration::from_millis(millis))?;
        line = told.next().transpose()?;
    }
    // Whoever waits need not wait on.
    std::process::exit(0);
}

fn take_turns(
    number: usize,
    contender: &mut dyn Contender,
    told: &Receiver<Duration>,
) -> Result<(), Failure> {
    let mut released = None;
    for hold in told {
        if let Some(at) = released {
            say(&format!("released {number} {at}"));
        }
        contender.acquire()?;
        let granted = now();
        say(&format!("granted {number} {granted}"));
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

fn say(line: &str) {
    // If nobody listens any more, the end of the standard input says so as well.
    let _ = writeln!(io::stdout().lock(), "{line}");
}
