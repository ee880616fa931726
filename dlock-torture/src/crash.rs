//! Kills processes while they wait, many at once or again and again, and checks that a healthy
//! process makes progress meanwhile.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dlock_core::{Clock, Datastore, Holder, Time};
use dlock_history::{Harm, Recorder};
use rustix::process::{Pid, Signal, kill_process};

use crate::Failure;
use crate::backend::{Backend, LockSpec};
use crate::lanes::{Round, sleep_until};
use crate::plan::{Fault, Planned};
use crate::random::Random;
use crate::sabotage::Sabotage;
use crate::workers::Watcher;

/// How long a lock is shared with the crashing processes, in all.
pub(crate) const LASTS: Duration = Duration::from_secs(5);
/// For how long the healthy process has the lock alone, in all.
const ALONE: Duration = Duration::from_secs(2);
/// In this number of turns the process has the lock alone and then shares it. The machine may be
/// busy with something else for seconds, which must not hit the one and not the other.
const TURNS: u32 = 4;
/// If the machine is busy all the time, these are not enough for a verdict: others follow, up to
/// this many times as many, and all of them count together.
const MORE_TURNS: u32 = 3;
/// Before a time beside crashing processes counts, each of them has died once.
const WARMS_UP: Duration = Duration::from_millis(LIVES.end);
/// Beside crashing processes it must get the lock at least at one part in this many of the rate
/// that it has alone. The machine may be busy: then each hand-over to another process takes long.
const SHARE: u64 = 6;
/// A process that dies after it was handed the lock keeps it for at most this time, as documented.
const HANDED_FOR: Duration = Duration::from_millis(1200);
/// It must get the lock again within this time after many waiters died. The documentation says
/// about a second.
const AGAIN_WITHIN: Duration = Duration::from_secs(6);
/// The time in which processes start and begin to wait.
const WAITING: Duration = Duration::from_millis(900);
/// The lifetime of a process that crashes in a loop.
const LIVES: std::ops::Range<u64> = 400..800;
const ENDS_WITHIN: Duration = Duration::from_secs(45);

/// Starts and kills the waiters of one round.
pub(crate) struct Crashes<'a> {
    pub(crate) backend: Backend,
    pub(crate) url: &'a str,
    pub(crate) histories: &'a Path,
    pub(crate) seed: u64,
    pub(crate) sabotage: Option<Sabotage>,
}

/// Waiting processes. They are killed when this is dropped, or when this process is gone.
pub(crate) struct Waiters<'a> {
    of: &'a Crashes<'a>,
    running: Vec<Child>,
    watcher: Watcher,
}

/// Processes that wait, are killed, and start again.
struct CrashLoop<'a> {
    actor: &'a str,
    name: LockSpec,
    /// Each process, and when it is killed.
    slots: Vec<(Waiters<'a>, Time)>,
    orphans: Option<Orphans>,
    random: Random,
    started: u64,
}

/// Records what the killed leave behind.
struct Orphans {
    store: Box<dyn Datastore>,
    record: Recorder,
    /// All that were killed. The claim of one may still be on its way when it is dead.
    killed: BTreeSet<u32>,
}

/// How often a process was granted its lock, in the time that this really took.
#[derive(Default)]
struct Pace {
    lasts: Duration,
    grants: usize,
}

/// How a waiter uses its lock.
#[derive(Clone, Copy)]
struct Habit {
    threads: u64,
    holds: Duration,
}

const CRASHES: Habit = Habit {
    threads: 1,
    holds: Duration::ZERO,
};

