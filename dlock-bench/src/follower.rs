//! Follows a crowd from hand-over to hand-over.

use std::time::{Duration, Instant};

use crate::Failure;
use crate::crowd::{Crowd, Said, What, Who};

/// How long the lock is held each time: long enough that whoever released it waits again before the next release.
pub(crate) const HOLD: Duration = Duration::from_millis(5);

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
    /// Contenders that gave up because something went wrong.
    pub(crate) failures: u64,
}

/// Follows a crowd: whoever released waits again as soon as another holds, so that there are always as many waiters.
pub(crate) struct Follower<'a> {
    crowd: &'a mut Crowd,
    holder: Option<Who>,
    /// Who held before, until it has told when it released, and when the holder was granted.
    succeeded: Option<(Who, u64)>,
}

impl<'a> Follower<'a> {
    /// Everybody begins to wait.
    pub(crate) fn begin(crowd: &'a mut Crowd) -> Result<Self, Failure> {
        for who in crowd.everybody.clone() {
            crowd.send(who, HOLD)?;
        }
        Ok(Follower {
            crowd,
            holder: None,
            succeeded: None,
        })
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
                    if let Some(before) = self.holder.replace(who) {
                        self.succeeded = Some((before, at));
                        self.crowd.send(before, HOLD)?;
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
                What::Ready => {}
            }
        }
        Ok(seen)
    }
}
