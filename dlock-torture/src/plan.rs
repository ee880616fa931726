//! The plan of all faults, drawn from the seed before anything runs, so that the same seed gives
//! the same faults.

use std::fmt;
use std::time::Duration;

use crate::backend::{Backend, LockSpec};
use crate::random::Random;

/// The faults of one round, in one list for each thread that carries them out. Each list is in the
/// order of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) network: Vec<Planned>,
    pub(crate) server: Vec<Planned>,
    pub(crate) workers: Vec<Planned>,
    /// Crashes of waiting processes.
    pub(crate) waiters: Vec<Planned>,
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
    /// SIGSTOP, and later SIGCONT.
    StopServer,
    /// SIGKILL, and later a restart.
    KillServer {
        keeps_data: bool,
    },
    Flush,
    FlushScripts,
    /// Redis is restored from an older copy of its file.
    OldFile,
    /// The queue of this lock in Redis is restored from an older copy.
    OldQueue(LockSpec),
    /// Redis refuses to store more.
    Full,
    /// memcached evicts its data.
    Evict,
    ClockForward(Duration),
    ClockBack(Duration),
    /// Another process locks all shards of a folder.
    HoldShards,
    /// The records of a folder are deleted.
    DeleteRecords,
    StopWorker(usize),
    KillWorker(usize),
    /// One worker after the other is killed and started again at once.
    CrashLoop,
    /// The server closes all subscriptions for wake-ups.
    KillSubscriptions,
    /// A foreign client takes this lock when it is free, and frees it.
    ForeignHolder(LockSpec),
    /// A foreign client overwrites this lock, held or not.
    ForeignSet(LockSpec),
    /// A foreign client deletes this lock, held or not.
    ForeignDelete(LockSpec),
    /// The slot of this lock moves to another primary of a cluster.
    MoveSlot(LockSpec),
    /// The replica of a third of the slots takes the place of the primary, in agreement with it. Or
    /// the sentinels promote a replica on demand, and the primary does not know it for a moment. Or
    /// another node of etcd becomes the leader, in agreement with it.
    Promote(usize),
    /// The primary of a third of the slots, of the sentinels or of PostgreSQL, or the leader of
    /// etcd, is killed and replaced.
    KillPrimary(usize),
    /// The same with one that is stopped, and continues.
    StopPrimary(usize),
    /// The same with one that is killed after the links to its replicas were cut: what it grants
    /// meanwhile reaches none of them.
    LosePrimary,
    /// The replica of a third of the slots, one of the sentinels' replicas, the standby of
    /// PostgreSQL or a follower of etcd is killed, and later started again.
    KillReplica(usize),
    /// The same with one that is stopped, and continues.
    StopReplica(usize),
    /// A sentinel is killed, and later started again.
    KillSentinel(usize),
    /// PostgreSQL ends the connections of all clients.
    TerminateBackends,
    /// One of PostgreSQL's processes is killed. The server then ends all others, and recovers.
    KillBackend,
    /// Another transaction locks the row of this lock.
    LockRow(LockSpec),
    /// The schema is brought up to date once more.
    Migrate,
    /// The leader and another node of etcd are stopped, and continue.
    StopMajority(usize),
    /// The same with nodes that are killed, and later started again.
    KillMajority(usize),
    /// etcd forgets former versions of its keys.
    Compact,
    /// This many processes, with this many threads each, wait for this lock and are killed at once.
    DeadWaiters(LockSpec, u64, u64),
    /// This many processes wait for this lock, and are killed and started again all the time.
    CrashingWaiters(LockSpec, u64),
}

/// The direction of the bytes that a fault affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Requests,
    Replies,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    Delay(Duration),
    /// Everything is held back and delivered afterwards.
    Hold,
    /// Everything is dropped, and the connections are cut afterwards.
    Lose,
    /// Each connection is cut after this many bytes.
    Cut(usize),
    /// One connection is cut after this many bytes.
    CutOne(usize),
    /// The bytes are delivered in pieces of this size with a pause after each.
    Split(usize, Duration),
}

