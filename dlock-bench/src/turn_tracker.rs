//! Follows contenders from hand-over to hand-over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::contender::now;
use crate::contenders::{ContenderId, Contenders, Event, Message};

/// The most processes for contenders.
const PROCESSES: usize = 20;
/// The pause after one contender of each process began to wait, in which all of them run.
const BETWEEN: Duration = Duration::from_millis(20);

/// Spreads one holder and `waiters` waiters over processes. Returns the number of threads of each
/// process.
pub(crate) fn spread(waiters: usize) -> Vec<usize> {
    let contenders = waiters + 1;
    let processes = contenders.min(PROCESSES);
    (0..processes)
        .map(|process| contenders / processes + usize::from(process < contenders % processes))
        .collect()
}

/// The hand-overs that were observed.
#[derive(Debug, Default)]
pub(crate) struct HandOvers {
    /// The times of hand-overs between processes, in nanoseconds. A grant before the release has
    /// returned counts as zero.
    pub(crate) times: Vec<u64>,
    /// The number of all grants.
    pub(crate) grants: u64,
    /// In nanoseconds, of contenders that were granted the lock and of those that still wait.
    pub(crate) longest_wait: u64,
    /// Contenders that ended with an error.
    pub(crate) failures: u64,
}

/// Follows contenders. A contender that has released waits again as soon as another one holds the
/// lock, so that the number of waiters stays the same.
pub(crate) struct TurnTracker<'a> {
    contenders: &'a mut Contenders,
    hold: Duration,
    /// The waiting contenders, and since when they wait.
    waiting: HashMap<ContenderId, u64>,
    holder: Option<ContenderId>,
    /// The previous holder, until it reports its release, with the time of the next grant.
    previous: Option<(ContenderId, u64)>,
}

impl<'a> TurnTracker<'a> {
    /// Lets all contenders wait. Each holds the lock for `hold`, which must be long enough that the
    /// previous holder waits again before the next release.
    ///
    /// One of each process begins, then another one of each. A process that has all its waiters
    /// side by side in the queue would get the lock only after seconds, and then keep it: most
    /// hand-overs would go to no other process, and the few that do would be the first ones that
    /// the process ever takes part in, which cost far more than the later ones.
    pub(crate) fn begin(contenders: &'a mut Contenders, hold: Duration) -> Result<Self, Failure> {
        let all = contenders.all.clone();
        let mut tracker = TurnTracker {
            contenders,
            hold,
            waiting: HashMap::new(),
            holder: None,
            previous: None,
        };
        for one_of_each in all.chunk_by(|one, next| one.thread == next.thread) {
            for contender in one_of_each {
                tracker.send(*contender)?;
            }
            tracker.follow(BETWEEN)?;
        }
        Ok(tracker)
    }

    /// Follows the contenders for `lasts`.
    pub(crate) fn follow(&mut self, lasts: Duration) -> Result<HandOvers, Failure> {
        let (start, mut hand_overs) = (Instant::now(), HandOvers::default());
        while let Some(left) = lasts.checked_sub(start.elapsed()) {
            let Some(Message { contender, event }) = self.contenders.next(left)? else {
                break;
            };
            match event {
                Event::Granted(at) => {
                    hand_overs.grants += 1;
                    let began = self.waiting.remove(&contender).unwrap_or(at);
                    hand_overs.longest_wait = hand_overs.longest_wait.max(at.saturating_sub(began));
                    if let Some(before) = self.holder.replace(contender) {
                        self.previous = Some((before, at));
                        self.send(before)?;
                    }
                }
                Event::Released(at) => {
                    let previous = self.previous.take_if(|(before, _)| *before == contender);
                    let holder = self.holder.map(|holder| holder.process);
                    if let Some((before, granted)) = previous
                        && holder != Some(before.process)
                    {
                        hand_overs.times.push(granted.saturating_sub(at));
                    }
                }
                Event::Failed(why) => {
                    eprintln!("a contender failed: {why}");
                    hand_overs.failures += 1;
                }
                Event::Ready | Event::Turn(_) => {}
            }
        }
        if let Some(since) = self.waiting.values().min() {
            hand_overs.longest_wait = hand_overs.longest_wait.max(now().saturating_sub(*since));
        }
        Ok(hand_overs)
    }

    fn send(&mut self, contender: ContenderId) -> Result<(), Failure> {
        self.waiting.insert(contender, now());
        self.contenders.send(contender, self.hold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contenders_are_the_waiters_and_the_holder() {
        for (waiters, processes) in [(1, 2), (10, 11), (100, 20), (1000, 20)] {
            let threads = spread(waiters);
            assert_eq!(threads.len(), processes);
            assert_eq!(threads.iter().sum::<usize>(), waiters + 1);
            assert!(threads.iter().max().unwrap() - threads.iter().min().unwrap() <= 1);
        }
    }
}
