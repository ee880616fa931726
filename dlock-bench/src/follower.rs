//! Follows a crowd from hand-over to hand-over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::contender::now;
use crate::crowd::{Crowd, Said, What, Who};

/// A crowd is spread over at most so many processes.
const PROCESSES: usize = 20;

/// How many threads each process of a crowd has that is one holder and so many waiters.
pub(crate) fn spread(waiters: usize) -> Vec<usize> {
    let contenders = waiters + 1;
    let processes = contenders.min(PROCESSES);
    (0..processes)
        .map(|process| contenders / processes + usize::from(process < contenders % processes))
        .collect()
}

/// What was seen of hand-overs.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// From one process to another, in nanoseconds. Not negative: a grant before the release has returned took no time.
    pub(crate) times: Vec<u64>,
    /// All of them.
    pub(crate) grants: u64,
    /// In nanoseconds, of those who were granted the lock and of those who still wait.
    pub(crate) longest_wait: u64,
    /// Contenders that gave up because something went wrong.
    pub(crate) failures: u64,
}

/// Follows a crowd: whoever released waits again as soon as another holds, so that there are always as many waiters.
pub(crate) struct Follower<'a> {
    crowd: &'a mut Crowd,
    hold: Duration,
    /// Since when.
    waiting: HashMap<Who, u64>,
    holder: Option<Who>,
    /// Who held before, until it has told when it released, and when the holder was granted.
    succeeded: Option<(Who, u64)>,
}

impl<'a> Follower<'a> {
    /// Everybody begins to wait, to hold for so long each time: long enough that whoever released the lock waits again before the next release.
    pub(crate) fn begin(crowd: &'a mut Crowd, hold: Duration) -> Result<Self, Failure> {
        let everybody = crowd.everybody.clone();
        let mut follower = Follower {
            crowd,
            hold,
            waiting: HashMap::new(),
            holder: None,
            succeeded: None,
        };
        everybody
            .into_iter()
            .try_for_each(|who| follower.send(who))?;
        Ok(follower)
    }

    /// Goes on for so long.
    pub(crate) fn follow(&mut self, lasts: Duration) -> Result<Seen, Failure> {
        let (start, mut seen) = (Instant::now(), Seen::default());
        while let Some(left) = lasts.checked_sub(start.elapsed()) {
            let Some(Said { who, what }) = self.crowd.next(left)? else {
                break;
            };
            match what {
                What::Granted(at) => {
                    seen.grants += 1;
                    let began = self.waiting.remove(&who).unwrap_or(at);
                    seen.longest_wait = seen.longest_wait.max(at.saturating_sub(began));
                    if let Some(before) = self.holder.replace(who) {
                        self.succeeded = Some((before, at));
                        self.send(before)?;
                    }
                }
                What::Released(at) => {
                    let succeeded = self.succeeded.take_if(|(before, _)| *before == who);
                    let holder = self.holder.map(|holder| holder.process);
                    if let Some((before, granted)) = succeeded
                        && holder != Some(before.process)
                    {
                        seen.times.push(granted.saturating_sub(at));
                    }
                }
                What::Failed(why) => {
                    eprintln!("a contender failed: {why}");
                    seen.failures += 1;
                }
                What::Ready | What::Turn(_) => {}
            }
        }
        if let Some(since) = self.waiting.values().min() {
            seen.longest_wait = seen.longest_wait.max(now().saturating_sub(*since));
        }
        Ok(seen)
    }

    fn send(&mut self, who: Who) -> Result<(), Failure> {
        self.waiting.insert(who, now());
        self.crowd.send(who, self.hold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_the_waiters_and_the_holder() {
        for (waiters, processes) in [(1, 2), (10, 11), (100, 20), (1000, 20)] {
            let threads = spread(waiters);
            assert_eq!(threads.len(), processes);
            assert_eq!(threads.iter().sum::<usize>(), waiters + 1);
            assert!(threads.iter().max().unwrap() - threads.iter().min().unwrap() <= 1);
        }
    }
}
