//! What is broken when: drawn from the seed before anything runs, so that the same seed breaks the same things.

use std::fmt;
use std::time::Duration;

use crate::backend::{Backend, Name};
use crate::random::Random;

/// What is broken in one round, by who breaks it. Each list is in the order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) network: Vec<Planned>,
    pub(crate) server: Vec<Planned>,
    pub(crate) workers: Vec<Planned>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned {
    /// Counted from the start of the round.
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Network(Way, Network),
    /// All connections are cut.
    CutAll,
    /// New connections are closed at once.
    RefuseConnections,
    /// SIGSTOP, later SIGCONT.
    StopServer,
    /// SIGKILL, later started again.
    KillServer {
        keeps_data: bool,
    },
    Flush,
    FlushScripts,
    /// Redis refuses to store more.
    Full,
    /// memcached throws out what it has.
    Evict,
    ClockForward(Duration),
    ClockBack(Duration),
    /// Somebody sits in all shards of a folder.
    HoldShards,
    /// The records of a folder are deleted.
    DeleteRecords,
    StopWorker(usize),
    KillWorker(usize),
    /// The server cuts off all who listen for wake-ups.
    KillSubscriptions,
    /// A client that knows nothing of the locks takes this one when it is free, and frees it.
    ForeignHolder(Name),
    /// Such a client takes this one from whoever holds it.
    ForeignSet(Name),
    /// Such a client frees this one, whoever holds it.
    ForeignDelete(Name),
}

/// Which way the bytes go that a fault meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Requests,
    Replies,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    Delay(Duration),
    /// Silence, and everything comes after it.
    Hold,
    /// Silence, and the connections are cut after it.
    Lose,
    /// Each connection is cut after so many bytes.
    Cut(usize),
    /// One connection is cut after so many bytes.
    CutOne(usize),
    /// In pieces of so many bytes with a pause after each.
    Split(usize, Duration),
}

impl Plan {
    /// Draws a round that breaks things for `lasts`.
    pub(crate) fn draw(
        seed: u64,
        backend: Backend,
        round: u64,
        lasts: Duration,
        workers: usize,
    ) -> Self {
        let random = |lane| Random::new(seed, &[backend as u64, round, lane]);
        // In a round without loss of data nothing is excused. On Redis it is the one in which the clock is set back: tokens may fall if data is
        // lost *and* the clock is behind, which the store says.
        let loses_data = random(0).percent(50);
        let network = match backend {
            Backend::File => Vec::new(),
            _ => lane(random(1), lasts, 200..2000, 80..2500, network),
        };
        let gaps = match backend {
            Backend::Redis => 600..4000,
            _ => 1500..7000,
        };
        let server = match backend {
            // Whatever is done to it, it forgets or loses count of time.
            Backend::Memcached if !loses_data => Vec::new(),
            _ => lane(random(2), lasts, gaps, 150..4500, |random| {
                server(random, backend, loses_data)
            }),
        };
        let server = server.into_iter().map(|planned| Planned {
            // What it leaves behind, leases that end so much later, is over when the faults are.
            fault: match planned.fault {
                Fault::ClockBack(by) if planned.at + by > lasts => Fault::FlushScripts,
                fault => fault,
            },
            ..planned
        });
        let workers = lane(random(3), lasts, 300..2500, 100..4000, |random| {
            let worker = usize::try_from(random.within(0..workers as u64)).unwrap_or(0);
            match random.percent(65) {
                true => Fault::StopWorker(worker),
                false => Fault::KillWorker(worker),
            }
        });
        Plan {
            network,
            server: server.collect(),
            workers,
        }
    }

    /// All lists as one, by time.
    pub(crate) fn all(&self) -> Vec<&Planned> {
        let mut all: Vec<_> = [&self.network, &self.server, &self.workers]
            .into_iter()
            .flatten()
            .collect();
        all.sort_by_key(|planned| planned.at);
        all
    }
}

/// One thing after the other, with gaps between. Stopped workers overlap: whoever stops them does not wait for their going on.
fn lane(
    mut random: Random,
    end: Duration,
    gaps: std::ops::Range<u64>,
    lengths: std::ops::Range<u64>,
    mut draw: impl FnMut(&mut Random) -> Fault,
) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut at = random.millis(gaps.clone());
    while at < end {
        // Most are short.
        let longest = random.within(lengths.start + 1..lengths.end);
        let lasts = random.millis(lengths.start..longest + 1).min(end - at);
        let fault = draw(&mut random);
        let waits = !matches!(fault, Fault::StopWorker(_));
        planned.push(Planned { at, lasts, fault });
        at += random.millis(gaps.clone());
        if waits {
            at += lasts;
        }
    }
    planned
}

fn network(random: &mut Random) -> Fault {
    let way = random.pick(&[Way::Requests, Way::Replies, Way::Replies, Way::Both]);
    let network = match random.within(0..20) {
        0..4 => Network::Delay(random.millis(5..400)),
        4..7 => Network::Hold,
        7..9 => Network::Lose,
        // Cut at once: the server has carried the request out, and its answer is lost.
        9..11 => Network::CutOne(0),
        11..13 => Network::Cut(usize::try_from(random.within(0..200)).unwrap_or(0)),
        13 => Network::CutOne(usize::try_from(random.within(1..60)).unwrap_or(0)),
        14..17 => {
            let bytes = usize::try_from(random.within(1..9)).unwrap_or(1);
            Network::Split(bytes, random.millis(1..40))
        }
        17..19 => return Fault::CutAll,
        _ => return Fault::RefuseConnections,
    };
    Fault::Network(way, network)
}

