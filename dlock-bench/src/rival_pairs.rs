//! Pairs of a rival in a process of its own, which takes its turn when it is told to.

use std::time::Duration;

use crate::Failure;
use crate::crowd::{Crowd, What};
use crate::rival::Rival;
use crate::rounds::Subject;
use crate::series::Turn;

/// Longer than a turn lasts.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct RivalPairs {
    name: &'static str,
    crowd: Crowd,
}

impl RivalPairs {
    /// One process with one thread; it runs where the calling thread does.
    pub(crate) fn start(rival: &Rival, url: &str, ttl: Duration) -> Result<Self, Failure> {
        Ok(RivalPairs {
            name: rival.name,
            crowd: Crowd::start(rival, url, &[1], ttl)?,
        })
    }
}

impl Subject for RivalPairs {
    fn name(&self) -> &str {
        self.name
    }

    fn turn(&mut self, lasts: Duration) -> Result<Turn, Failure> {
        self.crowd.send_pairs(lasts)?;
        match self.crowd.next(PATIENCE)?.map(|said| said.what) {
            Some(What::Turn(turn)) => Ok(turn),
            other => Err(format!("{} said {other:?} instead of its times", self.name).into()),
        }
    }
}
