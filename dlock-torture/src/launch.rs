//! The plan for one `dlock run`, drawn from the seed before it is started.

use std::time::Duration;

use crate::backend::Backend;
use crate::random::Random;

/// One start of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launch {
    /// The signals that the command inherits as blocked or ignored.
    pub(crate) signals: Option<Signals>,
    /// A resource limit from its start.
    pub(crate) limit: Option<Limit>,
    /// The fault.
    pub(crate) then: Then,
    /// The time of the fault, counted from the start of the job, or from the start of the command
    /// if that does not matter.
    pub(crate) after: Duration,
    pub(crate) wait: Duration,
    /// How long the job wants to run.
    pub(crate) holds: Duration,
    /// Whether the job ignores SIGTERM.
    pub(crate) ignores_sigterm: bool,
}

/// Signals that are blocked or ignored when the command starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signals {
    pub(crate) blocked: bool,
    /// The names, in the format of `env`.
    pub(crate) names: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Nothing,
    /// SIGKILL to the command.
    KillCommand,
    /// SIGKILL to the job.
    KillJob,
    /// SIGTERM to the command, also while it waits.
    Terminate,
    /// The store stops answering, with or without closing connections, after a limit was filled.
    StoreDies {
        silent: bool,
        fills: Option<LimitKind>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) kind: LimitKind,
    pub(crate) at: u64,
}

/// The resource of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitKind {
    /// RLIMIT_NPROC: processes and threads of the user.
    Processes,
    /// RLIMIT_AS: bytes of memory.
    Memory,
    /// RLIMIT_NOFILE.
    Files,
}

const BLOCKED: [&str; 6] = [
    "CHLD",
    "TERM",
    "CHLD,TERM",
    "PIPE",
    "HUP,INT,QUIT,TERM",
    "CHLD,TERM,INT,HUP,QUIT,PIPE,ALRM,USR1,USR2,WINCH,CONT,TSTP",
];
const IGNORED: [&str; 5] = ["PIPE", "CHLD", "HUP", "TERM", "PIPE,CHLD,HUP"];
/// The length of a job that is meant to be ended early.
const ENDLESS: Duration = Duration::from_secs(12);

impl Launch {
    /// Draws a plan. `breaks` says whether the store may be taken from the command and the command
    /// killed.
    pub(crate) fn draw(random: &mut Random, backend: Backend, breaks: bool) -> Self {
        let signals = random.percent(45).then(|| {
            let blocked = random.percent(60);
            let names = if blocked {
                random.pick(&BLOCKED)
            } else {
                random.pick(&IGNORED)
            };
            Signals { blocked, names }
        });
        let then = then(random, backend);
        let limit = random.percent(12).then(|| limit(random));
        let short = match random.percent(10) {
            true => random.millis(4000..5000),
            false => random.millis(20..600),
        };
        let launch = Launch {
            signals,
            limit: None,
            then: Then::Nothing,
            after: random.millis(0..400),
            wait: random.pick(&[0, 1000, 3000, 3000].map(Duration::from_millis)),
            holds: short,
            ignores_sigterm: random.percent(25),
        };
        match (then, limit) {
            _ if !breaks => launch,
            (Then::StoreDies { .. }, _) => Launch {
                then,
                wait: Duration::from_secs(3),
                holds: ENDLESS,
                ..launch
            },
            (_, Some(limit)) => Launch {
                limit: Some(limit),
                ..launch
            },
            (Then::Nothing, None) => launch,
            // Without a fault it would wait for long, and it must not.
            (Then::Terminate, None) => Launch {
                then,
                wait: Duration::from_secs(30),
                ..launch
            },
            (then, None) => Launch {
                then,
                holds: launch.holds + Duration::from_secs(2),
                ..launch
            },
        }
    }

    /// Returns whether SIGTERM is sent and not blocked or ignored.
    pub(crate) fn ends_by_sigterm(&self) -> bool {
        let ignored = |signals: &Signals| !signals.blocked && signals.names.contains("TERM");
        self.then == Then::Terminate && !self.signals.as_ref().is_some_and(ignored)
    }

    /// The names of its faults in the statistics.
    pub(crate) fn faults(&self) -> Vec<&'static str> {
        let mut faults = Vec::new();
        faults.extend(self.signals.map(|signals| match signals.blocked {
            true => "signals-blocked",
            false => "signals-ignored",
        }));
        faults.extend(self.limit.map(|limit| match limit.kind {
            LimitKind::Processes => "few-processes",
            LimitKind::Memory => "little-memory",
            LimitKind::Files => "few-files",
        }));
        match self.then {
            Then::Nothing => {}
            Then::KillCommand => faults.push("kill-command"),
            Then::KillJob => faults.push("kill-job"),
            Then::Terminate => faults.push("end-command"),
            Then::StoreDies { fills, .. } => faults.push(match fills {
                None => "store-dies",
                Some(LimitKind::Processes) => "store-dies-no-process-left",
                Some(LimitKind::Memory) => "store-dies-no-memory-left",
                Some(LimitKind::Files) => "store-dies-no-file-left",
            }),
        }
        faults
    }
}

fn then(random: &mut Random, backend: Backend) -> Then {
    // A folder that does not answer blocks all processes, so do that less often.
    let dies = match backend {
        Backend::File => 15,
        // The nodes serve all commands, and there is no proxy for one of them.
        Backend::Cluster
        | Backend::Sentinel
        | Backend::SentinelReplicas
        | Backend::PostgresStandby
        | Backend::EtcdCluster => 0,
        Backend::Redis | Backend::Memcached | Backend::Postgres | Backend::Etcd => 35,
    };
    if random.percent(dies) {
        let fills = [
            None,
            Some(LimitKind::Processes),
            Some(LimitKind::Processes),
            Some(LimitKind::Memory),
            Some(LimitKind::Files),
        ];
        return Then::StoreDies {
            silent: random.percent(50),
            fills: random.pick(&fills),
        };
    }
    match random.within(0..10) {
        0..3 => Then::Terminate,
        3..6 => Then::KillCommand,
        6 | 7 => Then::KillJob,
        _ => Then::Nothing,
    }
}

fn limit(random: &mut Random) -> Limit {
    let (kind, at) = match random.within(0..3) {
        0 => (LimitKind::Processes, 1),
        1 => (LimitKind::Memory, random.within(6..160) << 20),
        _ => (LimitKind::Files, random.within(4..24)),
    };
    Limit { kind, at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_fault_of_a_command_is_drawn_at_some_point() {
        let mut drawn = BTreeSet::new();
        for number in 0..400 {
            for backend in Backend::ALL {
                let draw = || Launch::draw(&mut Random::new(1, &[number]), backend, true);
                assert_eq!(draw(), draw());
                drawn.extend(draw().faults());
            }
        }
        assert_eq!(drawn.len(), 12, "{drawn:?}");
    }

    #[test]
    fn during_the_calm_no_store_is_taken_from_a_command() {
        for number in 0..200 {
            let launch = Launch::draw(&mut Random::new(1, &[number]), Backend::Redis, false);
            assert_eq!((launch.then, launch.limit), (Then::Nothing, None));
        }
    }
}