fn server(random: &mut Random, backend: Backend, loses_data: bool) -> Fault {
    let number = random.within(0..10);
    match backend {
        Backend::Redis if random.percent(35) => {
            let name = random.pick(backend.locks());
            match number {
                0..4 => Fault::KillSubscriptions,
                7 if loses_data => Fault::ForeignSet(name),
                8..10 if loses_data => Fault::ForeignDelete(name),
                _ => Fault::ForeignHolder(name),
            }
        }
        Backend::Redis => match number {
            0..2 => Fault::StopServer,
            2 => Fault::KillServer { keeps_data: true },
            3 => Fault::FlushScripts,
            4 => Fault::Full,
            5 => Fault::ClockForward(random.millis(500..20_000)),
            6..8 if loses_data => Fault::Flush,
            8 if loses_data => Fault::KillServer { keeps_data: false },
            6..8 => Fault::ClockBack(random.millis(500..5000)),
            8 => Fault::ClockForward(random.millis(500..5000)),
            _ => Fault::KillServer { keeps_data: true },
        },
        Backend::Memcached => match number {
            0..4 => Fault::StopServer,
            4..6 => Fault::KillServer { keeps_data: false },
            6..8 => Fault::Flush,
            _ => Fault::Evict,
        },
        Backend::File => match number {
            6..10 if loses_data => Fault::DeleteRecords,
            _ => Fault::HoldShards,
        },
    }
}

impl Fault {
    /// A word for it, under which it is counted.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Fault::Network(_, Network::Delay(_)) => "delay",
            Fault::Network(_, Network::Hold) => "silence",
            Fault::Network(_, Network::Lose) => "bytes-lost",
            Fault::Network(_, Network::Cut(_)) => "cut-each",
            Fault::Network(Way::Replies, Network::CutOne(0)) => "reply-lost",
            Fault::Network(_, Network::CutOne(_)) => "cut-one",
            Fault::Network(_, Network::Split(..)) => "dribble",
            Fault::CutAll => "cut-all",
            Fault::RefuseConnections => "refuse",
            Fault::StopServer => "stop-server",
            Fault::KillServer { keeps_data: true } => "kill-server",
            Fault::KillServer { keeps_data: false } => "kill-server-empty",
            Fault::Flush => "flush",
            Fault::FlushScripts => "flush-scripts",
            Fault::Full => "full",
            Fault::Evict => "evict",
            Fault::ClockForward(_) => "clock-forward",
            Fault::ClockBack(_) => "clock-back",
            Fault::HoldShards => "hold-shards",
            Fault::DeleteRecords => "delete-records",
            Fault::StopWorker(_) => "stop-worker",
            Fault::KillWorker(_) => "kill-worker",
            Fault::KillSubscriptions => "kill-subscriptions",
            Fault::ForeignHolder(_) => "foreign-holder",
            Fault::ForeignSet(_) => "foreign-set",
            Fault::ForeignDelete(_) => "foreign-delete",
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at.as_secs_f64(), self.lasts.as_secs_f64());
        write!(f, "{at:7.3} s for {lasts:5.3} s  {}", self.fault.name())?;
        match &self.fault {
            Fault::Network(way, network) => write!(f, " {way:?} {network:?}"),
            Fault::ClockForward(by) | Fault::ClockBack(by) => write!(f, " {by:?}"),
            Fault::StopWorker(number) | Fault::KillWorker(number) => write!(f, " {number}"),
            Fault::ForeignHolder(name) | Fault::ForeignSet(name) | Fault::ForeignDelete(name) => {
                write!(f, " {}", name.id)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const LASTS: Duration = Duration::from_secs(20);

    #[test]
    fn the_same_seed_plans_the_same() {
        let plan = |seed| Plan::draw(seed, Backend::Redis, 3, LASTS, 5);
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn everything_is_planned_sooner_or_later_and_ends_in_time() {
        let mut seen = BTreeSet::new();
        for round in 0..100 {
            for backend in Backend::ALL {
                let plan = Plan::draw(1, backend, round, LASTS, 5);
                for planned in plan.all() {
                    assert!(planned.at + planned.lasts <= LASTS, "{planned}");
                    seen.insert(planned.fault.name());
                }
            }
        }
        assert_eq!(seen.len(), 26, "{seen:?}");
    }

    #[test]
    fn no_round_loses_data_and_sets_the_clock_back() {
        for round in 0..200 {
            let plan = Plan::draw(1, Backend::Redis, round, LASTS, 5);
            let has = |names: &[&str]| {
                plan.server
                    .iter()
                    .any(|planned| names.contains(&planned.fault.name()))
            };
            assert!(!(has(&["flush", "kill-server-empty"]) && has(&["clock-back"])));
            assert!(!(has(&["foreign-set", "foreign-delete"]) && has(&["clock-back"])));
        }
    }

    #[test]
    fn a_clock_that_is_set_back_has_caught_up_when_the_faults_are_over() {
        for round in 0..200 {
            let plan = Plan::draw(1, Backend::Redis, round, LASTS, 5);
            for planned in plan.server {
                if let Fault::ClockBack(by) = planned.fault {
                    assert!(planned.at + by <= LASTS, "{planned:?}");
                }
            }
        }
    }
}