impl Crashes<'_> {
    /// Carries out the planned crashes during the time of all other faults.
    pub(crate) fn break_waiters(&self, round: &Round, plan: &[Planned]) -> Result<(), Failure> {
        for (number, planned) in plan.iter().enumerate() {
            sleep_until(round.start.saturating_add(planned.at));
            let since = Clock::BOOTTIME.now();
            let random = Random::new(self.seed, &[6, number as u64]);
            match planned.fault {
                Fault::DeadWaiters(name, processes, threads) => {
                    self.many_die(&format!("dead-{number}"), name, processes, threads)?;
                }
                Fault::CrashingWaiters(name, processes) => {
                    let actor = format!("loop-{number}");
                    let mut crash_loop = self.crash_loop(&actor, name, processes, random)?;
                    crash_loop.run_until(since.saturating_add(planned.lasts))?;
                }
                ref other => unreachable!("{other:?} is not of waiters"),
            }
            round.record.fault(planned.fault.name(), Harm::None, since);
        }
        Ok(())
    }

    /// After the other faults, lets a healthy process and crashing ones share a lock. The healthy
    /// process continues afterwards.
    pub(crate) fn share(&self, record: &Recorder) -> Result<Waiters<'_>, Failure> {
        let name = self.backend.crash_lock();
        let mut random = Random::new(self.seed, &[7]);
        let mut healthy = self.waiters()?;
        let habit = Habit {
            threads: 1,
            // The lock is hardly ever free, so the crashing processes wait for it and rarely die as
            // its holder.
            holds: Duration::from_millis(20),
        };
        healthy.start("healthy", name, habit)?;
        self.wait_for_grants("healthy", 1, AGAIN_WITHIN * 2)?;
        self.take_turns(&healthy, record, &random)?;
        let processes = random.pick(&[1, 5, 8, 12]);
        let threads = random.pick(&[1, 1, 3, 8]);
        if self.starves() {
            healthy.signal(Signal::STOP);
        }
        let since = Clock::BOOTTIME.now();
        let died = self.many_die("dead", name, processes, threads)?;
        record.fault("dead-waiters", Harm::None, since);
        let before = self.grants("healthy")?;
        self.wait_for_grants("healthy", before + 1, AGAIN_WITHIN)?;
        healthy.signal(Signal::CONT);
        record.thrives(&name.key(), "healthy", 1, died, AGAIN_WITHIN);
        Ok(healthy)
    }

    /// Leaves the lock to the healthy process alone and lets crashing ones share it, in turns.
    fn take_turns(
        &self,
        healthy: &Waiters<'_>,
        record: &Recorder,
        random: &Random,
    ) -> Result<(), Failure> {
        let name = self.backend.crash_lock();
        let (key, begin) = (name.key(), Clock::BOOTTIME.now());
        let mut crash_loop = self.crash_loop("loop", name, 3, random.clone())?;
        crash_loop.orphans = Some(Orphans {
            store: self.backend.open(self.url, &mut random.clone())?,
            record: record.clone(),
            killed: BTreeSet::new(),
        });
        let (mut alone, mut beside) = (Pace::default(), Pace::default());
        let turns = self.turns();
        for turn in 1..=MORE_TURNS * turns {
            let since = Clock::BOOTTIME.now();
            let before = self.grants("healthy")?;
            thread::sleep(ALONE / turns);
            record.paced(&key, "healthy", None, since);
            alone.add(since, self.grants("healthy")? - before);
            crash_loop.run_until(Clock::BOOTTIME.now().saturating_add(WARMS_UP))?;
            let since = Clock::BOOTTIME.now();
            let before = self.grants("healthy")?;
            if self.starves() {
                // A little is not enough.
                crash_loop.run_until(since.saturating_add(LASTS / turns / 12))?;
                healthy.signal(Signal::STOP);
            }
            crash_loop.run_until(since.saturating_add(LASTS / turns))?;
            record.paced(&key, "healthy", Some(self.share_of_a_healthy_one()), since);
            beside.add(since, self.grants("healthy")? - before);
            healthy.signal(Signal::CONT);
            crash_loop.kill();
            // With the second grant all that the dead have left behind is over.
            let before = self.grants("healthy")?;
            self.wait_for_grants("healthy", before + 2, AGAIN_WITHIN)?;
            let is_enough = beside.is_share(self.share_of_a_healthy_one(), &alone);
            if turn >= turns && (is_enough || self.starves()) {
                break;
            }
        }
        record.fault("crashing-waiters", Harm::None, begin);
        Ok(())
    }

    fn starves(&self) -> bool {
        self.sabotage == Some(Sabotage::Starves)
    }

    fn turns(&self) -> u32 {
        match self.backend {
            // Who was killed in the last three seconds costs the others 1.2 seconds, as documented.
            // A grant may take longer than a turn of a few.
            Backend::Cluster => 1,
            // What a process leaves that dies is there for longer than a turn of a few.
            Backend::Etcd | Backend::EtcdCluster => 1,
            _ => TURNS,
        }
    }

    fn share_of_a_healthy_one(&self) -> u64 {
        match self.backend {
            // A hand-over to a process that was killed a moment ago costs the others 1.2 seconds:
            // the nodes do not say who receives messages. One grant in all is enough.
            Backend::Cluster => u64::MAX,
            // The place of a process that was killed is there until its lease ends, up to five
            // seconds later, as documented.
            Backend::Etcd | Backend::EtcdCluster => u64::MAX,
            _ => SHARE,
        }
    }

    /// Lets `processes` processes with `threads` threads each wait, and kills them. Returns the
    /// time of the kill.
    fn many_die(
        &self,
        actor: &str,
        name: LockSpec,
        processes: u64,
        threads: u64,
    ) -> Result<Time, Failure> {
        let mut waiters = self.waiters()?;
        for number in 0..processes {
            let habit = Habit { threads, ..CRASHES };
            waiters.start(&format!("{actor}-{number}"), name, habit)?;
        }
        thread::sleep(WAITING);
        waiters.kill();
        Ok(Clock::BOOTTIME.now())
    }

    /// Processes that wait for `name`. The first start when the loop runs.
    fn crash_loop<'a>(
        &'a self,
        actor: &'a str,
        name: LockSpec,
        processes: u64,
        random: Random,
    ) -> Result<CrashLoop<'a>, Failure> {
        let now = Clock::BOOTTIME.now();
        let slots = (0..processes).map(|_| Ok((self.waiters()?, now)));
        Ok(CrashLoop {
            actor,
            name,
            slots: slots.collect::<Result<_, Failure>>()?,
            orphans: None,
            random,
            started: 0,
        })
    }

    /// The number of grants to an actor.
    fn grants(&self, actor: &str) -> Result<usize, Failure> {
        let text = fs::read_to_string(self.histories.join(format!("{actor}.history")));
        Ok(text.unwrap_or_default().matches(" granted ").count())
    }

    fn wait_for_grants(&self, actor: &str, count: usize, within: Duration) -> Result<(), Failure> {
        let start = Instant::now();
        while self.grants(actor)? < count && start.elapsed() < within {
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn waiters(&self) -> Result<Waiters<'_>, Failure> {
        Ok(Waiters {
            of: self,
            running: Vec::new(),
            watcher: Watcher::start()?,
        })
    }
}

