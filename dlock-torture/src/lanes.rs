//! Carries out a plan: each of its lists on a thread of its own.

use std::thread;
use std::time::Duration;

use dlock_core::{Clock, Time};
use dlock_history::{Harm, Recorder};
use dlock_test_servers::RedisServer;
use dlock_test_servers::faults::{self, Proxy};

use crate::Failure;
use crate::backend::{Server, delete_records, evict_all, hold_shards};
use crate::old_data;
use crate::plan::{Fault, Network, Planned, Way};
use crate::workers::Workers;

/// memcached counts seconds itself. After a stop its count is behind for this long.
const CATCHES_UP: Duration = Duration::from_millis(1500);
/// The lifetime of a worker in a loop of crashes, divided by the number of workers.
const CRASHES_EVERY: Duration = Duration::from_millis(50);
/// The value that a foreign client writes to a lock's key.
const STRANGER: &str = "somebody-else";
const DELETE_OWN: &str =
    "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0";
/// The memory limit of a full Redis server: less than it uses.
const NO_ROOM: &str = "1";

/// The start of the round, and the recorder of its faults.
#[derive(Clone)]
pub(crate) struct Round {
    pub(crate) start: Time,
    pub(crate) record: Recorder,
}

impl Round {
    pub(crate) fn wait_for(&self, planned: &Planned) -> Time {
        sleep_until(self.start.saturating_add(planned.at));
        now()
    }
}

/// Breaks the network before all nodes at once.
pub(crate) fn break_network(round: &Round, plan: &[Planned], proxies: &[Proxy]) {
    let all = |act: &dyn Fn(&Proxy)| proxies.iter().for_each(act);
    for planned in plan {
        let since = round.wait_for(planned);
        let until = since.saturating_add(planned.lasts);
        match &planned.fault {
            Fault::CutAll => all(&|proxy| proxy.cut()),
            Fault::RefuseConnections => {
                all(&|proxy| {
                    proxy.refuse();
                    proxy.cut();
                });
                sleep_until(until);
                all(&|proxy| proxy.heal());
            }
            Fault::Network(way, network) => {
                all(&|proxy| set(proxy, *way, *network));
                sleep_until(until);
                all(&|proxy| {
                    // A network never drops bytes from the middle of a stream, so the connections
                    // must be cut.
                    if *network == Network::Lose {
                        proxy.cut();
                    }
                    proxy.heal();
                });
            }
            other => unreachable!("{other:?} is not of the network"),
        }
        round.record.fault(planned.fault.name(), Harm::None, since);
    }
}

fn set(proxy: &Proxy, way: Way, network: Network) {
    let (fault, once) = match network {
        Network::Delay(time) => (faults::Fault::Delay(time), false),
        Network::Hold => (faults::Fault::Hold, false),
        Network::Lose => (faults::Fault::Lose, false),
        Network::Cut(after) => (faults::Fault::Cut { after }, false),
        Network::CutOne(after) => (faults::Fault::Cut { after }, true),
        Network::Split(bytes, every) => (faults::Fault::Split { bytes, every }, false),
    };
    if way != Way::Replies {
        match once {
            true => proxy.requests_once(fault),
            false => proxy.requests(fault),
        }
    }
    if way != Way::Requests {
        match once {
            true => proxy.replies_once(fault),
            false => proxy.replies(fault),
        }
    }
}

