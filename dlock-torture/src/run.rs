//! The run: rounds of faults and calm for each backend, and the violations that were found.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::Clock;
use dlock_history::{Figures, History, Property, Recorder, Report, Rules, What};
use dlock_test_servers::faults::Proxy;

use crate::Failure;
use crate::backend::{Backend, Environment, Server};
use crate::cluster;
use crate::command::{self, Commands};
use crate::crash::{self, Crashes, Waiters};
use crate::etcd;
use crate::lanes::{self, Round};
use crate::options::Options;
use crate::plan::Plan;
use crate::postgres_faults;
use crate::programs::Programs;
use crate::sentinels;
use crate::workers::Workers;

/// About how long a round lasts.
const ROUND: Duration = Duration::from_secs(30);
/// The calm at the end of a round.
const CALM: Duration = Duration::from_secs(4);
/// The same for stores with a queue: its order is checked when the effects of the faults have
/// settled.
const CALM_OF_A_QUEUE: Duration = Duration::from_secs(11);
/// Each key must be acquired within this time after the last fault: the longest time to live, the
/// granularity, the step of a clock, and a generous time for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// After this many rounds with violations the run of a store ends.
const ENOUGH: usize = 5;
/// The number of commands that run at a time in each store.
const COMMANDS: u64 = 3;
/// How often the run checks whether every key was acquired.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// The result of one backend.
pub(crate) struct Outcome {
    pub(crate) backend: Backend,
    pub(crate) figures: Figures,
    pub(crate) rounds: u64,
    pub(crate) violations: usize,
    /// The violations as text, by round.
    pub(crate) found: Vec<String>,
}

/// Runs the rounds of one backend until there are enough violations or the time is over. It reports
/// progress through `print_line`.
pub(crate) fn run(
    backend: Backend,
    options: &Options,
    seed: u64,
    (folder, programs): (&Path, &Programs),
    print_line: &(dyn Fn(&str) + Sync),
) -> Outcome {
    let mut outcome = Outcome {
        backend,
        figures: Figures::default(),
        rounds: 0,
        violations: 0,
        found: Vec::new(),
    };
    let folder = folder.join(backend.name());
    if let Err(error) = rounds(options, seed, (&folder, programs), print_line, &mut outcome) {
        let text = format!("{}: {error}", backend.name());
        print_line(&text);
        outcome.violations += 1;
        outcome.found.push(text);
    }
    outcome
}

fn rounds(
    options: &Options,
    seed: u64,
    (folder, programs): (&Path, &Programs),
    print_line: &(dyn Fn(&str) + Sync),
    outcome: &mut Outcome,
) -> Result<(), Failure> {
    let backend = outcome.backend;
    let resources = folder.join("resources");
    fs::create_dir_all(&resources)?;
    let mut place = backend.start(folder);
    if let Some(sabotage) = options.sabotage {
        place.url = sabotage.url(place.url);
    }
    let mut rules = Rules {
        grants: 10,
        contended: 5,
        served: 5,
        // What a sabotage breaks, it breaks in blocking stores.
        dropped: if options.sabotage.is_some() { 0 } else { 5 },
        faults: 2,
        commands: 3,
        calm: true,
        ..Rules::default()
    };
    let count = (options.lasts.as_secs() / ROUND.as_secs()).max(1);
    let each = options.lasts / u32::try_from(count)?;
    let faults = each
        .saturating_sub(calm(backend) + crash::LASTS)
        .max(each / 3);
    let start = Instant::now();
    for number in 0..count {
        if number > 0 && start.elapsed() >= options.lasts {
            print_line(&format!("{}: the time is over", backend.name()));
            break;
        }
        let plan = Plan::draw(seed, backend, number, faults, options.workers);
        for planned in plan.all() {
            print_line(&format!("{} round {number}: {planned}", backend.name()));
        }
        let histories = folder.join(format!("round-{number}"));
        fs::create_dir_all(&histories)?;
        let seed = seed.wrapping_mul(31).wrapping_add(number * 1000);
        let lasts = (seed, faults);
        let folders = (&*histories, &*resources);
        round(&mut place, &plan, folders, lasts, options, programs)?;
        let report = History::read(&histories)?.check(&rules);
        outcome.rounds += 1;
        outcome.figures.add(&report.figures);
        print_line(&format!(
            "{} round {number}: {}, violations {}",
            backend.name(),
            report.figures,
            report.violations.len()
        ));
        if report.violations.is_empty() {
            if options.keep.is_none() {
                fs::remove_dir_all(&histories)?;
            }
        } else {
            let found = describe(&report, &histories);
            // Print it at once: the run may go on for an hour.
            print_line(&found);
            outcome.violations += report.violations.len();
            outcome.found.push(found);
            if outcome.found.len() >= ENOUGH {
                break;
            }
        }
        rules.fences = report.fences;
    }
    Ok(())
}