impl Plan {
    /// Draws a round with `lasts` of faults.
    pub(crate) fn draw(
        seed: u64,
        backend: Backend,
        round: u64,
        lasts: Duration,
        workers: usize,
    ) -> Self {
        let random = |lane| Random::new(seed, &[backend as u64, round, lane]);
        // In a round without loss of data no violation is excused. On Redis the clock is set back
        // only in such rounds: if data is lost *and* the clock is behind, tokens may fall, as the
        // store documents.
        let loses_data = random(0).percent(50);
        let network = match backend {
            Backend::File
            | Backend::Cluster
            | Backend::Sentinel
            | Backend::SentinelReplicas
            | Backend::PostgresStandby => Vec::new(),
            _ => lane(random(1), lasts, 200..2000, 80..2500, network),
        };
        let gaps = match backend {
            Backend::Redis => 600..4000,
            _ => 1500..7000,
        };
        let server = match backend {
            // Every fault of memcached makes it lose data or time.
            Backend::Memcached if !loses_data => Vec::new(),
            _ => lane(random(2), lasts, gaps, 150..4500, |random| {
                server(random, backend, loses_data)
            }),
        };
        let server = server.into_iter().map(|planned| Planned {
            // Its effect, leases that end later, is over when the faults are over.
            fault: match planned.fault {
                Fault::ClockBack(by) if planned.at + by > lasts => Fault::FlushScripts,
                fault => fault,
            },
            ..planned
        });
        let workers = lane(random(3), lasts, 300..2500, 100..4000, |random| {
            let worker = usize::try_from(random.within(0..workers as u64)).unwrap_or(0);
            match random.within(0..20) {
                0..13 => Fault::StopWorker(worker),
                13 => Fault::CrashLoop,
                _ => Fault::KillWorker(worker),
            }
        });
        let waiters = lane(random(4), lasts, 1000..6000, 1000..4000, |random| {
            let name = random.pick(backend.locks());
            match random.percent(50) {
                true => Fault::CrashingWaiters(name, random.within(1..4)),
                false => Fault::DeadWaiters(name, random.within(1..7), random.within(1..16)),
            }
        });
        Plan {
            network,
            server: server.collect(),
            workers,
            waiters,
        }
    }

    /// All lists merged, in the order of time.
    pub(crate) fn all(&self) -> Vec<&Planned> {
        let mut all: Vec<_> = [&self.network, &self.server, &self.workers, &self.waiters]
            .into_iter()
            .flatten()
            .collect();
        all.sort_by_key(|planned| planned.at);
        all
    }
}

/// Draws faults one after the other, with gaps between. Only stops of workers may overlap: the
/// thread that stops a worker does not wait until it continues.
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
        // Most faults are short.
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
        // Cut at once: the server has carried out the request, and its answer is lost.
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
                4..7 if loses_data => Fault::OldQueue(name),
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
            6 if loses_data => Fault::Flush,
            7 if loses_data => Fault::OldFile,
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
        Backend::Cluster => cluster(random, backend.locks(), loses_data),
        Backend::Sentinel => sentinels(random, loses_data),
        // What both replicas have is not lost.
        Backend::SentinelReplicas => sentinels(random, true),
        Backend::Postgres => match number {
            0 | 1 => Fault::StopServer,
            2 | 3 => Fault::KillServer { keeps_data: true },
            4 => Fault::KillBackend,
            _ => postgres(random, backend.locks()),
        },
        Backend::PostgresStandby => match number {
            0 | 1 => Fault::KillPrimary(0),
            2 | 3 => Fault::StopPrimary(0),
            4 if loses_data => Fault::LosePrimary,
            4 | 5 => Fault::KillReplica(0),
            6 => Fault::StopReplica(0),
            _ => postgres(random, backend.locks()),
        },
        Backend::Etcd => match number {
            0..4 => Fault::StopServer,
            4..9 => Fault::KillServer { keeps_data: true },
            _ => Fault::Compact,
        },
        Backend::EtcdCluster => etcd_cluster(random),
        Backend::File => match number {
            6..10 if loses_data => Fault::DeleteRecords,
            _ => Fault::HoldShards,
        },
    }
}

/// What may lose data is drawn only if the round may: replicas lag, so a primary that is replaced
/// without its agreement takes its last grants with it.
fn cluster(random: &mut Random, locks: &[LockSpec], loses_data: bool) -> Fault {
    let third = usize::try_from(random.within(0..3)).unwrap_or(0);
    match random.within(0..10) {
        0..5 => Fault::MoveSlot(random.pick(locks)),
        5..7 if loses_data => Fault::KillPrimary(third),
        7 if loses_data => Fault::StopPrimary(third),
        5 | 8 => Fault::KillSubscriptions,
        6 => Fault::KillReplica(third),
        _ => Fault::Promote(third),
    }
}

/// Faults of a PostgreSQL server that goes on.
fn postgres(random: &mut Random, locks: &[LockSpec]) -> Fault {
    match random.within(0..6) {
        0..4 => Fault::LockRow(random.pick(locks)),
        4 => Fault::TerminateBackends,
        _ => Fault::Migrate,
    }
}