impl Pace {
    fn add(&mut self, since: Time, grants: usize) {
        self.lasts += since.until(Clock::BOOTTIME.now());
        self.grants += grants;
    }

    /// Whether this is one part in `share` of the rate that it has alone, as the checker of the
    /// history counts it, but for the time in which the lock belonged to the dead.
    fn is_share(&self, share: u64, alone: &Pace) -> bool {
        let parts = alone.lasts.as_nanos().max(1) * u128::from(share);
        let least = (alone.grants as u128 * self.lasts.as_nanos() / parts).max(1);
        self.grants as u128 >= least
    }
}

impl CrashLoop<'_> {
    /// Kills each process after its time, and starts another.
    fn run_until(&mut self, until: Time) -> Result<(), Failure> {
        while Clock::BOOTTIME.now() < until {
            for (waiters, dies) in &mut self.slots {
                if Clock::BOOTTIME.now() < *dies {
                    continue;
                }
                let (died, killed) = (Clock::BOOTTIME.now(), waiters.process());
                waiters.kill();
                if let (Some(process), Some(orphans)) = (killed, &mut self.orphans) {
                    orphans.look(self.name, process, died);
                }
                let actor = format!("{}-{}", self.actor, self.started);
                waiters.start(&actor, self.name, CRASHES)?;
                *dies = Clock::BOOTTIME
                    .now()
                    .saturating_add(self.random.millis(LIVES));
                self.started += 1;
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Kills all. Others start when the loop runs again.
    fn kill(&mut self) {
        for (waiters, dies) in &mut self.slots {
            waiters.kill();
            *dies = Clock::BOOTTIME.now();
        }
    }
}

impl Orphans {
    /// Records whether this process, which was just killed, has left its lock taken, or an earlier
    /// one has by now.
    fn look(&mut self, name: LockSpec, process: u32, died: Time) {
        self.killed.insert(process);
        let (key, looked) = (name.key(), Clock::BOOTTIME.now());
        let held = self.store.inspect().map(|inspect| inspect.holder(&key));
        let Some(Ok(Some(held))) = held else {
            return;
        };
        let holder = held.holder().map(Holder::pid);
        let since = match holder {
            Some(pid) if pid == process => died,
            Some(pid) if self.killed.contains(&pid) => looked,
            _ => return,
        };
        if let Some(left) = held.expires_in() {
            let granularity = self.store.characteristics().granularity;
            let longest = HANDED_FOR.max(name.ttl.saturating_add(granularity));
            self.record.orphaned(&key, since, left.min(longest));
        }
    }
}

impl Waiters<'_> {
    /// The id of the first one.
    fn process(&self) -> Option<u32> {
        self.running.first().map(Child::id)
    }

    fn start(&mut self, actor: &str, name: LockSpec, habit: Habit) -> Result<(), Failure> {
        let Crashes {
            backend,
            url,
            histories,
            seed,
            ..
        } = self.of;
        let errors = File::create(histories.join(format!("{actor}.stderr")))?;
        let child = Command::new(env::current_exe()?)
            .args(["waiter", backend.name(), url])
            .arg(histories)
            .args([
                actor,
                &seed.to_string(),
                name.id,
                &habit.threads.to_string(),
            ])
            .args([name.ttl, habit.holds].map(|time| time.as_millis().to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()?;
        self.watcher.send('+', &child);
        self.running.push(child);
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        for child in &self.running {
            // The process is not reaped yet, so its id is not reused even if it is dead.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    fn kill(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
        }
        for mut child in self.running.drain(..) {
            // In this order: while the watcher may kill an id, it must belong to this child.
            self.watcher.send('-', &child);
            let _ = child.wait();
        }
    }

    /// Asks the waiters to end, and waits until they have.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        let asked = Instant::now();
        for child in &mut self.running {
            drop(child.stdin.take());
        }
        while asked.elapsed() < ENDS_WITHIN {
            let mut ended = true;
            for child in &mut self.running {
                match child.try_wait()? {
                    Some(status) if status.success() => {}
                    Some(status) => {
                        let folder = self.of.histories.display();
                        let text =
                            format!("a waiter ended ({status}); see the .stderr files in {folder}");
                        return Err(text.into());
                    }
                    None => ended = false,
                }
            }
            if ended {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err("a waiter hangs".into())
    }
}

impl Drop for Waiters<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_took_long_wants_as_many_grants_as_the_checker_does() {
        let pace = |seconds, grants| Pace {
            lasts: Duration::from_secs(seconds),
            grants,
        };
        // Eight in two seconds alone: of these, a sixth in five seconds is three, in 18 it is 12.
        assert!(pace(5, 3).is_share(6, &pace(2, 8)));
        assert!(!pace(5, 2).is_share(6, &pace(2, 8)));
        assert!(!pace(18, 4).is_share(6, &pace(2, 8)));
        assert!(pace(18, 12).is_share(6, &pace(2, 8)));
        // One at least.
        assert!(!pace(5, 0).is_share(6, &pace(2, 0)));
        assert!(pace(5, 1).is_share(u64::MAX, &pace(2, 8)));
    }
}