pub(crate) fn break_server(
    round: &Round,
    plan: &[Planned],
    server: &mut Server,
) -> Result<(), Failure> {
    for planned in plan {
        let since = round.wait_for(planned);
        let until = since.saturating_add(planned.lasts);
        let (name, harm) = match server {
            Server::Cluster(_)
            | Server::Sentinel(_)
            | Server::Postgres(_)
            | Server::PostgresPair(_)
            | Server::Etcd(_)
            | Server::EtcdCluster(_) => unreachable!("it has faults of its own"),
            Server::Redis(server, clock) => {
                let loses = matches!(
                    planned.fault,
                    Fault::Flush
                        | Fault::KillServer { keeps_data: false }
                        | Fault::OldFile
                        | Fault::OldQueue(_)
                );
                // The plan leaves time for the clock to catch up. If that was not enough, replace
                // the fault by a harmless one.
                let fault = match loses && clock.is_behind() {
                    true => &Fault::FlushScripts,
                    false => &planned.fault,
                };
                let name = fault.name();
                match fault {
                    Fault::KillSubscriptions => {
                        server.command(["CLIENT", "KILL", "TYPE", "PUBSUB"]);
                        (name, Harm::None)
                    }
                    Fault::ForeignHolder(lock) => {
                        hold_as_a_stranger(server, &lock.key(), planned.lasts);
                        (name, Harm::None)
                    }
                    Fault::ForeignSet(lock) => {
                        let (key, ttl) = (lock.key(), planned.lasts.as_millis().to_string());
                        server.command(["SET", &key, STRANGER, "PX", &ttl]);
                        (name, Harm::Loss)
                    }
                    Fault::ForeignDelete(lock) => {
                        server.command(["DEL", &lock.key()]);
                        (name, Harm::Loss)
                    }
                    Fault::StopServer => {
                        server.pause();
                        sleep_until(until);
                        server.resume();
                        (name, Harm::None)
                    }
                    Fault::KillServer { keeps_data: true } => {
                        server.kill();
                        sleep_until(until);
                        server.start_again();
                        (name, Harm::None)
                    }
                    Fault::KillServer { keeps_data: false } => {
                        server.kill();
                        // The data is lost now.
                        round.record.fault(name, Harm::Loss, since);
                        sleep_until(until);
                        server.restart_empty();
                        continue;
                    }
                    Fault::Flush => {
                        server.command(["FLUSHALL"]);
                        (name, Harm::Loss)
                    }
                    Fault::OldFile => {
                        let copy = old_data::copy_file(server)?;
                        sleep_until(until);
                        // The changes since the copy are lost now.
                        let since = now();
                        old_data::bring_file_back(server, &copy)?;
                        round.record.fault(name, Harm::Loss, since);
                        continue;
                    }
                    Fault::OldQueue(lock) => {
                        old_data::copy_queue(server, &lock.key());
                        sleep_until(until);
                        old_data::bring_queue_back(server, &lock.key());
                        (name, Harm::None)
                    }
                    Fault::FlushScripts => {
                        server.command(["SCRIPT", "FLUSH"]);
                        (name, Harm::None)
                    }
                    Fault::Full => {
                        server.config_set("maxmemory", NO_ROOM);
                        sleep_until(until);
                        server.config_set("maxmemory", "0");
                        (name, Harm::None)
                    }
                    Fault::ClockForward(by) => {
                        server.step_clock_forward(*by);
                        clock.stepped(*by, true);
                        (name, Harm::Clock)
                    }
                    Fault::ClockBack(by) => {
                        clock.stepped(*by, false);
                        server.step_clock_back(*by);
                        // This makes leases longer, never shorter.
                        (name, Harm::None)
                    }
                    other => unreachable!("{other:?} is not of Redis"),
                }
            }
            Server::Memcached(server) => match &planned.fault {
                Fault::StopServer => {
                    server.pause();
                    sleep_until(until);
                    server.resume();
                    sleep_until(now().saturating_add(CATCHES_UP));
                    (planned.fault.name(), Harm::Clock)
                }
                Fault::KillServer { .. } => {
                    server.kill();
                    round.record.fault(planned.fault.name(), Harm::Loss, since);
                    sleep_until(until);
                    server.start_again();
                    continue;
                }
                Fault::Flush => {
                    server.command("flush_all");
                    (planned.fault.name(), Harm::Loss)
                }
                Fault::Evict => {
                    evict_all(server.address())?;
                    (planned.fault.name(), Harm::Loss)
                }
                other => unreachable!("{other:?} is not of memcached"),
            },
            Server::Folder(folder) => match &planned.fault {
                Fault::HoldShards => {
                    let shards = hold_shards(folder)?;
                    sleep_until(until);
                    drop(shards);
                    (planned.fault.name(), Harm::None)
                }
                Fault::DeleteRecords => {
                    delete_records(folder)?;
                    (planned.fault.name(), Harm::Loss)
                }
                other => unreachable!("{other:?} is not of a folder"),
            },
        };
        round.record.fault(name, harm, since);
    }
    Ok(())
}

/// Behaves like a client that does not know the queue: tries until it has the lock, and deletes it
/// after a while.
fn hold_as_a_stranger(server: &RedisServer, key: &str, lasts: Duration) {
    let end = now().saturating_add(lasts);
    let ttl = lasts.as_millis().to_string();
    while now() < end {
        let answer = server.command(["SET", key, STRANGER, "NX", "PX", &ttl]);
        if answer.text().as_deref() == Some("OK") {
            sleep_until(now().saturating_add(lasts / 4));
            server.command(["EVAL", DELETE_OWN, "1", key, STRANGER]);
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn break_workers(
    round: &Round,
    plan: &[Planned],
    workers: &mut Workers,
) -> Result<(), Failure> {
    // The stopped workers: when to continue them, and since when they are stopped.
    let mut stopped: Vec<(Duration, usize, Time)> = Vec::new();
    let resume = |stopped: &mut Vec<(Duration, usize, Time)>, workers: &Workers, until| {
        stopped.sort();
        while let Some((at, worker, since)) =
            stopped.first().copied().filter(|(at, ..)| *at <= until)
        {
            sleep_until(round.start.saturating_add(at));
            workers.resume(worker);
            let name = Fault::StopWorker(worker).name();
            round.record.fault(name, Harm::None, since);
            stopped.remove(0);
        }
    };
    for planned in plan {
        resume(&mut stopped, workers, planned.at);
        let since = round.wait_for(planned);
        match planned.fault {
            Fault::StopWorker(worker) => {
                workers.stop(worker);
                stopped.push((planned.at + planned.lasts, worker, since));
                continue;
            }
            Fault::KillWorker(worker) => {
                workers.kill(worker)?;
                sleep_until(since.saturating_add(planned.lasts.min(Duration::from_secs(1))));
                workers.start(worker)?;
            }
            Fault::CrashLoop => {
                let end = since.saturating_add(planned.lasts);
                let mut worker = 0;
                while now() < end {
                    workers.kill(worker)?;
                    workers.start(worker)?;
                    worker = (worker + 1) % workers.count();
                    thread::sleep(CRASHES_EVERY);
                }
            }
            ref other => unreachable!("{other:?} is not of workers"),
        }
        round.record.fault(planned.fault.name(), Harm::None, since);
    }
    resume(&mut stopped, workers, Duration::MAX);
    Ok(())
}

pub(crate) fn sleep_until(time: Time) {
    let left = now().until(time);
    if !left.is_zero() {
        thread::sleep(left);
    }
}

pub(crate) fn now() -> Time {
    Clock::BOOTTIME.now()
}