fn etcd_cluster(random: &mut Random) -> Fault {
    let follower = usize::try_from(random.within(0..2)).unwrap_or(0);
    match random.within(0..12) {
        0..3 => Fault::KillPrimary(0),
        3..5 => Fault::StopPrimary(0),
        5 => Fault::KillReplica(follower),
        6 => Fault::StopReplica(follower),
        7 | 8 => Fault::StopMajority(follower),
        9 => Fault::KillMajority(follower),
        10 => Fault::Promote(follower),
        _ => Fault::Compact,
    }
}

/// Sentinels replace a primary without its agreement, also on demand.
fn sentinels(random: &mut Random, replaces: bool) -> Fault {
    let replica = usize::try_from(random.within(0..2)).unwrap_or(0);
    match random.within(0..10) {
        0 | 1 if replaces => Fault::KillPrimary(0),
        2 if replaces => Fault::StopPrimary(0),
        3 | 4 if replaces => Fault::LosePrimary,
        5 if replaces => Fault::Promote(0),
        0..3 | 6 => Fault::KillReplica(replica),
        3 | 4 | 7 => Fault::StopReplica(replica),
        8 => Fault::KillSubscriptions,
        _ => Fault::KillSentinel(usize::try_from(random.within(0..3)).unwrap_or(0)),
    }
}

impl Fault {
    /// Its name in the statistics.
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
            Fault::OldFile => "old-file",
            Fault::OldQueue(_) => "old-queue",
            Fault::Full => "full",
            Fault::Evict => "evict",
            Fault::ClockForward(_) => "clock-forward",
            Fault::ClockBack(_) => "clock-back",
            Fault::HoldShards => "hold-shards",
            Fault::DeleteRecords => "delete-records",
            Fault::StopWorker(_) => "stop-worker",
            Fault::KillWorker(_) => "kill-worker",
            Fault::CrashLoop => "crash-loop",
            Fault::KillSubscriptions => "kill-subscriptions",
            Fault::ForeignHolder(_) => "foreign-holder",
            Fault::ForeignSet(_) => "foreign-set",
            Fault::ForeignDelete(_) => "foreign-delete",
            Fault::MoveSlot(_) => "move-slot",
            Fault::Promote(_) => "promote",
            Fault::KillPrimary(_) => "kill-primary",
            Fault::StopPrimary(_) => "stop-primary",
            Fault::LosePrimary => "lose-primary",
            Fault::KillReplica(_) => "kill-replica",
            Fault::StopReplica(_) => "stop-replica",
            Fault::KillSentinel(_) => "kill-sentinel",
            Fault::TerminateBackends => "terminate-backends",
            Fault::KillBackend => "kill-backend",
            Fault::LockRow(_) => "lock-row",
            Fault::Migrate => "migrate",
            Fault::StopMajority(_) => "stop-majority",
            Fault::KillMajority(_) => "kill-majority",
            Fault::Compact => "compact",
            Fault::DeadWaiters(..) => "dead-waiters",
            Fault::CrashingWaiters(..) => "crashing-waiters",
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, lasts) = (self.at.as_secs_f64(), self.lasts.as_secs_f64());
        write!(f, "{at:7.3} s for {lasts:5.3} s  {}", self.fault.name())?;
        match &self.fault {
            Fault::DeadWaiters(name, processes, threads) => {
                write!(f, " {} {processes} with {threads} threads", name.id)
            }
            Fault::CrashingWaiters(name, processes) => write!(f, " {} {processes}", name.id),
            Fault::Network(way, network) => write!(f, " {way:?} {network:?}"),
            Fault::ClockForward(by) | Fault::ClockBack(by) => write!(f, " {by:?}"),
            Fault::StopWorker(number)
            | Fault::KillWorker(number)
            | Fault::Promote(number)
            | Fault::KillPrimary(number)
            | Fault::StopPrimary(number)
            | Fault::KillReplica(number)
            | Fault::StopReplica(number)
            | Fault::KillSentinel(number)
            | Fault::StopMajority(number)
            | Fault::KillMajority(number) => write!(f, " {number}"),
            Fault::ForeignHolder(name)
            | Fault::ForeignSet(name)
            | Fault::ForeignDelete(name)
            | Fault::MoveSlot(name)
            | Fault::LockRow(name)
            | Fault::OldQueue(name) => {
                write!(f, " {}", name.id)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
