//! Pairs of a competitor in a process of its own, which runs its turn on command.

use std::time::Duration;

use crate::Failure;
use crate::competitor::Competitor;
use crate::contenders::{Contenders, Event};
use crate::rounds::Subject;
use crate::series::Turn;

/// Longer than a turn lasts.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct CompetitorPairs {
    name: &'static str,
    contenders: Contenders,
}

impl CompetitorPairs {
    /// Starts one process with one thread, on the core of the calling thread.
    pub(crate) fn start(
        competitor: &Competitor,
        url: &str,
        ttl: Duration,
    ) -> Result<Self, Failure> {
        Ok(CompetitorPairs {
            name: competitor.name,
            contenders: Contenders::start(competitor, url, &[1], ttl)?,
        })
    }
}

impl Subject for CompetitorPairs {
    fn name(&self) -> &str {
        self.name
    }

    fn turn(&mut self, lasts: Duration) -> Result<Turn, Failure> {
        self.contenders.send_pairs(lasts)?;
        match self.contenders.next(PATIENCE)?.map(|message| message.event) {
            Some(Event::Turn(turn)) => Ok(turn),
            other => Err(format!("{} reported {other:?} instead of its times", self.name).into()),
        }
    }
}