/// Runs one round: faults, then calm until every key was acquired.
fn round(
    place: &mut Environment,
    plan: &Plan,
    (histories, resources): (&Path, &Path),
    (seed, faults): (u64, Duration),
    options: &Options,
    programs: &Programs,
) -> Result<(), Failure> {
    let record = Recorder::of_faults(histories, "faults", place.backend.name())?;
    let folders = (histories, resources);
    let start = Clock::BOOTTIME.now();
    let mut workers = Workers::start_all(
        place.backend,
        &place.url,
        folders,
        (seed, start.saturating_add(faults)),
        options.workers,
        options.sabotage,
    )?;
    let round = Round {
        start,
        record: record.clone(),
    };
    let Environment {
        server,
        proxies,
        backend,
        url,
    } = place;
    let crashes = Crashes {
        backend: *backend,
        url,
        histories,
        seed,
        sabotage: options.sabotage,
    };
    let breaks_until = start.saturating_add(faults);
    let commands = Commands {
        backend: *backend,
        server: server.address(),
        locks: Path::new(&*url),
        histories,
        resources,
        programs,
        seed,
        sabotage: options.sabotage,
        breaks_until: match backend {
            // A folder that one command cannot use is blocked for all.
            Backend::File => breaks_until,
            // Each command has its own proxy.
            _ => breaks_until.saturating_add(crash::LASTS),
        },
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let commanders: Vec<_> = (0..COMMANDS)
            .map(|number| {
                scope.spawn({
                    let (commands, stop) = (&commands, &stop);
                    move || commands.run(number, stop)
                })
            })
            .collect();
        let result = until_calm(&round, plan, (server, proxies), &mut workers, &crashes).and_then(
            |healthy| {
                wait_for_progress(*backend, histories)?;
                healthy.finish()
            },
        );
        stop.store(true, Ordering::SeqCst);
        for commander in commanders {
            commander.join().map_err(panicked)??;
        }
        result
    })?;
    workers.finish()
}

/// Carries out all faults, and afterwards the crashes of waiters alone.
fn until_calm<'a>(
    round: &Round,
    plan: &Plan,
    (server, proxies): (&mut Server, &[Proxy]),
    workers: &mut Workers,
    crashes: &'a Crashes<'_>,
) -> Result<Waiters<'a>, Failure> {
    thread::scope(|scope| {
        let network = scope.spawn(move || lanes::break_network(round, &plan.network, proxies));
        let server = scope.spawn(|| match server {
            Server::Cluster(cluster) => {
                cluster::break_cluster(round, &plan.server, cluster);
                Ok(())
            }
            Server::Sentinel(set) => {
                let loses = crashes.backend == Backend::Sentinel;
                sentinels::break_set(round, &plan.server, set, loses);
                Ok(())
            }
            Server::Postgres(server) => {
                postgres_faults::break_server(round, &plan.server, server);
                Ok(())
            }
            Server::PostgresPair(pair) => {
                postgres_faults::break_pair(round, &plan.server, pair);
                Ok(())
            }
            Server::Etcd(node) => {
                etcd::break_node(round, &plan.server, node);
                Ok(())
            }
            Server::EtcdCluster(cluster) => {
                etcd::break_cluster(round, &plan.server, cluster);
                Ok(())
            }
            server => lanes::break_server(round, &plan.server, server),
        });
        let waiters = scope.spawn(|| crashes.break_waiters(round, &plan.waiters));
        let broken = lanes::break_workers(round, &plan.workers, workers);
        network.join().map_err(panicked)?;
        server.join().map_err(panicked)??;
        waiters.join().map_err(panicked)??;
        broken
    })?;
    let healthy = crashes.share(&round.record)?;
    round.record.calm(PATIENCE);
    Ok(healthy)
}

fn calm(backend: Backend) -> Duration {
    match backend {
        Backend::Memcached | Backend::File => CALM,
        _ => CALM_OF_A_QUEUE,
    }
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Failure {
    let text = match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic
            .downcast::<&str>()
            .map_or_else(|_| "a panic".to_owned(), |text| (*text).to_owned()),
    };
    text.into()
}

/// Waits until every key was acquired, and some time more, but no longer than the checker allows.
fn wait_for_progress(backend: Backend, histories: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        thread::sleep(CHECK_INTERVAL);
        let patient = start.elapsed() < PATIENCE;
        let calm = calm(backend) - CHECK_INTERVAL;
        if !patient || (start.elapsed() >= calm && all_acquired(backend, histories)?) {
            return Ok(());
        }
    }
}

fn all_acquired(backend: Backend, histories: &Path) -> Result<bool, Failure> {
    let history = History::read(histories)?;
    let calm = history
        .events()
        .iter()
        .rfind(|event| matches!(event.what, What::Calm { .. }));
    let Some(calm) = calm else { return Ok(false) };
    let mut keys: Vec<_> = history
        .events()
        .iter()
        .filter(|event| event.before > calm.before && matches!(event.what, What::Granted { .. }))
        .map(|event| &event.key)
        .collect();
    keys.sort();
    keys.dedup();
    // And the lock that a healthy process shares with crashing ones.
    Ok(keys.len() > backend.locks().len() + command::JOBS.len())
}

fn describe(report: &Report, histories: &Path) -> String {
    let mut kinds: Vec<(Property, &str)> = Vec::new();
    let mut text = String::new();
    for violation in &report.violations {
        // Print the first of each kind; the others are in the histories.
        let kind = match violation.property {
            Property::Command => (violation.property, &*violation.text),
            property => (property, ""),
        };
        if !kinds.contains(&kind) {
            kinds.push(kind);
            text.push_str(&violation.to_string());
        }
    }
    let count = report.violations.len();
    text.push_str(&format!(
        "{count} violations in all; the histories are in {}\n",
        histories.display()
    ));
    text
}

/// The folder of the histories: the user's choice, or a temporary folder that is deleted unless a
/// violation is found.
pub(crate) fn folder(options: &Options) -> Result<(PathBuf, Option<tempfile::TempDir>), Failure> {
    if let Some(keep) = &options.keep {
        fs::create_dir_all(keep)?;
        return Ok((keep.clone(), None));
    }
    let folder = tempfile::Builder::new().prefix("dlock-torture").tempdir()?;
    // The commands may run as another user, which only opens paths that it is given.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
    Ok((folder.path().to_owned(), Some(folder)))
}
