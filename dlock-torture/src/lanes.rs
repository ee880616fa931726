//! Carries out what is planned: each list of a plan on a thread of its own.

use std::thread;
use std::time::Duration;

use dlock_core::{Clock, Time};
use dlock_testkit::faults::{self, Proxy};
use dlock_testkit::history::{Harm, Recorder};
use dlock_testkit::servers::RedisServer;

use crate::backend::{Server, crowd_out, delete_records, hold_shards};
use crate::plan::{Fault, Network, Planned, Way};
use crate::workers::Workers;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// memcached reckons in a second that it counts itself, and is behind for so long after it was stopped.
const CATCHES_UP: Duration = Duration::from_millis(1500);
/// What a client that is none of ours writes at a lock's key.
const STRANGER: &str = "somebody-else";
const DELETE_OWN: &str =
    "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0";
/// What a full Redis server is allowed: less than it has.
const NO_ROOM: &str = "1";

/// When the round began, and where its faults are recorded.
#[derive(Clone)]
pub(crate) struct Round {
    pub(crate) start: Time,
    pub(crate) record: Recorder,
}

impl Round {
    fn wait_for(&self, planned: &Planned) -> Time {
        sleep_until(self.start.saturating_add(planned.at));
        now()
    }
}

pub(crate) fn break_network(round: &Round, plan: &[Planned], proxy: &Proxy) {
    for planned in plan {
        let since = round.wait_for(planned);
        let until = since.saturating_add(planned.lasts);
        match &planned.fault {
            Fault::CutAll => proxy.cut(),
            Fault::RefuseConnections => {
                proxy.refuse();
                proxy.cut();
                sleep_until(until);
                proxy.heal();
            }
            Fault::Network(way, network) => {
                set(proxy, *way, *network);
                sleep_until(until);
                // A stream that lacks bytes in its middle is nothing that a network makes.
                if *network == Network::Lose {
                    proxy.cut();
                }
                proxy.heal();
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
            Server::Redis(server, clock) => {
                let loses = matches!(
                    planned.fault,
                    Fault::Flush | Fault::KillServer { keeps_data: false }
                );
                // The plan leaves time for the clock to catch up; if that was not enough, something harmless is done.
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
                        // What is lost is lost now.
                        round.record.fault(name, Harm::Loss, since);
                        sleep_until(until);
                        server.restart_empty();
                        continue;
                    }
                    Fault::Flush => {
                        server.command(["FLUSHALL"]);
                        (name, Harm::Loss)
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
                        // Leases live longer by it, none shorter.
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
                    crowd_out(server.address())?;
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

/// As a client does that knows nothing of the queue: tries until it has the lock, and deletes it after a while.
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
    // When who is to go on, and since when it is stopped.
    let mut stopped: Vec<(Duration, usize, Time)> = Vec::new();
    let go_on = |stopped: &mut Vec<(Duration, usize, Time)>, workers: &Workers, until| {
        stopped.sort();
        while let Some((at, worker, since)) =
            stopped.first().copied().filter(|(at, ..)| *at <= until)
        {
            sleep_until(round.start.saturating_add(at));
            workers.go_on(worker);
            let name = Fault::StopWorker(worker).name();
            round.record.fault(name, Harm::None, since);
            stopped.remove(0);
        }
    };
    for planned in plan {
        go_on(&mut stopped, workers, planned.at);
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
            ref other => unreachable!("{other:?} is not of workers"),
        }
        round.record.fault(planned.fault.name(), Harm::None, since);
    }
    go_on(&mut stopped, workers, Duration::MAX);
    Ok(())
}

pub(crate) fn sleep_until(time: Time) {
    let left = now().until(time);
    if !left.is_zero() {
        thread::sleep(left);
    }
}

fn now() -> Time {
    Clock::BOOTTIME.now()
}
